"""Agreement of two measurements of the same things, in Bland and Altman's numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

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
