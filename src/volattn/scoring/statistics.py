"""How sure a number is: bootstrap over patients, and tests of differences.

Agreement of two measurements of the same things, in Bland and Altman's numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95


def described(seed: int, over: str = "patients") -> dict[str, Any]:
    """What a bootstrap did, as `scores.json` says it.

    Args:
        seed: Of its samples.
        over: What was drawn.
    """
    return {"over": over, "resamples": RESAMPLES, "level": LEVEL, "seed": seed}


def resamples(patients: int, seed: int, count: int = RESAMPLES) -> Iterator[NDArray[np.float64]]:
    """Bootstrap samples of patients, drawn with replacement.

    Args:
        patients: How many there are.
        seed: The same seed gives the same samples.
        count: How many samples.

    Yields:
        (patients,) how often each was drawn.
    """
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield np.bincount(generator.integers(0, patients, patients), minlength=patients).astype(np.float64)


def percentile_interval(values: NDArray[np.float64], level: float = LEVEL) -> NDArray[np.float64]:
    """The middle share of bootstrap values.

    Args:
        values: (B, ...); samples in which a value is not defined (NaN) do not count.
        level: The share.

    Returns:
        (2, ...) lower and upper end; NaN where no sample has a value.
    """
    tail = 100 * (1 - level) / 2
    undefined = np.isnan(values).all(axis=0)
    low, high = np.nanpercentile(np.where(undefined, 0.0, values), [tail, 100 - tail], axis=0)
    return np.stack([np.where(undefined, np.nan, end) for end in (low, high)])


def student_quantiles(count: int, freedom: int) -> NDArray[np.float64]:
    """Student's t distribution as equally likely values, in ascending order.

    Args:
        count: How many.
        freedom: Degrees of freedom.
    """
    from scipy.stats import t

    return np.asarray(t.ppf((np.arange(count) + 0.5) / count, freedom), np.float64)


def wilcoxon_p(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test, as scipy has it by default: zeros are dropped.

    Args:
        differences: (n,) one per independent unit.

    Returns:
        The p; None if nothing differs.
    """
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
    """How predicted measures agree with those of the reference.

    Attributes:
        n: Pairs of measures.
        bias: Mean of prediction - reference; None without a pair.
        sd: Standard deviation of the differences (n - 1); None with fewer than two pairs.
        lower: Lower limit of agreement, bias - 1.96 sd.
        upper: Upper limit of agreement, bias + 1.96 sd.
    """

    n: int
    bias: float | None
    sd: float | None
    lower: float | None
    upper: float | None

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> Agreement:
        """Compares (reference, prediction) of each thing that was measured twice."""
        differences = np.array([prediction - reference for reference, prediction in pairs])
        n = len(differences)
        if n < 2:
            return cls(n, float(differences[0]) if n else None, None, None, None)
        bias, sd = float(differences.mean()), float(differences.std(ddof=1))
        return cls(n, bias, sd, bias - _LIMITS * sd, bias + _LIMITS * sd)

    def as_json(self) -> dict[str, float | int | None]:
        """Plain values."""
        return asdict(self)
