"""A study, as data: the rows of a table, what is different in each, and the paper's own numbers for it.

From a row of a study to the recipe that trains it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from volattn.config import Config, parse_setting
from volattn.models.architectures import find_architecture
from volattn.training.recipe import Recipe, load_recipe

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


class Options(Config):
    """What a user changes for all rows or for one.

    Attributes:
        recipe: Where all rows start from, instead of the study's recipes.
        weights: Where the weights of all rows start, but of those that say otherwise themselves.
        settings: "KEY=VALUE" for all rows, "ROW:KEY=VALUE" for one; applied last.
    """

    recipe: str | None = None
    weights: str | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resolved:
    """A row as it is trained.

    Attributes:
        row: The row.
        recipe: None if it cannot be trained.
        reason: Why not.
    """

    row: Row
    recipe: Recipe | None
    reason: str = ""


def resolve(study: Study, options: Options) -> tuple[Resolved, ...]:
    """The recipes of a study's rows; a row that cannot be trained does not stop the others.

    Every row sees as many target slices as the study's recipe does: its schedule is stretched to that.

    Raises:
        ValueError: The recipe that all rows start from does not fit, or a setting names no row or has no "=".
    """
    own, common = _sorted_settings(study, options.settings)
    start = _with_weights(load_recipe(options.recipe or study.recipe), options.weights)
    reference = changed(start, _fitting(start, common), "--set")
    found: list[Resolved] = []
    used: set[str] = set()
    for row in study.runnable:
        try:
            recipe = _recipe(study, row, options, common, own.get(row.key, {}))
            fitting = _fitting(recipe, common)
            used |= fitting.keys()
            recipe = changed(recipe, {**fitting, **own.get(row.key, {})}, f"row {row.key}")
            found.append(Resolved(row, equal_budget(recipe, reference)))
        except ValueError as error:
            found.append(Resolved(row, None, str(error)))
    unused = common.keys() - used
    if unused and any(one.recipe is not None for one in found):
        raise ValueError(f"--set {min(unused)}: no row has such a key; see docs/reference/recipes.md")
    return tuple(found)


def changed(recipe: Recipe, changes: Mapping[str, Any], source: str) -> Recipe:
    """A recipe with some values replaced.

    Args:
        recipe: What holds where `changes` says nothing.
        changes: Values by nested keys joined by dots, each taking the place of what was there. A network of another
            name keeps what it reads itself.
        source: Whose changes they are; errors name it.

    Raises:
        ValueError: A key or value does not fit, or there is no model of that name.
    """
    values = recipe.model_dump(mode="json")
    name = changes.get("model.name")
    if name is not None:
        facts = find_architecture(name)
        if facts is None:
            raise ValueError(f"{source}: there is no model of the name {name}; `volattn info` lists them")
        values["model"] = facts.without_unread(values["model"])
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return Recipe.parse(values, source)


def equal_budget(recipe: Recipe, reference: Recipe) -> Recipe:
    """A recipe whose run sees as many target slices as that of another one.

    An epoch visits each target slice once, so that equal epochs are an equal budget; steps are stretched by the
    targets that one of them looks at. Milestones and warm-up keep their place in the run.

    Args:
        recipe: The row's.
        reference: The other one.

    Raises:
        ValueError: One counts epochs and the other steps.
    """
    mine, schedule = recipe.schedule, reference.schedule
    if mine.unit != schedule.unit:
        raise ValueError(
            f"{recipe.name}: its schedule counts {mine.unit}, the study's {schedule.unit}; give --set schedule.unit=..."
        )
    length = schedule.length
    if mine.unit == "steps":
        length = max(round(length * reference.step.nominal_targets() / recipe.step.nominal_targets()), 1)
    if length == mine.length:
        return recipe
    share = length / mine.length
    milestones = sorted({max(round(milestone * share), 1) for milestone in mine.milestones})
    changes: dict[str, Any] = {"schedule.length": length, "schedule.milestones": milestones}
    if mine.unit == "steps":
        changes["schedule.warmup"] = round(mine.warmup * share)
    return changed(recipe, changes, recipe.name)


def _recipe(study: Study, row: Row, options: Options, common: Mapping[str, Any], own: Mapping[str, Any]) -> Recipe:
    """A row's recipe with its own settings: its changes may fit with them only."""
    for key, what in row.asks.items():
        if key not in (*common, *own):
            raise ValueError(f"give --set {row.key}:{key}=...: {what}")
    if options.recipe is not None:
        base, changes = load_recipe(options.recipe), row.changes
    elif row.recipe is not None:
        base, changes = load_recipe(row.recipe), row.own
    else:
        base, changes = load_recipe(study.recipe), {**row.changes, **row.own}
    recipe = changed(_with_weights(base, options.weights), {**changes, **own}, f"row {row.key}")
    return recipe.model_copy(update={"name": row.key, "row": row.title})


def _fitting(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings for all rows those whose keys a recipe has: networks differ in theirs."""
    values = recipe.model_dump(mode="json")
    return {key: value for key, value in settings.items() if _has(values, key)}


def _has(values: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _with_weights(recipe: Recipe, weights: str | None) -> Recipe:
    return recipe if weights is None else recipe.model_copy(update={"weights": weights})


def _sorted_settings(study: Study, settings: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Settings of single rows, and those of all."""
    own: dict[str, dict[str, Any]] = {}
    common: dict[str, Any] = {}
    keys = [row.key for row in study.runnable]
    for setting in settings:
        where, value = parse_setting(setting, "KEY=VALUE, or ROW:KEY=VALUE")
        row, colon, key = (part.strip() for part in where.partition(":"))
        if not colon:
            common[row] = value
        elif row in keys:
            own.setdefault(row, {})[key] = value
        else:
            raise ValueError(f"--set {setting}: there is no row {row!r}; rows: {', '.join(keys)}")
    return own, common
