"""Context without attention: what the images of a bag say, side by side. Not in the paper."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from volattn.models.volumetric_attention import ContextModule, Descriptors, Refined


class StackedContext(ContextModule):
    """Adds to a target's feature map what the images of its bag say of each place, each in its own words.

        e(X) = W X                                          3 x 3, C -> K, no bias
        X'   = X_tgt + V relu([e(X_1), ..., e(X_N)]) + b    1 x 1, N K -> C

    Volumetric attention gates with what the bag says, and a gate can only turn down what the target shows itself
    (`docs/explanation/claim.md`). Here it is added, and slices keep their order. As with attention an image is
    described once, whatever number of targets use it, and leaves K maps behind. V and b start at 0: a pretrained
    network is what it was.

    It stands where `VolumetricAttention` does, but for a fixed N.

    Args:
        channels: C.
        bag: N, odd.
        maps: K.
        kernel_size: Odd side of the embedding's convolution.
    """

    def __init__(self, channels: int, bag: int, maps: int = 8, kernel_size: int = 3) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, maps, kernel_size, padding=kernel_size // 2, bias=False)
        self.mix = nn.Conv2d(bag * maps, channels, 1)
        nn.init.zeros_(self.mix.weight)
        assert self.mix.bias is not None
        nn.init.zeros_(self.mix.bias)

    def describe(self, features: Tensor) -> Descriptors:
        """e of raw maps (B, C, H, W): (B, K, H, W)."""
        return Descriptors(None, self.embed(features))

    def refine_with_weights(self, target: Tensor, descriptors: Descriptors, bags: Tensor) -> Refined:
        """X' (M, C, H, W); no image is weighed."""
        assert descriptors.spatial is not None
        told = F.relu(descriptors.spatial[bags].flatten(1, 2))
        return Refined(target + self.mix(told), None, None)
