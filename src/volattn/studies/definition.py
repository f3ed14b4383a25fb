"""A study, as data: the rows of a table, what is different in each, and the paper's own numbers for it."""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from volattn.config import Config

_SHIPPED = Path(str(files("volattn.studies") / "tables"))

Kind = Literal["masks", "boxes"]

METRICS: dict[Kind, dict[str, str]] = {
    "masks": {
        "dice_per_case": "Dice per case",
        "dice_small": "Dice, small",
        "dice_medium": "Dice, medium",
        "dice_large": "Dice, large",
        "recall": "Recall",
        "false_positives_per_case": "FP per case",
        "organ_dice_per_case": "Organ Dice",
    },
    "boxes": {
        "sensitivity_at_fp_per_image.0.5": "0.5 FP",
        "sensitivity_at_fp_per_image.1": "1 FP",
        "sensitivity_at_fp_per_image.2": "2 FP",
        "sensitivity_at_fp_per_image.4": "4 FP",
        "mean_sensitivity": "Mean of 0.5 to 4 FP",
        "ap50": "AP50",
    },
}
"""What a study can measure, and what its column is called."""


class Row(Config):
    """One row of a table.

    Attributes:
        key: Its name in folders and on the command line.
        title: Its name in the table.
        recipe: Where it starts from instead of the study's recipe. Left out where all rows start from one recipe that
            was asked for: `changes` then say all that is different.
        own: What is different, on its own recipe.
        changes: What is different, on the study's recipe: nested keys joined by dots. A value takes the place of what
            was there; a network of another name keeps of the recipe what it reads itself.
        paper: What the paper reports, in percent, by metric.
        baseline: The row that it is tested against instead of the study's.
        asks: A key that only the user can give, and what to give, in words.
        published: Whether it is a number of others that cannot be run: it is shown and not run.
    """

    key: str = Field(pattern=r"[a-z0-9][a-z0-9.-]*")
    title: str
    recipe: str | None = None
    own: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    paper: dict[str, float] = {}
    baseline: str | None = None
    asks: dict[str, str] = {}
    published: bool = False


class Study(Config):
    """What is compared, and how it is shown.

    Attributes:
        title: Of the table.
        question: What it is to tell, in a sentence.
        paper: The paper's table that it stands for; null for a question of our own.
        kind: Whether label maps or boxes are scored.
        recipe: Where rows start from, and whose target slices are everybody's budget.
        rows: In the table's order.
        metrics: The columns, see `METRICS`; the first is the plot's.
        baseline: The row that the others are tested against.
        notes: What the reader must know of the paper's numbers.
    """

    title: str
    question: str
    paper: str | None = None
    kind: Kind
    recipe: str
    rows: tuple[Row, ...] = Field(min_length=1)
    metrics: tuple[str, ...] = Field(min_length=1)
    baseline: str
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [row.key for row in self.rows]
        if len(set(keys)) != len(keys):
            raise ValueError(f"rows must have different keys, found {', '.join(keys)}")
        run = {row.key for row in self.runnable}
        for name in (self.baseline, *(row.baseline for row in self.rows if row.baseline is not None)):
            if name not in run:
                raise ValueError(f"baseline {name!r} is no row that is run; rows: {', '.join(keys)}")
        known = METRICS[self.kind]
        for name in (*self.metrics, *(name for row in self.rows for name in row.paper)):
            if name not in known:
                raise ValueError(f"metric {name!r} is unknown; {self.kind} have {', '.join(known)}")
        return self

    @property
    def runnable(self) -> tuple[Row, ...]:
        """The rows that are trained."""
        return tuple(row for row in self.rows if not row.published)

    def baseline_of(self, row: Row) -> str | None:
        """The row that a row is tested against; None for the baseline itself."""
        name = row.baseline or self.baseline
        return None if name == row.key else name


def shipped() -> tuple[str, ...]:
    """Names of the studies in the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def load_study(source: str | Path) -> tuple[str, Study]:
    """Reads a study of the package by its name, or any other by its path.

    Returns:
        Its name, and what it says.

    Raises:
        ValueError: There is no such study, or a key or value of it does not fit.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".json"):
        return re.sub(r"[^a-z0-9.-]+", "-", path.stem.lower()), Study.read(path)
    if str(source) not in shipped():
        near = difflib.get_close_matches(str(source), shipped(), n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(shipped())};"
        raise ValueError(f"{source}: no such study; {meant} any other is the path of a .yaml file")
    return str(source), Study.read(_SHIPPED / f"{source}.yaml")
