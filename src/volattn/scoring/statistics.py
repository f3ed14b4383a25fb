"""How sure a number is: bootstrap over patients, tests of differences, agreement of two measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.io.names import count_of
from volattn.scoring.metrics import Count, Number

RESAMPLES = 1000
LEVEL = 0.95
SIGNIFICANT = 0.05
FEW = 10
"""Fewer patients than these make bootstrap intervals that are too narrow."""


def described(seed: int, over: str = "patients") -> dict[str, Any]:
    """The settings of a bootstrap for a file; `over` is what was drawn."""
    return {"over": over, "resamples": RESAMPLES, "level": LEVEL, "seed": seed}


def few_warning(count: int, thing: str) -> str:
    """A clause that warns of intervals over few patients or cases; empty if there are enough, or no intervals."""
    return f"; with only {count_of(count, thing)} they are too narrow" if 1 < count < FEW else ""


def is_significant(interval: Sequence[float] | None, p: float | None) -> bool:
    """Whether the interval of a difference excludes 0 and its corrected p is below 0.05."""
    return interval is not None and p is not None and not interval[0] <= 0 <= interval[1] and p < SIGNIFICANT


def resamples(patients: int, seed: int, count: int | None = None) -> NDArray[np.float64]:
    """(B, patients) how often each patient is in each of B bootstrap samples, drawn with replacement."""
    return _resamples(patients, seed, count or RESAMPLES)


@lru_cache(maxsize=4)
def _resamples(patients: int, seed: int, count: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    drawn = [np.bincount(generator.integers(0, patients, patients), minlength=patients) for _ in range(count)]
    result = np.array(drawn, np.float64)
    result.flags.writeable = False
    return result


def percentile_interval(values: NDArray[np.float64], level: float = LEVEL) -> NDArray[np.float64]:
    """(2, ...) ends of the middle share of bootstrap values (B, ...); undefined ones (NaN) do not count."""
    tail = 100 * (1 - level) / 2
    undefined = np.isnan(values).all(axis=0)
    low, high = np.nanpercentile(np.where(undefined, 0.0, values), [tail, 100 - tail], axis=0)
    return np.stack([np.where(undefined, np.nan, end) for end in (low, high)])


def student_quantiles(count: int, freedom: int) -> NDArray[np.float64]:
    """Student's t distribution with some degrees of freedom as equally likely values, ascending."""
    from scipy.stats import t

    return np.asarray(t.ppf((np.arange(count) + 0.5) / count, freedom), np.float64)


def wilcoxon_p(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test of (n,) differences, zeros dropped; None if nothing differs."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue) if differences.any() else None


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p values corrected by Holm's method for their number; None is not counted and stays."""
    tested = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[place] = highest
    return corrected


_LIMITS = 1.96


@dataclass(frozen=True)
class Agreement:
    """How predicted measures agree with those of the reference, in Bland and Altman's numbers.

    Attributes:
        bias: Mean of prediction - reference; None without a pair.
        sd: Standard deviation of the differences (n - 1); None with fewer than two pairs, as the limits are.
        lower: Limit of agreement, bias - 1.96 sd; `upper` likewise.
    """

    n: Count
    bias: Number | None
    sd: Number | None
    lower: Number | None
    upper: Number | None

    def __post_init__(self) -> None:
        if (self.lower is None) != (self.upper is None) or (self.lower is not None and self.bias is None):
            raise ValueError("must have lower, upper and bias, or none of them")

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> Agreement:
        """Compares (reference, prediction) of each thing that was measured twice."""
        differences = np.array([prediction - reference for reference, prediction in pairs])
        n = len(differences)
        if n < 2:
            return cls(n, float(differences[0]) if n else None, None, None, None)
        bias, sd = float(differences.mean()), float(differences.std(ddof=1))
        return cls(n, bias, sd, bias - _LIMITS * sd, bias + _LIMITS * sd)
