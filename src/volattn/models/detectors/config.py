"""What finds objects on the maps, as values: anchors and proposals, the heads behind them, one-stage heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from volattn.config import Channels, Config, Factor, Kernel, Objects, Pixels, Share

_Sizes = Annotated[tuple[Annotated[tuple[Pixels, ...], Field(max_length=32)], ...], Field(max_length=8)]
_Ratios = Annotated[tuple[Annotated[float, Field(ge=0.01, le=100)], ...], Field(min_length=1, max_length=32)]


class ProposalConfig(Config):
    """Anchors and the region proposal network.

    Attributes:
        anchor_sizes: Sides in input pixels, one tuple per pyramid level, finest first. The pyramid has one level per
            kept stage and one more ("pool").
        anchor_ratios: Height over width.
        samples: Anchors per target that enter the loss, half of them positive at most.
        positive_iou: Anchors with at least this IoU are positive.
        negative_iou: Anchors below this IoU are negative.
        before_nms: Proposals kept per level before suppression, in training and in prediction.
        after_nms: Proposals kept per target, in training and in prediction.
        nms_iou: Suppression threshold.
        min_size: Proposals with a side below are dropped, input pixels.
        channels: Width of the network's 3x3 convolution; null takes that of the maps.
    """

    anchor_sizes: _Sizes = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    anchor_ratios: _Ratios = (0.5, 1.0, 2.0)
    samples: Objects = Field(256, ge=2)
    positive_iou: Share = 0.7
    negative_iou: Share = 0.3
    before_nms: tuple[Objects, Objects] = (2000, 1000)
    after_nms: tuple[Objects, Objects] = (2000, 1000)
    nms_iou: Share = 0.7
    min_size: Pixels = 1e-3
    channels: Channels | None = Field(None, ge=8)


class RegionConfig(Config):
    """The heads behind the proposals, and what is kept at prediction.

    Attributes:
        samples: Regions per target that enter the loss.
        positive_fraction: Share of positive ones among them.
        iou: Regions with at least this IoU are positive, below it negative.
        pooling: How a region is read from a map: "align" (bilinear) or "pool" (cells rounded to the map's pixels; one
            map only).
        box_pool: Side of the pooled region for the box head.
        box_channels: Width of the fully connected layers.
        dropout: Share of their outputs that are left out in training.
        position_channels: Channels of a position-sensitive region (10 in 3DCE).
        initial_std: Of the normal distribution that the fully connected and the last layers start from; null takes
            PyTorch's own.
        box_weights: Factors on the regression targets (x, y, width, height).
        box_beta: Where the smooth L1 loss of the boxes turns from square to linear.
        box_loss: Factor on that loss.
        mask_pool: Side of the pooled region for the mask head; its output has twice that side.
        mask_layers: Channels of the mask head's 3x3 convolutions.
        score: Detections below are dropped.
        nms_iou: Suppression threshold, within a class.
        detections: Detections kept per slice.
    """

    samples: Objects = Field(512, ge=2)
    positive_fraction: float = Field(0.25, gt=0, le=1)
    iou: Share = 0.5
    pooling: Literal["align", "pool"] = "align"
    box_pool: Kernel = 7
    box_channels: Channels = 1024
    dropout: float = Field(0.0, ge=0, lt=1)
    position_channels: Channels = 10
    initial_std: Factor | None = None
    box_weights: tuple[Factor, Factor, Factor, Factor] = (10.0, 10.0, 5.0, 5.0)
    box_beta: Factor = 1 / 9
    box_loss: Factor = 1.0
    mask_pool: Kernel = 14
    mask_layers: tuple[Channels, ...] = Field((256, 256, 256, 256), max_length=32)
    score: Share = 0.05
    nms_iou: Share = 0.5
    detections: Objects = 100


class DenseConfig(Config):
    """The head of a one-stage detector, and what is kept at prediction.

    Attributes:
        anchor_sizes: Sides in input pixels, one tuple per pyramid level, finest first (retinanet).
        anchor_ratios: Height over width (retinanet).
        positive_iou: Anchors with at least this IoU are positive (retinanet).
        negative_iou: Anchors below this IoU are negative (retinanet).
        radius: Places within so many strides of an object's centre are positive (fcos).
        norm: What follows the towers' convolutions (retinanet). "none": as published. "group": GroupNorm, as in
            torchvision's second RetinaNet and in every FCOS. From scratch on a narrow pyramid it is needed: weights are
            drawn with 0.01, which four times over 64 channels leaves a thousandth of a map.
        candidates: Boxes kept per level before suppression.
        score: Detections below are dropped.
        nms_iou: Suppression threshold, within a class.
        detections: Detections kept per slice.
    """

    anchor_sizes: _Sizes = (
        (32.0, 40.0, 50.0),
        (64.0, 80.0, 101.0),
        (128.0, 161.0, 203.0),
        (256.0, 322.0, 406.0),
        (512.0, 645.0, 812.0),
    )
    anchor_ratios: _Ratios = (0.5, 1.0, 2.0)
    positive_iou: Share = 0.5
    negative_iou: Share = 0.4
    radius: Pixels = 1.5
    norm: Literal["none", "group"] = "none"
    candidates: Objects = 1000
    score: Share = 0.05
    nms_iou: Share = 0.5
    detections: Objects = 100
