"""Deformable convolutions that start as the plain ones they replace."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from volattn.models.config import DeformableConfig


class DeformableConv(DeformConv2d):
    """A convolution that reads each of its taps from a place that it learns.

    Offsets, and the weights of the modulated one, come from a convolution of the same shape that starts at zero: the
    module then is the plain convolution, up to float rounding. Its own weight has the plain one's name.

    Args:
        plain: The convolution that it replaces, square and padded to keep the size; its weight is taken over.
        modulated: Whether each sampled value is weighed by 2 sigmoid(m).
    """

    def __init__(self, plain: nn.Conv2d, modulated: bool) -> None:
        side, stride, dilation = plain.kernel_size[0], plain.stride[0], plain.dilation[0]
        shape = (side, stride, dilation * (side // 2), dilation)
        super().__init__(
            plain.in_channels, plain.out_channels, *shape, groups=plain.groups, bias=plain.bias is not None
        )
        self.weight, self.bias = plain.weight, plain.bias
        self.taps = side * side
        self.modulated = modulated
        self.offset = nn.Conv2d(plain.in_channels, (3 if modulated else 2) * self.taps, *shape)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        found = self.offset(features)
        # torchvision's kernels know no bfloat16, and places need more than its three digits.
        features, found = features.to(self.weight.dtype), found.to(self.weight.dtype)
        if not self.modulated:
            return super().forward(features, found)
        places, weights = found.split([2 * self.taps, self.taps], dim=1)
        return super().forward(features, places, 2 * torch.sigmoid(weights))


def make_deformable(body: nn.Module, config: DeformableConfig) -> None:
    """Replaces the 3x3 convolutions in some stages of a ResNet, in place.

    Args:
        body: With torchvision's names.
        config: Which stages; 2 is "layer1".
    """
    for stage in config.stages:
        for block in body.get_submodule(f"layer{stage - 1}").children():
            for name in ("conv1", "conv2"):
                plain = getattr(block, name)
                if plain.kernel_size == (3, 3):
                    setattr(block, name, DeformableConv(plain, config.modulated))
