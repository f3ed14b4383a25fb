"""The tables of `volattn info`: architectures and recipes, what they are and what they cost. Needs no PyTorch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import volattn.training
from volattn.io.files import read_json
from volattn.report.pages import Cell, Column, Table

COSTS = Path(volattn.training.__file__).parent / "recipes" / "costs.json"
"""What `make costs` measures of every architecture and recipe, which takes minutes."""

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


def check_names(wanted: Iterable[str], known: Iterable[str]) -> None:
    """Checks that these are names of architectures or recipes.

    Raises:
        ValueError: One is not; the error offers close ones.
    """
    known = list(known)
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            raise ValueError(
                f"{name}: is neither an architecture nor a recipe; "
                + (f"did you mean {' or '.join(near)}?" if near else "without a name, all are listed")
            )


def model_table(wanted: Sequence[str] = ()) -> list[Table]:
    """A table of architectures and one of recipes, of those that are wanted; of all if none is.

    Raises:
        ValueError: A name is unknown.
    """
    costs = read_json(COSTS)
    check_names(wanted, [name for rows in costs.values() for name in rows])

    def rows(kind: str) -> tuple[tuple[Cell, ...], ...]:
        return tuple(_row(name, row) for name, row in costs[kind].items() if not wanted or name in wanted)

    tables = (
        Table(
            f"Architectures, with default values; {_MEMORY}.",
            (Column("name"), *_SIZES, Column("attention"), Column("what it is")),
            rows("architectures"),
        ),
        Table(f"Recipes; {_MEMORY}.", (Column("name"), *_SIZES, Column("model"), Column("row of")), rows("recipes")),
    )
    return [table for table in tables if table.rows]


def _row(name: str, row: dict[str, Any]) -> tuple[Cell, ...]:
    package = row["package"]
    note = " (install volattn[segmentation])" if package is not None and find_spec(package) is None else ""
    memory = (None if kept is None else kept / 2**20 for kept in map(row["memory"].get, ("full", "checkpoint", "none")))
    sizes = (row["px"], row["images"], row["parameters"] / 1e6, row["flops"] / 1e9, *memory)
    return name, *sizes, row.get("model") or row["attention"], (row["purpose"] or "-") + note
