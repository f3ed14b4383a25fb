"""Every model by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import ModelConfig
from volattn.models.rcnn import BagMaskRCNN

CATALOGUE: dict[str, Callable[[ModelConfig, int], BagBackbone]] = {"mask_rcnn": BagMaskRCNN}


def build_model(config: ModelConfig, classes: Sequence[str]) -> BagBackbone:
    """Builds a model with new weights.

    Args:
        config: What it is made of.
        classes: The names of the object classes; the model's label k is `classes[k - 1]`.

    Raises:
        ValueError: There is no class.
    """
    if not classes:
        raise ValueError("a model needs at least one class, found none")
    return CATALOGUE[config.name](config, len(classes))
