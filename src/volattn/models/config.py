"""What a detector is made of, as values."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from volattn.config import Config

Attention = Literal["none", "channel", "spatial", "both"]
Location = Literal["rpn", "rcnn"]
Scale = Literal["none", "sqrt", "mean"]
ContextGrad = Literal["full", "checkpoint", "none"]
Norm = Literal["group", "frozen"]


class AttentionConfig(Config):
    """Volumetric attention (paper, section 2; the open points as in `docs/explanation`).

    Attributes:
        kind: Which of the two attentions are there. "none" is the plain 2D detector.
        location: "rpn" refines the pyramid before the proposals, "rcnn" the pooled regions after RoIAlign (table 2e).
        reduction: r of eq. 2: the channel embedding narrows C to max(1, C // r).
        kernel_size: Odd side of the spatial embedding's convolution (eq. 3), in feature pixels.
        gate_kernel: Odd side of the convolution that makes the spatial gate; 1 is the counterpart of the channel gate.
        scale: Factor on the spatial dot products: 1, 1/sqrt(HW) or 1/HW.
        shared: Whether all pyramid levels share one module.
        context_grad: Whether the context is trained through: "full"; "checkpoint" (recomputed in the backward pass,
            for memory); "none" (the context is a constant).
    """

    kind: Attention = "both"
    location: Location = "rpn"
    reduction: int = Field(16, ge=1)
    kernel_size: int = Field(7, ge=1)
    gate_kernel: int = Field(1, ge=1)
    scale: Scale = "mean"
    shared: bool = False
    context_grad: ContextGrad = "full"


class BackboneConfig(Config):
    """ResNet with a feature pyramid.

    Attributes:
        name: Which ResNet.
        norm: "frozen": FrozenBatchNorm2d, for pretrained weights. "group": GroupNorm, from scratch, so that no result
            depends on what shares a batch.
        norm_eps: Epsilon of the frozen norm: 0 for torchvision's COCO weights, 1e-5 for ImageNet's.
        frozen_stages: How many stages get no gradient, the stem being the first (2 freezes stem and layer1, which is
            the usual "frozen first stage").
        width: Channels of the first stage; 64 is the published network.
        stages: How many residual stages are kept (4 is the published network).
        pyramid_channels: C of every pyramid level.
    """

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    norm: Norm = "frozen"
    norm_eps: float = Field(0.0, ge=0)
    frozen_stages: int = Field(2, ge=0, le=5)
    width: int = Field(64, ge=8)
    stages: int = Field(4, ge=1, le=4)
    pyramid_channels: int = Field(256, ge=8)


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
    """

    anchor_sizes: tuple[tuple[float, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    samples: int = Field(256, ge=2)
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    before_nms: tuple[int, int] = (2000, 1000)
    after_nms: tuple[int, int] = (2000, 1000)
    nms_iou: float = 0.7


class RegionConfig(Config):
    """The heads behind the proposals, and what is kept at prediction.

    Attributes:
        samples: Regions per target that enter the loss.
        positive_fraction: Share of positive ones among them.
        iou: Regions with at least this IoU are positive, below it negative.
        box_pool: Side of the pooled region for the box head.
        box_channels: Width of the two fully connected layers.
        mask_pool: Side of the pooled region for the mask head; its output has twice that side.
        mask_layers: Channels of the mask head's 3x3 convolutions.
        score: Detections below are dropped.
        nms_iou: Suppression threshold, within a class.
        detections: Detections kept per slice.
    """

    samples: int = Field(512, ge=2)
    positive_fraction: float = Field(0.25, gt=0, le=1)
    iou: float = 0.5
    box_pool: int = 7
    box_channels: int = 1024
    mask_pool: int = 14
    mask_layers: tuple[int, ...] = (256, 256, 256, 256)
    score: float = 0.05
    nms_iou: float = 0.5
    detections: int = 100


class ModelConfig(Config):
    """A detector by its catalogue name, and its parts.

    Attributes:
        name: The name in `volattn.models.catalogue`.
        bag: N, the 2.5D images in a bag; odd. 1 with attention is a gate without context, the control.
        slices: S, the adjacent slices that make one 2.5D image; odd.
        mean: Normalisation of the backbone's input, per channel or one for all. ImageNet's values for weights that
            were trained with them.
        std: See `mean`.
    """

    name: Literal["mask_rcnn"] = "mask_rcnn"
    bag: int = Field(9, ge=1)
    slices: int = Field(3, ge=1)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    attention: AttentionConfig = AttentionConfig()
    backbone: BackboneConfig = BackboneConfig()
    proposals: ProposalConfig = ProposalConfig()
    regions: RegionConfig = RegionConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, value in (
            ("bag", self.bag),
            ("slices", self.slices),
            ("attention.kernel_size", self.attention.kernel_size),
            ("attention.gate_kernel", self.attention.gate_kernel),
        ):
            if value % 2 == 0:
                raise ValueError(f"{key} must be odd, found {value}")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.slices):
                raise ValueError(f"{key} must have 1 or {self.slices} values, found {len(values)}")
        levels = self.backbone.stages + 1
        if len(self.proposals.anchor_sizes) != levels:
            raise ValueError(
                f"proposals.anchor_sizes must have one tuple for each of the {levels} pyramid levels, "
                f"found {len(self.proposals.anchor_sizes)}"
            )
        if len({len(sizes) for sizes in self.proposals.anchor_sizes}) != 1:
            raise ValueError(
                "proposals.anchor_sizes must have equally many sizes on every level: they share a head"
            )
        return self
