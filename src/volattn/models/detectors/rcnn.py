"""Two-stage detectors with volumetric attention: torchvision's `rpn` and `roi_heads` on our maps."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from volattn.config import Channels, Config, Objects, Pixels, Share
from volattn.models.bag_backbone import Attended, PyramidDetector
from volattn.models.config import AttendingConfig, BackboneConfig, DeformableConfig, DetectorConfig, Location, Output
from volattn.models.detectors.roi_heads import (
    BagRoIAlign,
    BoxHeads,
    BoxHeadsConfig,
    BoxLossConfig,
    MakeBranch,
    MaskHeadsConfig,
    RoIHeadsConfig,
    box_branch,
    region_pool,
)
from volattn.models.precision import give_full, make_full_anchors

Sizes = Annotated[tuple[Annotated[tuple[Pixels, ...], Field(max_length=32)], ...], Field(max_length=8)]
Ratios = Annotated[tuple[Annotated[float, Field(ge=0.01, le=100)], ...], Field(min_length=1, max_length=32)]


class RPNConfig(Config):
    """Anchors and the region proposal network; torchvision's names and values where it has them.

    Attributes:
        anchor_sizes: Sides in input pixels, one tuple per pyramid level, finest first. The pyramid has one level per
            kept stage and one more ("pool").
        aspect_ratios: Height over width.
        batch_size_per_image: Anchors per target that enter the loss, half of them positive at most.
        fg_iou_thresh: Anchors with at least this IoU are positive.
        bg_iou_thresh: Anchors below this IoU are negative.
        pre_nms_top_n: Proposals kept per level before suppression, in training and in prediction.
        post_nms_top_n: Proposals kept per target, in training and in prediction.
        nms_thresh: IoU of suppression.
        min_size: Proposals with a side below are dropped, input pixels.
        channels: Width of the network's 3x3 convolution; null takes that of the maps.
    """

    anchor_sizes: Sizes = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    aspect_ratios: Ratios = (0.5, 1.0, 2.0)
    batch_size_per_image: Objects = Field(256, ge=2)
    fg_iou_thresh: Share = 0.7
    bg_iou_thresh: Share = 0.3
    pre_nms_top_n: tuple[Objects, Objects] = (2000, 1000)
    post_nms_top_n: tuple[Objects, Objects] = (2000, 1000)
    nms_thresh: Share = 0.7
    min_size: Pixels = 1e-3
    channels: Channels | None = Field(None, ge=8)


class TwoStageConfig(DetectorConfig):
    """Proposals, and heads behind them."""

    rpn: RPNConfig = RPNConfig()
    roi_heads: RoIHeadsConfig = RoIHeadsConfig()

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        self._check_backbone()
        if self.roi_heads.pooling == "pool" and not self.backbone.single_map:
            raise ValueError("roi_heads.pooling pool takes one map: set roi_heads.pooling=align, or vgg16")
        self._check_anchors("rpn.anchor_sizes", self.rpn.anchor_sizes)
        return self

    def _check_backbone(self) -> None:
        """Raises a ValueError where the backbone is none that the heads can read."""


class MaskRCNNConfig(AttendingConfig, TwoStageConfig):
    """Mask R-CNN."""

    summary: ClassVar[str] = "boxes and masks on a pyramid"
    output: ClassVar[Output] = "masks"
    locations: ClassVar[tuple[Location, ...]] = ("pyramid", "roi")

    name: Literal["mask_rcnn"] = "mask_rcnn"
    roi_heads: MaskHeadsConfig = MaskHeadsConfig()


class FasterRCNNConfig(AttendingConfig, TwoStageConfig):
    """Faster R-CNN."""

    summary: ClassVar[str] = "boxes on a pyramid or on one map"
    locations: ClassVar[tuple[Location, ...]] = ("pyramid", "roi")

    name: Literal["faster_rcnn", "deformable_faster_rcnn"] = "faster_rcnn"
    roi_heads: BoxHeadsConfig = BoxHeadsConfig()

    @model_validator(mode="after")
    def _check_deformable(self) -> Self:
        deformable = self.backbone.deformable
        if (deformable is not None) != (self.name == "deformable_faster_rcnn"):
            raise ValueError(
                "deformable_faster_rcnn is faster_rcnn with backbone.deformable, e.g. {stages: [3, 4, 5]}: "
                f"give both or neither, found {self.name} with {deformable}"
            )
        return self


class DeformableFasterRCNNConfig(FasterRCNNConfig):
    """Faster R-CNN with deformable convolutions in its backbone."""

    summary: ClassVar[str] = "the same, deformable convolutions in the backbone"

    name: Literal["deformable_faster_rcnn"] = "deformable_faster_rcnn"
    backbone: BackboneConfig = BackboneConfig(deformable=DeformableConfig())


class BagRCNN(PyramidDetector):
    """Faster or Mask R-CNN with volumetric attention (paper, figure 2), and what shares their two stages.

    With `attention.kind` "none", Faster and Mask R-CNN are torchvision's, key for key.
    """

    config: TwoStageConfig

    def __init__(self, config: TwoStageConfig, classes: int, *, branch: MakeBranch = box_branch) -> None:
        super().__init__(config)
        heads = config.roi_heads
        box = branch(config, self.channels, classes)
        parts = (
            *box,
            heads.fg_iou_thresh,
            heads.fg_iou_thresh,
            heads.batch_size_per_image,
            heads.positive_fraction,
            heads.bbox_reg_weights,
            heads.score_thresh,
            heads.nms_thresh,
            heads.detections_per_img,
        )
        pools = {"box": box.pool}
        if isinstance(heads, MaskHeadsConfig):
            pools["mask"] = region_pool(config.backbone, heads.pooling, heads.mask_output_size)
            last = heads.mask_layers[-1]
            self.roi_heads: nn.Module = RoIHeads(
                *parts,
                mask_roi_pool=pools["mask"],
                mask_head=MaskRCNNHeads(self.channels, heads.mask_layers, 1),
                mask_predictor=MaskRCNNPredictor(last, last, classes + 1),
            )
        else:
            assert isinstance(heads, BoxLossConfig)
            self.roi_heads = BoxHeads(*parts, config=heads)
        self.rpn = proposal_network(config.rpn, self.channels)
        make_full_anchors(self.rpn.anchor_generator)
        for head in (self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            if isinstance(head, nn.Module):
                give_full(head)
        if isinstance(config, AttendingConfig) and config.uses_context and config.attention.location == "roi":
            for name, pool in pools.items():
                attended = BagRoIAlign(pool, config.attention, self.channels, config.bag, name)
                setattr(self.roi_heads, f"{name}_roi_pool", attended)

    def detect(
        self, attended: Attended, size: tuple[int, int], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """See `BagBackbone.detect`; "masks" (n, 1, m, m) are probabilities inside the box, not pasted."""
        maps = attended.maps()
        images = image_list(maps, self.config.slices, size)
        proposals, proposal_losses = self.rpn(images, maps, targets)
        detections, region_losses = self.roi_heads(maps, proposals, images.image_sizes, targets)
        if targets is not None and self.training:
            return {**region_losses, **proposal_losses}
        return detections


def proposal_network(config: RPNConfig, channels: int) -> RegionProposalNetwork:
    """torchvision's region proposal network for maps of so many channels."""
    anchors = AnchorGenerator(config.anchor_sizes, (config.aspect_ratios,) * len(config.anchor_sizes))
    width = config.channels or channels
    head = RPNHead(width, anchors.num_anchors_per_location()[0])
    if width != channels:
        first = nn.Conv2d(channels, width, 3, padding=1)
        nn.init.normal_(first.weight, std=0.01)
        assert first.bias is not None
        nn.init.zeros_(first.bias)
        head.conv[0][0] = first
    network = RegionProposalNetwork(
        anchors,
        head,
        config.fg_iou_thresh,
        config.bg_iou_thresh,
        config.batch_size_per_image,
        0.5,
        dict(zip(("training", "testing"), config.pre_nms_top_n, strict=True)),
        dict(zip(("training", "testing"), config.post_nms_top_n, strict=True)),
        config.nms_thresh,
    )
    network.min_size = config.min_size
    return network


def image_list(maps: dict[str, Tensor], slices: int, size: tuple[int, int]) -> ImageList:
    """The M targets of (S, H, W) as torchvision's heads take them; they read only the shape: an expanded scalar."""
    finest = next(iter(maps.values()))
    count = finest.shape[0]
    return ImageList(finest.new_zeros(()).expand(count, slices, *size), [size] * count)


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses of any detector; they weigh one each."""
    return torch.stack(list(losses.values())).sum()
