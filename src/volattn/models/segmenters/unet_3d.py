"""3D segmenters: the bag of a target is a block of contiguous slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from volattn.config import Channels, Images
from volattn.models.bag_backbone import Attended, Pyramid
from volattn.models.config import BLOCK_SLICES, FusingConfig, Mean, Std, Window
from volattn.models.precision import full
from volattn.models.segmenters.segmenter import (
    BagSegmenter,
    SegmentationConfig,
    SegmenterConfig,
    nested_probabilities,
    segmentation_losses,
)
from volattn.models.weights import load_extra


class BlockSegmentationConfig(SegmentationConfig):
    """See `SegmentationConfig`.

    Attributes:
        step: From one window to the next in prediction, as a share of the window; rounded down to a multiple of 3
            slices, at least 3.
    """

    step: float = Field(0.5, gt=0, le=1)


class BlockConfig(FusingConfig, SegmenterConfig):
    """A 3D network on the block that a bag makes."""

    bag: Images = 5
    mean: Mean = (0.5,)
    std: Std = (0.25,)
    segmentation: BlockSegmentationConfig = BlockSegmentationConfig()

    @property
    def window(self) -> Window:
        """The block; the step is a multiple of 3, so that windows share their images."""
        step = max(1, int(self.segmentation.step * self.bag))
        return Window(BLOCK_SLICES * self.bag, BLOCK_SLICES * step)


class UNet3DSegmentationConfig(BlockSegmentationConfig):
    """See `BlockSegmentationConfig`.

    Attributes:
        width: Channels at full resolution, doubled at each coarser level, up to 320.
    """

    width: Channels = Field(32, ge=4)


class UNet3DConfig(BlockConfig):
    """The 3D U-Net."""

    summary: ClassVar[str] = "a 3D U-Net on the block that a bag makes"
    package: ClassVar[str | None] = "monai"

    name: Literal["unet_3d"] = "unet_3d"
    slices: Literal[3] = 3
    segmentation: UNet3DSegmentationConfig = UNet3DSegmentationConfig()


class BlockSegmenter(BagSegmenter):
    """A 3D network on the block that a bag makes: bag centres are 3 apart, and each of N images gives 3 slices.

    encode does what is done slice by slice, attend hands on the bag, detect puts the block together. The network learns
    from all its slices, and predicts all of them; of a target alone, detect takes its own. Where a bag is clamped at
    the end of the volume, slices are repeated.

    The module is abstract in `volume`.

    Args:
        backbone: From (B, S, H, W) to maps (B, 3 c, h, w): c channels of each of the 3 slices, slice by slice.
    """

    def __init__(self, config: BlockConfig, backbone: nn.Module, classes: int) -> None:
        super().__init__(config, backbone, {}, classes)

    def volume(self, block: Mapping[str, Tensor]) -> Tensor:
        """Scores (M, K + 1, 3 N, H, W) of every slice, the background first, from maps (M, c, 3 N, h, w)."""
        raise NotImplementedError("a 3D segmenter defines volume")

    def losses(self, attended: Attended, size: tuple[int, int], labels: Tensor) -> dict[str, Tensor]:
        """Means over the slices of the blocks, from their classes (M, 3 N, H, W)."""
        scores = self.volume(self.block(attended)).movedim(2, 1)
        return segmentation_losses(self.config.segmentation, scores.flatten(0, 1), labels.flatten(0, 1))

    def predict_window(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K, 3 N, H, W); see `BagBackbone.predict_window`."""
        return nested_probabilities(full(self.volume(self.block(attended))))

    def block(self, attended: Attended) -> Pyramid:
        """The maps of the targets' bags, (M, c, 3 N, h, w) each."""
        assert attended.regions is not None
        bags = attended.regions.bags
        return {name: _block(maps[bags]) for name, maps in attended.regions.pyramid.items()}


class UNet3D(BlockSegmenter):
    """The 3D U-Net (Cicek et al. 2016) in the make of MONAI's DynUNet: instance norm, strided convolutions.

    z is halved twice, rows and columns four times.
    """

    def __init__(self, config: UNet3DConfig, classes: int) -> None:
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
