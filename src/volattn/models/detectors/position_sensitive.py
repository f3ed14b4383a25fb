"""Position-sensitive regions: each of the k x k cells of a region reads maps of its own (R-FCN, 3DCE)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import ps_roi_align, ps_roi_pool

from volattn.config import Channels, Images
from volattn.models.bag_backbone import AttendedMaps, ContextDescriptors, Pyramid
from volattn.models.config import VGG16, AttendingConfig, BackboneConfig, FusingConfig, Mean, Std
from volattn.models.detectors.rcnn import BagRCNN, RPNConfig, TwoStageConfig
from volattn.models.detectors.roi_heads import BoxHeadsConfig, BoxLossConfig, Branch, box_predictor, fully_connected
from volattn.models.precision import full


class PositionSensitiveConfig(TwoStageConfig):
    """Position-sensitive regions of one map."""

    backbone: BackboneConfig = VGG16
    rpn: RPNConfig = RPNConfig(anchor_sizes=((16, 24, 32, 48, 96),))

    def _check_backbone(self) -> None:
        if not self.backbone.single_map:
            raise ValueError(f"{self.name} takes one map: set backbone.name=vgg16, found {self.backbone.name}")


class RFCNConfig(AttendingConfig, PositionSensitiveConfig):
    """R-FCN."""

    summary: ClassVar[str] = "position-sensitive score maps, averaged"

    name: Literal["rfcn"] = "rfcn"
    roi_heads: BoxLossConfig = BoxLossConfig()


class FusedHeadsConfig(BoxHeadsConfig):
    """3DCE's heads.

    Attributes:
        position_channels: Channels of a position-sensitive region.
    """

    representation_size: Channels = 2048
    position_channels: Channels = 10


class ThreeDCEConfig(FusingConfig, PositionSensitiveConfig):
    """3DCE; M is `bag`."""

    summary: ClassVar[str] = "position-sensitive maps of M images, fused before the last layer"

    name: Literal["three_dce", "improved_rfcn", "data_level_fusion"] = "three_dce"
    bag: Images = 3
    roi_heads: FusedHeadsConfig = FusedHeadsConfig()


class ImprovedRFCNConfig(ThreeDCEConfig):
    """Improved R-FCN."""

    summary: ClassVar[str] = "three_dce with M = 1"

    name: Literal["improved_rfcn", "data_level_fusion"] = "improved_rfcn"
    bag: Literal[1] = 1


class DataLevelFusionConfig(ImprovedRFCNConfig):
    """Data-level fusion."""

    summary: ClassVar[str] = "three_dce with M = 1 and 11 slices as channels"

    name: Literal["data_level_fusion"] = "data_level_fusion"
    slices: Images = 11
    mean: Mean = (0.449,)
    std: Std = (0.226,)


POSITION = "position"
"""Under which name context keeps the maps of 3DCE."""


class PositionSensitivePool(nn.Module):
    """Pools (B, D k k, h, w) to regions (R, D, k, k): cell (i, j) of channel d reads map d k k + i k + j.

    Args:
        side: k.
        pooling: "pool" (cells rounded to the map's pixels, as published) or "align" (bilinear).
        stride: Input pixels to a pixel of the map.
    """

    def __init__(self, side: int, pooling: str, stride: int) -> None:
        super().__init__()
        self.side, self.pooling, self.stride = side, pooling, stride

    def forward(self, maps: Tensor, boxes: list[Tensor] | Tensor) -> Tensor:
        """The regions of boxes (r, 4) per image, xyxy in input pixels, or of (R, 5) with the image's index first."""
        maps = full(maps)  # torchvision's kernels for a CPU know no bfloat16.
        if self.pooling == "pool":
            return ps_roi_pool(maps, boxes, self.side, 1 / self.stride)
        return ps_roi_align(maps, boxes, self.side, 1 / self.stride, sampling_ratio=2)


class ScorePool(nn.Module):
    """R-FCN's pooling: a 1x1 convolution with ReLU, one that makes the maps, and position-sensitive regions.

    The map has `channels` C, a region `outputs` D scores.
    """

    def __init__(self, channels: int, outputs: int, pool: PositionSensitivePool) -> None:
        super().__init__()
        self.hidden = position_conv(channels, channels)
        self.maps = position_conv(channels, outputs * pool.side**2)
        self.pool = pool

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """(R, D, k, k); see `RoundedPool.forward`."""
        (only,) = features.values()
        return self.pool(self.maps(torch.relu(self.hidden(only))), boxes)


class Vote(nn.Module):
    """R-FCN's last step: the cells of a region vote with equal weight. K classes, background counted."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 5 K, k, k) -> class scores (R, K), box regression (R, 4 K)."""
        scores = regions.mean(dim=(-2, -1))
        return scores[:, : self.classes], scores[:, self.classes :]


class FusedPool(nn.Module):
    """3DCE's pooling: a target's regions in every image of its bag, side by side as channels, in the bag's order."""

    def __init__(self, pool: PositionSensitivePool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, features: AttendedMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """(R, M D, k, k); see `BagRoIAlign.forward`."""
        regions = features.attended.regions
        assert regions is not None
        maps = regions.pyramid[POSITION]
        counts = torch.tensor([len(of_target) for of_target in boxes], device=regions.bags.device)
        images = regions.bags.repeat_interleave(counts, dim=0).to(boxes[0])
        places = torch.cat(boxes)
        pooled = [self.pool(maps, torch.cat([image[:, None], places], dim=1)) for image in images.unbind(1)]
        return torch.cat(pooled, dim=1)


def score_branch(config: PositionSensitiveConfig, channels: int, classes: int) -> Branch:
    """R-FCN's: scores from the pooling itself."""
    pool = ScorePool(channels, 5 * (classes + 1), _pool(config))
    return Branch(pool, nn.Identity(), Vote(classes + 1))


def fused_branch(config: ThreeDCEConfig, channels: int, classes: int) -> Branch:
    """3DCE's: position-sensitive regions of the bag's images, one fully connected layer over them all."""
    heads = config.roi_heads
    inputs = config.images * heads.position_channels * heads.box_output_size**2
    return Branch(FusedPool(_pool(config)), fully_connected(inputs, heads, layers=1), box_predictor(heads, classes))


class ThreeDCE(BagRCNN):
    """3DCE (Yan et al., MICCAI 2018): M images of 3 slices through shared features, fused before the last layers.

    The proposals are those of the target's image alone. M = 1 is the Improved R-FCN, with 11 slices as channels
    data-level fusion.
    """

    def __init__(self, config: ThreeDCEConfig, classes: int) -> None:
        super().__init__(config, classes, branch=fused_branch)
        heads = config.roi_heads
        self.position_maps = position_conv(self.channels, heads.position_channels * heads.box_output_size**2)

    def describe_regions(self, pyramid: Pyramid) -> ContextDescriptors:
        """The position-sensitive maps of each image, (B, D k k, h, w)."""
        (only,) = pyramid.values()
        return {POSITION: self.position_maps(only)}


def position_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that starts as in the published detectors: normal, standard deviation 0.01."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _pool(config: PositionSensitiveConfig) -> PositionSensitivePool:
    return PositionSensitivePool(config.roi_heads.box_output_size, config.roi_heads.pooling, config.backbone.strides[0])
