"""A study as data: the rows of a table, what is different in each, the paper's numbers, and the recipe of each row."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from volattn.config import Config, parse_setting, pruned
from volattn.models.registry import config_class
from volattn.scoring.metrics import metrics_of
from volattn.training.recipe import Recipe, load_recipe

_SHIPPED = Path(str(files("volattn.studies") / "tables"))

Kind = Literal["masks", "boxes"]


class Row(Config):
    """One row of a table; its keys are in docs/reference/studies.md."""

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
    """What is compared, and how it is shown; its keys are in docs/reference/studies.md."""

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
        known = metrics_of(self.kind)
        for name in (*self.metrics, *(name for row in self.rows for name in row.paper)):
            if name not in known:
                raise ValueError(f"metric {name!r} is unknown; {self.kind} have {', '.join(known)}")
        return self

    @property
    def runnable(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.published)

    def baseline_of(self, row: Row) -> str | None:
        """The row that a row is tested against; None for the baseline itself, and for quoted rows."""
        name = row.baseline or self.baseline
        return None if row.published or name == row.key else name


def shipped() -> tuple[str, ...]:
    """Names of the package's studies."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def load_study(source: str | Path) -> tuple[str, Study]:
    """The name and the content of a study: of the package by its name, or any other by its path.

    Raises:
        ValueError: There is no such study, or a key or value of it does not fit.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".json"):
        return re.sub(r"[^a-z0-9.-]+", "-", path.stem.lower()), Study.read(path)
    if str(source) not in shipped():
        near = difflib.get_close_matches(str(source), shipped(), n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(shipped())};"
        raise ValueError(f"{source}: no such study; {meant} for a study of your own give the path of a .yaml file")
    return str(source), Study.read(_SHIPPED / f"{source}.yaml")


class Overrides(Config):
    """What a user changes for all rows or for one.

    Attributes:
        recipe: That all rows change, instead of the study's recipes.
        weights: That all rows start from, except rows that change `weights` themselves.
        settings: "KEY=VALUE" for all rows, "ROW:KEY=VALUE" for one; applied last.
    """

    recipe: str | None = None
    weights: str | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowRecipe:
    """A row with the recipe that trains it; None, and the reason, if it cannot be trained."""

    row: Row
    recipe: Recipe | None
    reason: str = ""


def resolve(study: Study, overrides: Overrides) -> tuple[RowRecipe, ...]:
    """The recipes of a study's rows; a row that cannot be trained does not stop the others.

    Every row sees as many target slices as the study's recipe does: its schedule is stretched to that.

    Raises:
        ValueError: The recipe that all rows start from does not fit, or a setting names no row or has no "=".
    """
    own, common = _sorted_settings(study, overrides.settings)
    start = _with_weights(load_recipe(overrides.recipe or study.recipe), overrides.weights)
    reference = changed(start, _applicable(start, common), "--set")
    found: list[RowRecipe] = []
    used: set[str] = set()
    for row in study.runnable:
        try:
            recipe = _recipe(study, row, overrides, common, own.get(row.key, {}))
            applicable = _applicable(recipe, common)
            used |= applicable.keys()
            recipe = changed(recipe, {**applicable, **own.get(row.key, {})}, f"row {row.key}")
            found.append(RowRecipe(row, equal_budget(recipe, reference)))
        except ValueError as error:
            found.append(RowRecipe(row, None, str(error)))
    unused = common.keys() - used
    if unused and any(one.recipe is not None for one in found):
        raise ValueError(f"--set {min(unused)}: no row has such a key; see docs/reference/recipes.md")
    return tuple(found)


def changed(recipe: Recipe, changes: Mapping[str, Any], source: str) -> Recipe:
    """A recipe with some values replaced, by nested keys joined by dots; errors name whose changes (`source`) they are.

    A model of another name keeps those values that it has.

    Raises:
        ValueError: A key or value does not fit, or there is no model of that name.
    """
    values = recipe.model_dump(mode="json")
    name = changes.get("model.name")
    if name is not None:
        try:
            chosen = config_class({"name": name})
        except ValueError as error:
            raise ValueError(f"{source}: model.{error}") from None
        values["model"] = pruned(values["model"], chosen)
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return Recipe.parse(values, source)


def equal_budget(recipe: Recipe, reference: Recipe) -> Recipe:
    """A recipe whose run sees as many target slices as that of another one.

    An epoch visits each target slice once, so that equal epochs are an equal budget. A length in steps is scaled by the
    targets of a step; milestones and warm-up keep their share of the run.

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


def _recipe(study: Study, row: Row, overrides: Overrides, common: Mapping[str, Any], own: Mapping[str, Any]) -> Recipe:
    """A row's recipe with its own settings, without which its changes may not be valid."""
    for key, what in row.asks.items():
        if key not in (*common, *own):
            raise ValueError(f"give --set {row.key}:{key}=...: {what}")
    if overrides.recipe is not None:
        base, changes = load_recipe(overrides.recipe), row.changes
    elif row.recipe is not None:
        base, changes = load_recipe(row.recipe), row.own
    else:
        base, changes = load_recipe(study.recipe), {**row.changes, **row.own}
    recipe = changed(_with_weights(base, overrides.weights), {**changes, **own}, f"row {row.key}")
    return recipe.model_copy(update={"name": row.key, "row": row.title})


def _applicable(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings for all rows whose keys a recipe has: models differ in theirs."""

    def has(values: Any, key: str) -> bool:
        first, _, rest = key.partition(".")
        return isinstance(values, Mapping) and first in values and (not rest or has(values[first], rest))

    values = recipe.model_dump(mode="json")
    return {key: value for key, value in settings.items() if has(values, key)}


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
