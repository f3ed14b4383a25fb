"""Tables of the architectures and recipes, with their sizes and what they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from volattn.faults import explain
from volattn.models.config import ModelConfig
from volattn.models.cost import measure
from volattn.models.registry import MODELS, parse_model
from volattn.report.pages import Cell, Column, Table
from volattn.training.recipe import load_recipe, shipped
from volattn.workers import Progress

SIZE = 512
"""Side of the input at which architectures are measured, pixels."""

CLASSES = ("lesion",)

_SIZES = (
    Column("px"),
    Column("N"),
    Column("parameters, M", ".1f"),
    Column("GFLOPs a slice", ".0f"),
    Column("full", ".0f"),
    Column("checkpoint", ".0f"),
    Column("none", ".0f"),
)
_MEMORY = "; last columns: MiB that training keeps for a target with its bag, by context_grad"


def names() -> tuple[str, ...]:
    """Architectures, then recipes."""
    return (*MODELS, *shipped())


def check_names(wanted: Iterable[str]) -> None:
    """Checks that these are names of architectures or recipes.

    Raises:
        ValueError: One is not; the error offers close ones.
    """
    for name in wanted:
        if name not in names():
            near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
            raise ValueError(
                f"{name}: is neither an architecture nor a recipe; "
                + (f"did you mean {' or '.join(near)}?" if near else "without a name, all are listed")
            )


def model_table(
    wanted: Sequence[str] = (), *, costs: bool = False, progress: Progress | None = None
) -> tuple[list[Table], dict[str, str]]:
    """A table of architectures and one of recipes: those that are wanted, or all.

    Args:
        costs: Also measures parameters, operations and memory, which takes seconds a row.
        progress: Called with ("measure", rows that are done, rows).

    Returns:
        The tables, and the reason by name where a row failed; the row says so.

    Raises:
        ValueError: A name is unknown.
    """
    check_names(wanted)
    chosen = [name for name in names() if not wanted or name in wanted]
    architectures: list[tuple[Cell, ...]] = []
    recipes: list[tuple[Cell, ...]] = []
    failed: dict[str, str] = {}
    for done, name in enumerate(chosen, start=1):
        recipe, note = None, ""
        sizes: tuple[Cell, ...] = (None,) * len(_SIZES)
        try:
            recipe = None if name in MODELS else load_recipe(name)
            config = parse_model({"name": name}, name) if recipe is None else recipe.model
            if config.package is not None and find_spec(config.package) is None:
                note = " (install volattn[segmentation])"
            elif costs:
                sizes = _sizes(config, SIZE if recipe is None else recipe.plan.size)
        except Exception as error:
            failed[name] = explain(error)
            recipe, note = None, " (failed)"
        cells = (name, *sizes) if costs else (name,)
        if name in MODELS:
            architecture = MODELS[name].config
            architectures.append((*cells, ", ".join(architecture.locations) or "-", architecture.summary + note))
        else:
            recipes.append((*cells, *((None, note.strip()) if recipe is None else (recipe.model.name, recipe.row))))
        if progress is not None and costs:
            progress("measure", done, len(chosen))
    sized, memory = (_SIZES, _MEMORY) if costs else ((), "")
    tables = (
        ("Architectures, with default values", ("attention", "what it is"), architectures),
        ("Recipes", ("model", "row of"), recipes),
    )
    return [
        Table(f"{title}{memory}.", (Column("name"), *sized, *map(Column, heads)), tuple(rows))
        for title, heads, rows in tables
        if rows
    ], failed


def _sizes(config: ModelConfig, size: int) -> tuple[Cell, ...]:
    # The loss may weigh the classes, and so fix their number.
    weights = config.class_weights
    cost = measure(config, CLASSES if weights is None else ("organ", "lesion")[3 - len(weights) :], size)
    kept = (cost.memory.get(mode) for mode in ("full", "checkpoint", "none"))
    memory = (None if size_bytes is None else size_bytes / 2**20 for size_bytes in kept)
    return size, config.images, cost.parameters / 1e6, cost.flops / 1e9, *memory
