"""From a row of a study to the recipe that trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from volattn.config import Config
from volattn.models.architectures import find_architecture
from volattn.studies.definition import Row, Study
from volattn.training.recipe import Recipe, load_recipe
from volattn.training.schedule import ScheduleConfig


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
    reference = _with_weights(load_recipe(options.recipe or study.recipe), options.weights).updated(common)
    found = []
    for row in study.runnable:
        try:
            recipe = _recipe(study, row, options, [*common, *own.get(row.key, [])])
            found.append(Resolved(row, equal_budget(recipe, reference.schedule, reference)))
        except ValueError as error:
            found.append(Resolved(row, None, str(error)))
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


def equal_budget(recipe: Recipe, schedule: ScheduleConfig, reference: Recipe) -> Recipe:
    """A recipe whose run sees as many target slices as that of another one.

    An epoch visits each target slice once, so that equal epochs are an equal budget; steps are stretched by the
    targets that one of them looks at. Milestones and warm-up keep their place in the run.

    Args:
        recipe: The row's.
        schedule: The other one's.
        reference: The other one.

    Raises:
        ValueError: One counts epochs and the other steps.
    """
    mine = recipe.schedule
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


def _recipe(study: Study, row: Row, options: Options, settings: Sequence[str]) -> Recipe:
    if options.recipe is not None:
        base, changes = load_recipe(options.recipe), row.changes
    elif row.recipe is not None:
        base, changes = load_recipe(row.recipe), row.own
    else:
        base, changes = load_recipe(study.recipe), {**row.changes, **row.own}
    recipe = changed(_with_weights(base, options.weights), changes, f"row {row.key}")
    recipe = recipe.model_copy(update={"name": row.key, "row": row.title})
    given = {setting.partition("=")[0].strip() for setting in settings}
    for key, what in row.asks.items():
        if key not in given:
            raise ValueError(f"give --set {row.key}:{key}=...: {what}")
    return _set(recipe, settings, row.key)


def _set(recipe: Recipe, settings: Sequence[str], key: str) -> Recipe:
    """Settings for all rows go to the keys that a row's network has."""
    pairs = dict(_pair(setting) for setting in settings)
    values = recipe.model_dump(mode="json")
    fitting = {name: value for name, value in pairs.items() if _has(values, name)}
    missing = pairs.keys() - fitting.keys()
    if missing and not all(name.startswith("model.") for name in missing):
        raise ValueError(f"row {key}: unknown key {min(missing)!r}; see docs/reference/recipes.md")
    return changed(recipe, fitting, f"row {key}")


def _has(values: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _pair(setting: str) -> tuple[str, Any]:
    key, _, text = setting.partition("=")
    return key.strip(), yaml.safe_load(text)


def _with_weights(recipe: Recipe, weights: str | None) -> Recipe:
    return recipe if weights is None else recipe.model_copy(update={"weights": weights})


def _sorted_settings(study: Study, settings: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Settings of single rows, and those of all."""
    own: dict[str, list[str]] = {}
    common: list[str] = []
    keys = [row.key for row in study.runnable]
    for setting in settings:
        key, separator, _ = setting.partition("=")
        if not separator:
            raise ValueError(f"--set {setting}: write it as KEY=VALUE, or ROW:KEY=VALUE")
        row, colon, _ = key.partition(":")
        if not colon:
            common.append(setting)
        elif row.strip() in keys:
            own.setdefault(row.strip(), []).append(setting.partition(":")[2])
        else:
            raise ValueError(f"--set {setting}: there is no row {row!r}; rows: {', '.join(keys)}")
    return own, common
