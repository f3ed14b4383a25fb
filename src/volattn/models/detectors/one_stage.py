"""One-stage detectors with volumetric attention on the pyramid: torchvision's heads on our maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from volattn.config import Config, Objects, Pixels, Share
from volattn.models.backbones import group_norm
from volattn.models.bag_backbone import Attended, PyramidDetector
from volattn.models.config import AttendingConfig, BackboneConfig, DetectorConfig
from volattn.models.detectors.rcnn import Ratios, Sizes, image_list
from volattn.models.precision import give_full, make_full_anchors


class OneStageHeadConfig(Config):
    """What a one-stage detector keeps at prediction; torchvision's names and values.

    Attributes:
        topk_candidates: Boxes kept per level before suppression.
        score_thresh: Detections below are dropped.
        nms_thresh: IoU of suppression, within a class.
        detections_per_img: Detections kept per slice.
    """

    topk_candidates: Objects = 1000
    score_thresh: Share = 0.05
    nms_thresh: Share = 0.5
    detections_per_img: Objects = 100


class RetinaNetHeadConfig(OneStageHeadConfig):
    """RetinaNet's head.

    Attributes:
        anchor_sizes: Sides in input pixels, one tuple per pyramid level, finest first.
        aspect_ratios: Height over width.
        fg_iou_thresh: Anchors with at least this IoU are positive.
        bg_iou_thresh: Anchors below this IoU are negative.
        norm: What follows the towers' convolutions. "none": as published. "group": GroupNorm, as in torchvision's
            second RetinaNet and in every FCOS. From scratch on a narrow pyramid it is needed: weights are drawn with
            0.01, which four times over 64 channels leaves a thousandth of a map.
    """

    anchor_sizes: Sizes = (
        (32.0, 40.0, 50.0),
        (64.0, 80.0, 101.0),
        (128.0, 161.0, 203.0),
        (256.0, 322.0, 406.0),
        (512.0, 645.0, 812.0),
    )
    aspect_ratios: Ratios = (0.5, 1.0, 2.0)
    fg_iou_thresh: Share = 0.5
    bg_iou_thresh: Share = 0.4
    norm: Literal["none", "group"] = "none"


class FCOSHeadConfig(OneStageHeadConfig):
    """FCOS's head.

    Attributes:
        center_sampling_radius: Places within so many strides of an object's centre are positive.
    """

    center_sampling_radius: Pixels = 1.5


class RetinaNetConfig(AttendingConfig, DetectorConfig):
    """RetinaNet."""

    summary: ClassVar[str] = "one stage, anchors"

    name: Literal["retinanet"] = "retinanet"
    backbone: BackboneConfig = BackboneConfig(pyramid_from=2, pyramid_top="p6p7")
    head: RetinaNetHeadConfig = RetinaNetHeadConfig()

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        self._check_anchors("head.anchor_sizes", self.head.anchor_sizes)
        return self


class FCOSConfig(AttendingConfig, DetectorConfig):
    """FCOS."""

    summary: ClassVar[str] = "one stage, without anchors"

    name: Literal["fcos"] = "fcos"
    backbone: BackboneConfig = BackboneConfig(pyramid_from=2, pyramid_top="p6p7")
    head: FCOSHeadConfig = FCOSHeadConfig()

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if self.backbone.single_map or self.backbone.pyramid_channels % 32:
            raise ValueError("fcos takes a pyramid with backbone.pyramid_channels a multiple of 32")
        return self


class BagOneStage(PyramidDetector):
    """RetinaNet or FCOS: dense scores and boxes on every level, no regions.

    `detector` holds torchvision's with all but a backbone; with `attention.kind` "none" the two are one, key for key.

    Args:
        classes: How many object classes. There is no background: a place of no object scores low for all.
    """

    def __init__(
        self, config: DetectorConfig, classes: int, *, build: Callable[[Any, int, _NoBackbone], nn.Module]
    ) -> None:
        super().__init__(config)
        detector: Any = build(config, classes, _NoBackbone(self.channels))
        make_full_anchors(detector.anchor_generator)
        give_full(detector.head)
        self.detector: Any = detector

    def detect(
        self, attended: Attended, size: tuple[int, int], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """See `BagBackbone.detect`."""
        maps = list(attended.pyramid.values())
        images = image_list(attended.maps(), self.config.slices, size)
        outputs = self.detector.head(maps)
        anchors = self.detector.anchor_generator(images, maps)
        places = [one.shape[-2] * one.shape[-1] for one in maps]
        # torchvision counts the classes of these two from 0.
        if targets is not None and self.training:
            counted = [{**target, "labels": target["labels"] - 1} for target in targets]
            by_level = [places] if isinstance(self.detector, FCOS) else []
            return self.detector.compute_loss(counted, outputs, anchors, *by_level)
        at_place = self.detector.anchor_generator.num_anchors_per_location()[0]
        levels = [count * at_place for count in places]
        found = self.detector.postprocess_detections(
            {name: list(rows.split(levels, dim=1)) for name, rows in outputs.items()},
            [list(rows.split(levels)) for rows in anchors],
            images.image_sizes,
        )
        return [{**one, "labels": one["labels"] + 1} for one in found]


def retinanet(config: RetinaNetConfig, classes: int, backbone: _NoBackbone) -> nn.Module:
    """torchvision's RetinaNet."""
    settings = config.head
    anchors = AnchorGenerator(settings.anchor_sizes, (settings.aspect_ratios,) * len(settings.anchor_sizes))
    return RetinaNet(
        backbone,
        classes,
        anchor_generator=anchors,
        head=RetinaNetHead(
            backbone.out_channels,
            anchors.num_anchors_per_location()[0],
            classes,
            norm_layer=group_norm if settings.norm == "group" else None,
        ),
        score_thresh=settings.score_thresh,
        nms_thresh=settings.nms_thresh,
        detections_per_img=settings.detections_per_img,
        fg_iou_thresh=settings.fg_iou_thresh,
        bg_iou_thresh=settings.bg_iou_thresh,
        topk_candidates=settings.topk_candidates,
    )


def fcos(config: FCOSConfig, classes: int, backbone: _NoBackbone) -> nn.Module:
    """torchvision's FCOS: one place per pixel of a map, as large as its stride."""
    settings = config.head
    sizes = tuple((stride,) for stride in config.backbone.strides)
    return FCOS(
        backbone,
        classes,
        anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(sizes)),
        center_sampling_radius=settings.center_sampling_radius,
        score_thresh=settings.score_thresh,
        nms_thresh=settings.nms_thresh,
        detections_per_img=settings.detections_per_img,
        topk_candidates=settings.topk_candidates,
    )


class _NoBackbone(nn.Module):
    """Tells torchvision's constructors the channels of maps that are made elsewhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
