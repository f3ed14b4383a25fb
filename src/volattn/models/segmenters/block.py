"""3D segmenters: the bag of a target is a block of contiguous slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volattn.models.architectures import BLOCK_SLICES
from volattn.models.bag_backbone import Attended, Pyramid
from volattn.models.config import ModelConfig
from volattn.models.precision import full
from volattn.models.segmenters.segmenter import BagSegmenter, nested_probabilities, segmentation_losses
from volattn.models.weights import load_extra


class BlockSegmenter(BagSegmenter):
    """A 3D network on the block that a bag makes: bag centres are 3 apart, and 3 slices stand for each of N images.

    encode does what is done slice by slice, attend hands on the bag, detect puts the block together. The network learns
    from all its slices, and speaks for all of them when a volume is predicted; of a target alone, detect takes its own.
    Where a bag is clamped at the end of the volume, slices are repeated.

    The module is abstract in `volume`.

    Args:
        config: The network.
        backbone: From (B, S, H, W) to maps (B, 3 c, h, w): c channels of each of the 3 slices, slice by slice.
        classes: K, background not counted.
    """

    def __init__(self, config: ModelConfig, backbone: nn.Module, classes: int) -> None:
        super().__init__(config, backbone, {}, classes)

    def volume(self, block: Mapping[str, Tensor]) -> Tensor:
        """Scores of every slice of a block.

        Args:
            block: Maps (M, c, 3 N, h, w).

        Returns:
            (M, K + 1, 3 N, H, W), the background first.
        """
        raise NotImplementedError("a 3D segmenter defines volume")

    def reference(self, targets: Sequence[dict[str, Tensor]], size: tuple[int, int]) -> Tensor:
        """(M, 3 N, H, W): the classes of every slice of the blocks."""
        return torch.stack([target["window"] for target in targets]).long()

    def losses(self, attended: Attended, size: tuple[int, int], labels: Tensor) -> dict[str, Tensor]:
        """Means over the slices of the blocks; see `BagSegmenter.losses`.

        Args:
            attended: The M targets after attention.
            size: (H, W) of the input images.
            labels: (M, 3 N, H, W) from 0.
        """
        scores = self.volume(self.block(attended)).movedim(2, 1)
        return segmentation_losses(self.config.segmentation, scores.flatten(0, 1), labels.flatten(0, 1))

    def speak(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K, 3 N, H, W); see `BagBackbone.speak`."""
        return nested_probabilities(full(self.volume(self.block(attended))))

    def logits(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K + 1, H, W): the middle slices of the blocks; see `BagSegmenter.logits`."""
        scores = self.volume(self.block(attended))
        return scores[:, :, scores.shape[2] // 2]

    def block(self, attended: Attended) -> Pyramid:
        """The maps of the targets' bags, (M, c, 3 N, h, w) each."""
        assert attended.regions is not None
        bags = attended.regions.bags
        return {name: _block(maps[bags]) for name, maps in attended.regions.pyramid.items()}


class UNet3D(BlockSegmenter):
    """The 3D U-Net (Cicek et al. 2016) in the make of MONAI's DynUNet: instance norm, strided convolutions.

    z is halved twice, rows and columns four times.

    Args:
        config: The network.
        classes: K, background not counted.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__(config, Slices(), classes)
        monai = load_extra(config.name, "monai.networks.nets.dynunet")
        strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)]
        self.network: nn.Module = monai.DynUNet(
            3,
            1,
            classes + 1,
            kernel_size=[3] * len(strides),
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=[min(320, config.segmentation.width * 2**level) for level in range(len(strides))],
            norm_name=("INSTANCE", {"affine": True}),
        )
        # MONAI holds every block twice, in these lists and nested as it runs; files want one name for each.
        for name in ("input_block", "downsamples", "bottleneck", "upsamples"):
            delattr(self.network, name)

    def volume(self, block: Mapping[str, Tensor]) -> Tensor:
        """See `BlockSegmenter.volume`."""
        (ct,) = block.values()
        padded = padded_to(ct, (4, 16, 16))
        return cropped_to(self.network(padded), ct.shape[-3:])


class Slices(nn.Module):
    """The middle 3 slices of each image, as they are."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, S, H, W) -> {"ct": (B, 3, H, W)}."""
        first = (images.shape[1] - BLOCK_SLICES) // 2
        return {"ct": images[:, first : first + BLOCK_SLICES]}


def padded_to(block: Tensor, multiples: Sequence[int]) -> Tensor:
    """A block (M, c, z, y, x) whose sides are multiples, its last slices, rows and columns repeated."""
    more = [-side % multiple for side, multiple in zip(block.shape[-3:], multiples, strict=True)]
    return F.pad(block, (0, more[2], 0, more[1], 0, more[0]), mode="replicate")


def cropped_to(block: Tensor, shape: Sequence[int]) -> Tensor:
    """The first slices, rows and columns of a block (M, c, z, y, x)."""
    deep, high, wide = shape
    return block[..., :deep, :high, :wide]


def _block(bag: Tensor) -> Tensor:
    """(M, N, 3 c, h, w) -> (M, c, 3 N, h, w)."""
    slices = bag.unflatten(2, (BLOCK_SLICES, -1)).flatten(1, 2)
    return slices.movedim(1, 2)
