"""Recipes: everything that decides the result of a run, as values; and the steps of a run with their learning rate."""

from __future__ import annotations

import difflib
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from volattn.config import Config, Images, Share, Steps, merged, pruned, read_values
from volattn.io.names import SHOWN, cut
from volattn.models.detectors.rcnn import MaskRCNNConfig
from volattn.models.precision import Precision
from volattn.models.registry import AnyModel, find_config, settable
from volattn.phantoms.painter import SyntheticConfig
from volattn.preprocessing.plan import Plan
from volattn.slabs.augment import AugmentConfig
from volattn.slabs.loader import SlabConfig


class ScheduleConfig(Config):
    """The length of a run, and its learning rate.

    Attributes:
        unit: What `length` and `milestones` count: epochs or optimiser steps.
        length: Of the run.
        decay: "steps" multiplies the rate by `factor` at each milestone; "cosine" falls to 0 at the end.
        milestones: Ascending, within the run; for "steps" only.
        factor: See `decay`.
        warmup: Steps over which the rate rises linearly to its value.
        warmup_factor: Factor of the rate at the first of them.
    """

    unit: Literal["epochs", "steps"] = "epochs"
    length: Steps = 12
    decay: Literal["steps", "cosine"] = "steps"
    milestones: tuple[Steps, ...] = Field(default=(8, 11), max_length=1000)
    factor: float = Field(default=0.1, gt=0, le=1)
    warmup: int = Field(default=500, ge=0, le=10**7)
    warmup_factor: float = Field(default=1 / 3, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must ascend, found {list(self.milestones)}")
        return self


@dataclass(frozen=True)
class Timetable:
    """The first step of each epoch of a run, and its total of steps; epochs differ, as each draws its slabs."""

    config: ScheduleConfig
    starts: tuple[int, ...]
    total: int

    @classmethod
    def of(cls, config: ScheduleConfig, steps_of_epoch: Callable[[int], int]) -> Self:
        """The timetable of a schedule; `steps_of_epoch` gives the steps, at least 1, of an epoch by its number."""
        starts, step = [], 0
        for epoch in count():
            done = epoch if config.unit == "epochs" else step
            if done >= config.length:
                break
            starts.append(step)
            steps = steps_of_epoch(epoch)
            assert steps > 0, epoch
            step += steps
        return cls(config, tuple(starts), step if config.unit == "epochs" else config.length)

    def steps(self, epoch: int) -> range:
        """The steps of an epoch; the run may end before the epoch does."""
        stop = self.starts[epoch + 1] if epoch + 1 < len(self.starts) else self.total
        return range(self.starts[epoch], stop)

    def epoch(self, step: int) -> int:
        """The epoch that `step` belongs to."""
        return bisect_right(self.starts, step) - 1

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` is the last of its epoch, or of the run."""
        return step + 1 == self.total or step + 1 in self.starts

    def rate(self, step: int) -> float:
        """The learning rate at `step`, as a factor of the recipe's."""
        config = self.config
        if config.decay == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * step / self.total))
        else:
            now = self.epoch(step) if config.unit == "epochs" else step
            factor = config.factor ** bisect_right(config.milestones, now)
        if step < config.warmup:
            factor *= config.warmup_factor + (1 - config.warmup_factor) * step / config.warmup
        return factor


_SHIPPED = Path(str(files("volattn.training") / "recipes"))
_ROWS = _SHIPPED / "rows.yaml"


class StepConfig(Config):
    """The slices of one optimiser step, which decide the memory that it takes.

    Attributes:
        targets: M, the neighbouring targets of a slab at most; they share their context.
        slabs: Slabs joined for one call of the network, on each process.
        accumulate: Calls whose gradients are added up for one step.
        empty_share: Largest share of target slices without any object in an epoch.
        organ_share: Largest share of slices without a lesion among those with an object.
    """

    targets: Images = 4
    slabs: Images = 1
    accumulate: Steps = 4
    empty_share: Share = 0.25
    organ_share: Share = 1.0

    def nominal_targets(self, processes: int = 1) -> int:
        """Targets of a full step over all processes."""
        return self.targets * self.slabs * self.accumulate * processes


class OptimiserConfig(Config):
    """The optimiser.

    Attributes:
        name: "sgd" (with momentum) or "adamw".
        lr: Learning rate for a step of `reference_targets` targets; it grows linearly with a step's targets.
        reference_targets: See `lr`.
        attention_lr_factor: Factor of the rate for attention, or what replaces it: it is new where the rest comes from
            pretrained weights.
        momentum: Of SGD; the first beta of AdamW.
        weight_decay: L2 penalty of SGD; decoupled decay of AdamW.
        clip: Largest norm of a step's gradient; null for no clipping.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.02, gt=0)
    reference_targets: Steps = 16
    attention_lr_factor: float = Field(default=1.0, gt=0, le=1000)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip: float | None = Field(default=35.0, gt=0)


class ValidationConfig(Config):
    """When a run is validated, and on which cases.

    Attributes:
        fraction: Share of the patients that are kept for validation (unless a fold is given).
        every: Steps between validations; 0 validates after every epoch. A validation always follows the last step.
        cases: The number of validation cases, the first ones; null for all.
        batch: Images encoded at a time.
    """

    fraction: float = Field(default=0.25, ge=0, lt=1)
    every: int = Field(default=0, ge=0, le=10**7)
    cases: Steps | None = None
    batch: Images = 4


class Recipe(Config):
    """A run, as data.

    Attributes:
        name: Its name in results.
        row: The row of the paper's tables that it reproduces, if any.
        weights: Initial weights: none, imagenet, coco, demo, a file or an earlier run.
        attention_weights: Whether attention is also copied from an earlier run of other classes or with other heads.
        seed: Decides the split, the initial weights, the order of slabs, their augmentation and all sampling.
        precision: "fp32" throughout, or automatic mixed precision: "bf16" or "fp16".
        save_every: Steps between two states from which a killed run is resumed; every validation saves one too.
        plan: How volumes are prepared; a store prepared otherwise is refused.
        model: The network, which also decides bags and images.
        step: The slices of a step.
        augment: Augmentation of the slabs; null for none.
        synthetic: Lesions and look-alikes painted into the organ while training; null for none.
        optimiser: See `OptimiserConfig`.
        schedule: Length and learning rate.
        validation: See `ValidationConfig`.
    """

    name: str = "custom"
    row: str | None = None
    weights: str = "none"
    attention_weights: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Precision = "fp32"
    save_every: Steps = 500
    plan: Plan = Plan()
    model: AnyModel = MaskRCNNConfig()
    step: StepConfig = StepConfig()
    augment: AugmentConfig | None = AugmentConfig()
    synthetic: SyntheticConfig | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    validation: ValidationConfig = ValidationConfig()

    @property
    def slabs(self) -> SlabConfig:
        """The slabs that this model and these steps need; a model without attention needs no bags."""
        return SlabConfig(
            bag=self.model.images,
            slices=self.model.slices,
            window=self.model.window.slices,
            label_maps=self.model.output == "label_map",
            targets=self.step.targets,
            empty_share=self.step.empty_share,
            organ_share=self.step.organ_share,
        )

    def settable(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values that settings can change; `model.name` decides which the model has."""
        own = {key.removeprefix("model."): value for key, value in given.items() if key.startswith("model.")}
        return super().settable(given) | {"model": settable(self.model, own)}


def shipped() -> tuple[str, ...]:
    """Names of the recipes in the package: those with a file, then the rows of the paper's tables."""
    return (*sorted(_files()), *_rows())


def load_recipe(source: str | Path) -> Recipe:
    """Reads a recipe of the package by its name, or any other by its path.

    A recipe may have `base: NAME` (or the path of a file, from its own folder): its values then override those of
    the base. A model of another name inherits from the base the values that it has itself.

    Raises:
        ValueError: There is no such recipe, or a key or value of it does not fit.
    """
    return Recipe.parse(_values(str(source), Path(), ()), str(source))


def _files() -> dict[str, Path]:
    return {path.stem: path for path in _SHIPPED.glob("*.yaml") if path != _ROWS}


def _rows() -> dict[str, dict[str, Any]]:
    return {name: {"name": name, **changes} for name, changes in read_values(_ROWS).items()}


def _values(source: str, folder: Path, above: tuple[str, ...]) -> Any:
    """The values of a recipe, merged into those of its base.

    Args:
        source: A name, or a path from `folder`.
        folder: Of the recipe that names this one.
        above: The recipes that this is a base of.
    """
    rows, named = _rows(), _files()
    if source in rows:
        values, place, identity = rows[source], _SHIPPED, source
    elif source in named or Path(source).suffix in (".yaml", ".json"):
        path = named.get(source, folder / source)
        values, place = read_values(path), path.parent
        source, identity = str(path), str(path.resolve())
    else:
        near = difflib.get_close_matches(source, [*named, *rows], n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else "`volattn info` lists them;"
        raise ValueError(f"{cut(source, SHOWN)}: no such recipe; {meant} any other is the path of a .yaml file")
    if not isinstance(values, Mapping) or "base" not in values:
        return values
    changes = {key: value for key, value in values.items() if key != "base"}
    base = str(values["base"])
    if identity in above:
        raise ValueError(f"{source}: is a base of itself ({' > '.join((*above, identity))})")
    below = _values(base, place, (*above, identity))
    if not isinstance(below, Mapping):
        raise ValueError(f"{source}: its base {cut(base, SHOWN)} is not a recipe")
    return merged(_inherited(below, changes), changes)


def _inherited(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a base that a recipe inherits: not its name, nor those that another model does not have."""
    kept = {key: value for key, value in base.items() if key not in ("name", "row")}
    model, theirs = changes.get("model"), kept.get("model")
    chosen = find_config(model) if isinstance(model, Mapping) and "name" in model else None
    if chosen is not None and isinstance(theirs, Mapping):
        kept["model"] = pruned(theirs, chosen)
    return kept
