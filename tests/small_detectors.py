"""Small models that every test of a detector can afford."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from volattn.config import merged, pruned
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import ModelConfig
from volattn.models.detectors.position_sensitive import PositionSensitiveConfig
from volattn.models.registry import MODELS, build_model, parse_model

CLASSES = ("liver", "lesion")

_COMMON: dict[str, Any] = {
    "mean": [0.5],
    "std": [0.25],
    "roi_heads": {
        "batch_size_per_image": 16,
        "representation_size": 32,
        "mask_layers": [16],
        "score_thresh": 0.0,
        "detections_per_img": 20,
    },
    "segmentation": {"width": 8},
}
_PYRAMID: dict[str, Any] = {
    "backbone": {
        "name": "resnet18",
        "norm": "group",
        "trainable_layers": 5,
        "width": 16,
        "stages": 3,
        "pyramid_channels": 16,
        "pyramid_from": 1,
        "pyramid_top": "pool",
    },
    "rpn": {"anchor_sizes": [[8], [16], [32], [64]], "post_nms_top_n": [40, 40]},
    "head": {"anchor_sizes": [[8, 12], [16, 24], [32, 48], [64, 80]], "score_thresh": 0.0, "detections_per_img": 20},
}
_SINGLE_MAP: dict[str, Any] = {
    "backbone": {"name": "vgg16", "norm": "group", "trainable_layers": 5, "width": 8},
    "rpn": {"anchor_sizes": [[8, 16, 32]], "post_nms_top_n": [40, 40]},
    "head": {"anchor_sizes": [[8, 16, 32]], "score_thresh": 0.0, "detections_per_img": 20},
}
_OWN: dict[str, dict[str, Any]] = {
    "deformable_faster_rcnn": {"backbone": {"deformable": {"stages": [4]}}},
    "fcos": {"backbone": {"pyramid_channels": 32}},
    "improved_rfcn": {"bag": 1},
    "data_level_fusion": {"bag": 1, "slices": 11},
    "residual_unet_25d": {"bag": 1, "slices": 5},
    "cascade": {"bag": 1, "slices": 1, "segmentation": {"dropout": 0.0, "width": 4}},
    "unet_3d": {"bag": 3, "segmentation": {"width": 4}},
    "h_dense_unet": {
        "bag": 3,
        "slices": 5,
        "segmentation": {
            "hybrid": {
                "stem": 8,
                "growth": [8, 4],
                "blocks": [1, 1, 1, 1],
                "volume_blocks": [1, 1, 1, 1],
                "last": 4,
                "dropout": 0.0,
            }
        },
    },
}


def small_config(
    bag: int = 5,
    name: str = "mask_rcnn",
    *,
    single_map: bool = False,
    changes: dict[str, Any] | None = None,
    **attention: Any,
) -> ModelConfig:
    """A detector of half a million weights at most, for 64 px.

    Args:
        bag: N.
        name: In the registry.
        single_map: Whether it stands on VGG-16; what cannot stand on anything else does so anyway.
        changes: Further values, nested.
        attention: Values of the attention.
    """
    chosen = MODELS[name].config
    single_map = single_map or issubclass(chosen, PositionSensitiveConfig)
    values = merged(_COMMON, _SINGLE_MAP if single_map else _PYRAMID)
    values = merged(values, {"name": name, "bag": bag, "attention": {"reduction": 4, **attention}})
    values = merged(pruned(values, chosen), _OWN.get(name, {}))
    return parse_model(merged(values, changes or {}), name)


def detectors() -> dict[str, ModelConfig]:
    """Every name of the registry, and every kind and location of attention somewhere."""
    found = {name: small_config(name=name) for name in MODELS}
    for kind in ("none", "channel", "spatial", "stacked"):
        found[f"mask_rcnn-{kind}"] = small_config(kind=kind)
    for name in ("mask_rcnn", "faster_rcnn"):
        found[f"{name}-regions"] = small_config(name=name, location="roi")
    for name in ("faster_rcnn", "retinanet", "fcos", "rfcn"):
        found[f"{name}-none"] = small_config(name=name, kind="none")
    modulated = {"backbone": {"deformable": {"stages": [4], "modulated": True}}}
    found["deformable_faster_rcnn-modulated"] = small_config(name="deformable_faster_rcnn", changes=modulated)
    found["faster_rcnn-vgg16"] = small_config(name="faster_rcnn", single_map=True)
    rounded = {"roi_heads": {"pooling": "pool", "dropout": 0.5}}
    found["faster_rcnn-vgg16-rounded"] = small_config(
        name="faster_rcnn", single_map=True, changes=rounded, location="roi"
    )
    for name in ("rfcn", "three_dce"):
        found[f"{name}-rounded"] = small_config(name=name, changes={"roi_heads": {"pooling": "pool"}})
    return found


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Gates start all but open, stacked context at nothing: tests of the context need them to let it through."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention." in name and (".gate." in name or ".mix." in name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def made(
    config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float64, classes: tuple[str, ...] = CLASSES
) -> BagBackbone:
    torch.manual_seed(seed)
    model = build_model(config, classes).to(dtype)
    randomise(model, seed)
    return model


def targets_of(count: int, side: int = 64, dtype: torch.dtype = torch.float64) -> list[dict[str, Tensor]]:
    """One organ and one lesion per target; every third target is empty."""
    found = []
    for index in range(count):
        masks = torch.zeros(2, side, side, dtype=torch.uint8)
        masks[0, 10 : 40 + index, 12:50] = 1
        masks[1, 15 + index : 24 + index, 20:30] = 1
        boxes = torch.tensor([[12, 10, 50, 40 + index], [20, 15 + index, 30, 24 + index]], dtype=dtype)
        keep = 0 if index % 3 == 2 else 2
        found.append({"boxes": boxes[:keep], "labels": torch.tensor([1, 2])[:keep], "masks": masks[:keep]})
    return found


def images_of(count: int = 8, side: int = 64, slices: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, slices, side, side, dtype=torch.float64, generator=generator)
