"""Measures every architecture and recipe for `volattn info`; minutes.

python tests/studies/model_costs.py    (`make costs`)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from volattn.io.files import write_text
from volattn.models.config import ModelConfig
from volattn.models.cost import measure
from volattn.models.registry import MODELS, parse_model
from volattn.studies.model_table import COSTS
from volattn.training.recipe import load_recipe, shipped

SIZE = 512
"""Side of the input at which architectures are measured, pixels."""


def described(name: str) -> tuple[ModelConfig, dict[str, Any]]:
    """The model of an architecture or a recipe, and what is said of it without measuring."""
    if name in MODELS:
        config = parse_model({"name": name}, name)
        row = {"attention": ", ".join(config.locations) or "-", "purpose": config.summary, "px": SIZE}
    else:
        recipe = load_recipe(name)
        config = recipe.model
        row = {"model": config.name, "purpose": recipe.row, "px": recipe.plan.size}
    return config, {**row, "package": config.package, "images": config.images}


def measured(name: str) -> dict[str, Any]:
    """The row of an architecture or a recipe."""
    config, row = described(name)
    # The loss may weigh the classes, and so fix their number.
    weights = config.class_weights
    classes = ("lesion",) if weights is None else ("organ", "lesion")[3 - len(weights) :]
    cost = measure(config, classes, row["px"])
    return {**row, "parameters": cost.parameters, "flops": cost.flops, "memory": cost.memory}


def _table(kind: str, names: Iterable[str]) -> str:
    """A row a line, so that a change shows which models it moved."""
    rows = (f"  {json.dumps(name)}: {json.dumps(measured(name))}" for name in names)
    return f"{json.dumps(kind)}: {{\n" + ",\n".join(rows) + "\n}"


if __name__ == "__main__":
    tables = (_table("architectures", MODELS), _table("recipes", shipped()))
    write_text(COSTS, "{\n" + ",\n".join(tables) + "\n}\n")
