"""One-stage detectors with volumetric attention on the pyramid: torchvision's heads on our maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from volattn.models.backbones import group_norm
from volattn.models.bag_backbone import Attended, PyramidDetector
from volattn.models.config import ModelConfig
from volattn.models.detectors.rcnn import image_list
from volattn.models.precision import give_full, make_full_anchors


class BagOneStage(PyramidDetector):
    """RetinaNet or FCOS: dense scores and boxes on every level, no regions.

    `detector` holds torchvision's with all but a backbone; with `attention.kind` "none" the two are one, key for key.

    Args:
        config: The network.
        classes: How many object classes. There is no background: a place of no object scores low for all.
        build: Makes torchvision's detector on a backbone.
    """

    def __init__(
        self, config: ModelConfig, classes: int, *, build: Callable[[ModelConfig, int, _NoBackbone], nn.Module]
    ) -> None:
        super().__init__(config)
        detector: Any = build(config, classes, _NoBackbone(self.channels))
        make_full_anchors(detector.anchor_generator)
        give_full(detector.head)
        self.detector: Any = detector

    def detect(
        self, attended: Attended, size: tuple[int, int], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Boxes, labels and scores per target.

        Args:
            attended: The M targets after attention.
            size: (H, W) of the input images.
            targets: For training; see `forward`.

        Returns:
            With targets the losses, by torchvision's names. Without, per target "boxes" (n, 4) xyxy in input pixels,
            "labels" (n,) from 1, "scores" (n,).
        """
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


def retinanet(config: ModelConfig, classes: int, backbone: _NoBackbone) -> nn.Module:
    """torchvision's RetinaNet."""
    dense = config.dense
    anchors = AnchorGenerator(dense.anchor_sizes, (dense.anchor_ratios,) * len(dense.anchor_sizes))
    return RetinaNet(
        backbone,
        classes,
        anchor_generator=anchors,
        head=RetinaNetHead(
            backbone.out_channels,
            anchors.num_anchors_per_location()[0],
            classes,
            norm_layer=group_norm if dense.norm == "group" else None,
        ),
        score_thresh=dense.score,
        nms_thresh=dense.nms_iou,
        detections_per_img=dense.detections,
        fg_iou_thresh=dense.positive_iou,
        bg_iou_thresh=dense.negative_iou,
        topk_candidates=dense.candidates,
    )


def fcos(config: ModelConfig, classes: int, backbone: _NoBackbone) -> nn.Module:
    """torchvision's FCOS: one place per pixel of a map, as large as its stride."""
    dense = config.dense
    sizes = tuple((stride,) for stride in config.backbone.strides)
    return FCOS(
        backbone,
        classes,
        anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(sizes)),
        center_sampling_radius=dense.radius,
        score_thresh=dense.score,
        nms_thresh=dense.nms_iou,
        detections_per_img=dense.detections,
        topk_candidates=dense.candidates,
    )


class _NoBackbone(nn.Module):
    """Tells torchvision's constructors the channels of maps that are made elsewhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
