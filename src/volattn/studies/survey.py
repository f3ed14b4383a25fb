"""What there is to train: the catalogue and the recipes, with their sizes and what they stand for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec

from volattn.faults import explain
from volattn.models.architectures import ARCHITECTURES
from volattn.models.config import ModelConfig
from volattn.models.cost import Cost, measure
from volattn.report.pages import Cell, Column, Table
from volattn.training.recipe import load_recipe, shipped

SIZE = 512
"""Side of the input at which the catalogue is measured, pixels."""

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
_MEMORY = "last columns: MiB that training keeps for a target with its bag, by context_grad"

Progress = Callable[[str, int, int], None]


def names() -> tuple[str, ...]:
    """All that can be asked for: architectures, then recipes."""
    return (*ARCHITECTURES, *shipped())


def check_names(wanted: Iterable[str]) -> None:
    """Whether these are names of the catalogue or of recipes.

    Raises:
        ValueError: One is not; near ones are offered.
    """
    known = names()
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            raise ValueError(
                f"{name}: is neither in the catalogue nor a recipe; "
                + (f"did you mean {' or '.join(near)}?" if near else "without a name, all are listed")
            )


def survey(
    wanted: Sequence[str] = (), *, costs: bool = False, progress: Progress | None = None
) -> tuple[list[Table], dict[str, str]]:
    """Tables of the catalogue and of the recipes.

    Args:
        wanted: Names that are listed; all if there is none.
        costs: Whether to measure parameters, operations and memory too, which takes seconds a row.
        progress: Told what is being measured, how many are done and how many there are.

    Returns:
        The tables, and by name what could not be read or measured; its row says so.

    Raises:
        ValueError: A name is not known.
    """
    check_names(wanted)
    chosen = [name for name in names() if not wanted or name in wanted]
    catalogue: list[tuple[Cell, ...]] = []
    recipes: list[tuple[Cell, ...]] = []
    failed: dict[str, str] = {}
    for done, name in enumerate(chosen, start=1):
        facts = next((known for key, known in ARCHITECTURES.items() if key == name), None)
        sizes: tuple[Cell, ...] = (None,) * len(_SIZES)
        # One bad recipe is one failed row.
        try:
            recipe = None if facts is not None else load_recipe(name)
            config = recipe.model if recipe is not None else ModelConfig.parse({"name": name}, name)
            if costs:
                sizes = _sizes(config, SIZE if recipe is None else recipe.plan.size)
            missing = "" if _measurable(config) else " (install volattn[segmentation])"
        except Exception as error:
            failed[name] = explain(error)
            recipe, missing = None, " (failed)"
        sizes = sizes if costs else ()
        if facts is not None:
            catalogue.append((name, *sizes, ", ".join(facts.locations) or "-", facts.summary + missing))
        else:
            told = (recipe.model.name, recipe.row) if recipe is not None else (None, missing.strip())
            recipes.append((name, *sizes, *told))
        if progress is not None and costs:
            progress("measure", done, len(chosen))
    columns = _SIZES if costs else ()
    memory = f"; {_MEMORY}" if costs else ""
    tables = (
        Table(
            f"Catalogue, as it is without further values{memory}.",
            (Column("name"), *columns, Column("attention"), Column("what it is")),
            tuple(catalogue),
        ),
        Table(f"Recipes{memory}.", (Column("name"), *columns, Column("model"), Column("stands for")), tuple(recipes)),
    )
    return [table for table in tables if table.rows], failed


def _measurable(config: ModelConfig) -> bool:
    """Whether what it is made with is installed."""
    package = config.architecture.package
    return package is None or find_spec(package) is not None


def _sizes(config: ModelConfig, size: int) -> tuple[Cell, ...]:
    if not _measurable(config):
        return size, config.images, None, None, None, None, None
    cost: Cost = measure(config, _classes(config), size)
    memory = (
        None if (kept := cost.memory.get(mode)) is None else kept / 2**20 for mode in ("full", "checkpoint", "none")
    )
    return size, config.images, cost.parameters / 1e6, cost.flops / 1e9, *memory


def _classes(config: ModelConfig) -> tuple[str, ...]:
    """Lesions only, but for a loss that weighs the classes and so says how many there are."""
    weights = config.segmentation.class_weights
    return CLASSES if weights is None else ("organ", "lesion")[3 - len(weights) :]
