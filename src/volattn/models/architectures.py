"""What a name in the catalogue means for a configuration: its defaults, what it reads, where attention can sit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Name = Literal[
    "mask_rcnn",
    "faster_rcnn",
    "deformable_faster_rcnn",
    "retinanet",
    "fcos",
    "rfcn",
    "three_dce",
    "improved_rfcn",
    "data_level_fusion",
    "unet_2d",
    "va_unet",
    "residual_unet_25d",
    "cascade",
    "unet_3d",
    "h_dense_unet",
]


BLOCK_SLICES = 3
"""Slices that an image of a bag stands for where the bag is a block: neighbouring centres are so far apart."""


class Window(NamedTuple):
    """The slices that a target speaks for when a whole volume is predicted, and how far apart such targets are.

    Attributes:
        slices: R, odd, the target's own in the middle. 1: every slice is a target.
        step: Slices from one target to the next.
    """

    slices: int = 1
    step: int = 1


@dataclass(frozen=True)
class Architecture:
    """How a name in the catalogue shapes its configuration.

    Attributes:
        summary: What it is, in a few words.
        defaults: Values that are its own, nested as in `ModelConfig`; what a configuration says goes before them.
        unread: Keys, "part" or "part.key", that have no part in it: set otherwise they are an error, and they are not
            written.
        locations: Where volumetric attention can sit; empty if it has no place.
        single_map: Whether it takes one map instead of a pyramid.
        fuses: Whether it looks at its bag by itself, without volumetric attention.
        single_image: Whether its bag is the target alone.
        masks: Whether it outlines what it finds, and learns from outlines.
        block: S, if the bag is a block of contiguous slices; else None.
        package: The module of the extra `volattn[segmentation]` that it is made with; None without.
    """

    summary: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    locations: tuple[Literal["rpn", "rcnn"], ...] = ("rpn", "rcnn")
    single_map: bool = False
    fuses: bool = False
    single_image: bool = False
    masks: bool = False
    block: int | None = None
    package: str | None = None

    @property
    def segments(self) -> bool:
        """Whether it gives every pixel a class, and objects are what hangs together."""
        return "segmentation" not in self.unread

    def without_unread(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a model, nested, without those that have no part in it."""
        return {
            part: {key: value for key, value in given.items() if f"{part}.{key}" not in self.unread}
            if isinstance(given, Mapping)
            else given
            for part, given in values.items()
            if part not in self.unread
        }


_MASKS = ("regions.mask_pool", "regions.mask_layers")
_POSITIONS = "regions.position_channels"
_TWO_STAGE = ("dense", "segmentation")
_ONE_STAGE: dict[str, Any] = {"unread": ("proposals", "regions", "segmentation"), "locations": ("rpn",)}
_VGG: dict[str, Any] = {
    "backbone": {"name": "vgg16", "norm": "none", "frozen_stages": 0},
    "proposals": {"anchor_sizes": [[16, 24, 32, 48, 96]]},
}
_SEGMENTER = ("proposals", "regions", "dense")
_HYBRID = "segmentation.hybrid"
_STEP = "segmentation.step"
_CRF = ("segmentation.dropout", "segmentation.crf")
_NETWORK = ("segmentation.width", *_CRF, _HYBRID, _STEP)
_TWICE: dict[str, Any] = {"locations": (), "masks": True, "single_image": True}
_TWICE_DEFAULTS: dict[str, Any] = {"bag": 1, "mean": [0.5], "std": [0.25], "attention": {"kind": "none"}}
_UNET: dict[str, Any] = {"masks": True, "package": "segmentation_models_pytorch"}
_UNET_UNREAD = (
    *_SEGMENTER,
    "backbone.pyramid_channels",
    "backbone.pyramid_from",
    "backbone.pyramid_top",
    "backbone.deformable",
    "attention.shared",
    *_NETWORK,
)
_BLOCK: dict[str, Any] = {"locations": (), "masks": True, "fuses": True}
_BLOCK_DEFAULTS: dict[str, Any] = {"bag": 5, "mean": [0.5], "std": [0.25], "attention": {"kind": "none"}}
_PLAIN: dict[str, Any] = {**_VGG, "attention": {"kind": "none"}, "regions": {"box_channels": 2048}}

ARCHITECTURES: dict[Name, Architecture] = {
    "mask_rcnn": Architecture(
        "boxes and masks on a pyramid",
        unread=(*_TWO_STAGE, _POSITIONS, "regions.box_beta", "regions.box_loss"),
        masks=True,
    ),
    "faster_rcnn": Architecture("boxes on a pyramid or on one map", unread=(*_TWO_STAGE, _POSITIONS, *_MASKS)),
    "deformable_faster_rcnn": Architecture(
        "the same, deformable convolutions in the backbone",
        defaults={"backbone": {"deformable": {}}},
        unread=(*_TWO_STAGE, _POSITIONS, *_MASKS),
    ),
    "retinanet": Architecture(
        "one stage, anchors",
        defaults={"backbone": {"pyramid_from": 2, "pyramid_top": "p6p7"}},
        unread=(*_ONE_STAGE["unread"], "dense.radius"),
        locations=_ONE_STAGE["locations"],
    ),
    "fcos": Architecture(
        "one stage, without anchors",
        defaults={"backbone": {"pyramid_from": 2, "pyramid_top": "p6p7"}},
        unread=(
            *_ONE_STAGE["unread"],
            "dense.anchor_sizes",
            "dense.anchor_ratios",
            "dense.positive_iou",
            "dense.negative_iou",
            "dense.norm",
        ),
        locations=_ONE_STAGE["locations"],
    ),
    "rfcn": Architecture(
        "position-sensitive score maps, averaged",
        defaults=_VGG,
        unread=(*_TWO_STAGE, _POSITIONS, *_MASKS, "regions.box_channels", "regions.dropout", "regions.initial_std"),
        locations=("rpn",),
        single_map=True,
    ),
    "three_dce": Architecture(
        "position-sensitive maps of M images, fused before the last layer",
        defaults={**_PLAIN, "bag": 3},
        unread=(*_TWO_STAGE, *_MASKS),
        locations=(),
        single_map=True,
        fuses=True,
    ),
    "improved_rfcn": Architecture(
        "three_dce with M = 1",
        defaults={**_PLAIN, "bag": 1},
        unread=(*_TWO_STAGE, *_MASKS),
        locations=(),
        single_map=True,
        fuses=True,
        single_image=True,
    ),
    "data_level_fusion": Architecture(
        "three_dce with M = 1 and 11 slices as channels",
        defaults={**_PLAIN, "bag": 1, "slices": 11, "mean": [0.449], "std": [0.226]},
        unread=(*_TWO_STAGE, *_MASKS),
        locations=(),
        single_map=True,
        fuses=True,
        single_image=True,
    ),
    "unet_2d": Architecture(
        "every pixel's class, by a ResNet encoder and a U-Net decoder",
        defaults={"attention": {"kind": "none"}},
        unread=_UNET_UNREAD,
        locations=(),
        **_UNET,
    ),
    "va_unet": Architecture(
        "the same, volumetric attention on its skip pyramid", unread=_UNET_UNREAD, locations=("rpn",), **_UNET
    ),
    "residual_unet_25d": Architecture(
        "Han: residual blocks in a U-Net, 5 slices; the organ, then lesions in it",
        defaults={**_TWICE_DEFAULTS, "slices": 5},
        unread=(*_SEGMENTER, "backbone", _HYBRID, _STEP, *_CRF),
        **_TWICE,
    ),
    "cascade": Architecture(
        "Christ et al.: unpadded U-Nets; the organ, then lesions in what is cut out of it",
        defaults={**_TWICE_DEFAULTS, "slices": 1, "segmentation": {"dropout": 0.5}},
        unread=(*_SEGMENTER, "backbone", _HYBRID, _STEP),
        **_TWICE,
    ),
    "unet_3d": Architecture(
        "a 3D U-Net on the block that a bag makes",
        defaults={**_BLOCK_DEFAULTS, "segmentation": {"width": 32}},
        unread=(*_SEGMENTER, "backbone", _HYBRID, *_CRF),
        block=3,
        package="monai",
        **_BLOCK,
    ),
    "h_dense_unet": Architecture(
        "a 2D DenseUNet on every slice of the block, a 3D one on the block, fused",
        defaults={**_BLOCK_DEFAULTS, "slices": 5},
        unread=(*_SEGMENTER, "backbone", "segmentation.width", *_CRF),
        block=5,
        **_BLOCK,
    ),
}
"""The facts behind each name of `volattn.models.catalogue`."""


def find_architecture(name: object) -> Architecture | None:
    """What a name means, whatever it is; None if there is no such name."""
    return next((facts for known, facts in ARCHITECTURES.items() if known == name), None)
