"""Studies of a step or two of small networks on small stores."""

from __future__ import annotations

from typing import Any

from small_detectors import small_config
from training.small_runs import small_recipe

from volattn.config import pruned
from volattn.models.registry import MODELS
from volattn.studies.definition import Study
from volattn.training.recipe import Recipe

CASES = 5
"""Three train, one validates, one is held out."""

_CHEAP = {
    "segmentation.width": "4",
    "segmentation.hybrid": ("{stem: 8, growth: [8, 8], blocks: [1, 1, 1, 1], volume_blocks: [1, 1, 1, 1], last: 4}"),
    "backbone.width": "8",
}
"""For networks that are wide by themselves."""


def cheap_settings(study: Study) -> list[str]:
    """Settings that make every row's network narrow."""
    settings = []
    for row in study.runnable:
        model = MODELS.get(row.changes.get("model.name", "mask_rcnn"))
        for key, value in _CHEAP.items():
            part, _, name = key.partition(".")
            if model is not None and pruned({part: {name: value}}, model.config).get(part):
                settings.append(f"{row.key}:model.{key}={value}")
        if "model.backbone.deformable" in row.changes:
            settings.append(f"{row.key}:model.backbone.deformable={{stages: [4]}}")
    return settings


def mask_recipe(steps: int = 1) -> Recipe:
    """So many steps, validated at the end."""
    return small_recipe().updated([f"schedule.length={steps}", "validation.every=1000", "save_every=1"])


def box_recipe() -> Recipe:
    """One step on key slices."""
    recipe = small_recipe(model=small_config(3, "faster_rcnn"), augment=None)
    return recipe.updated(["step.targets=1", "step.slabs=2", "schedule.length=1", "validation.every=1000"])


def small_study(**changes: Any) -> Study:
    """With attention and without."""
    values: dict[str, Any] = {
        "title": "A small study",
        "question": "Does it run?",
        "kind": "masks",
        "recipe": "tiny",
        "metrics": ["dice_per_case", "recall", "false_positives_per_case"],
        "baseline": "plain",
        "rows": [
            {
                "key": "plain",
                "title": "Plain",
                "changes": {"model.attention.kind": "none"},
                "paper": {"dice_per_case": 56.1},
            },
            {"key": "attention", "title": "Attention", "changes": {"model.attention.kind": "both"}},
        ],
    }
    return Study.parse(values | changes, "small")
