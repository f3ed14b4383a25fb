"""Where a run stands and how fast it learns there: functions of the step alone, so that no state is kept."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Literal, Self

from pydantic import Field, model_validator

from volattn.config import Config, Steps


class ScheduleConfig(Config):
    """How long a run is, and its learning rate on the way.

    Attributes:
        unit: What `length` and `milestones` count: epochs or optimiser steps.
        length: Of the run.
        decay: "steps" multiplies the rate by `factor` at each milestone; "cosine" falls to 0 at the end.
        milestones: Ascending, within the run; for "steps" only.
        factor: See `decay`.
        warmup: Steps over which the rate rises linearly to its value.
        warmup_factor: Share of the rate at the first of them.
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
    """The steps of every epoch of a run: they differ, because an epoch's slabs are dealt anew.

    Attributes:
        config: The schedule.
        starts: First step of each epoch.
        total: Steps of the run.
    """

    config: ScheduleConfig
    starts: tuple[int, ...]
    total: int

    @classmethod
    def of(cls, config: ScheduleConfig, steps_of_epoch: Callable[[int], int]) -> Self:
        """Lays a run out.

        Args:
            config: The schedule.
            steps_of_epoch: Steps of an epoch, by its number from 0; at least 1.
        """
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
        """The learning rate at `step`, as a share of the recipe's."""
        config = self.config
        if config.decay == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * step / self.total))
        else:
            now = self.epoch(step) if config.unit == "epochs" else step
            share = config.factor ** bisect_right(config.milestones, now)
        if step < config.warmup:
            share *= config.warmup_factor + (1 - config.warmup_factor) * step / config.warmup
        return share
