"""The operating threshold: the score from which on a lesion counts, chosen on the validation cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# float32, because scores are: a candidate then compares with them here exactly as in prediction.
CANDIDATES: NDArray[np.float32] = (np.arange(5, 100) / 100).astype(np.float32)
"""Thresholds that are tried: 0.05, 0.06, ..., 0.99."""


class LesionCounts:
    """Counts of one case from which its lesion Dice follows at every candidate threshold."""

    def __init__(self) -> None:
        self._inside = np.zeros(len(CANDIDATES) + 1, np.int64)
        self._outside = np.zeros(len(CANDIDATES) + 1, np.int64)
        self._reference = 0

    def add(self, scores: NDArray[np.float32], reference: NDArray[np.bool_]) -> None:
        """Counts a slice, or any part of the case.

        Args:
            scores: Per voxel the highest score of the lesions that cover it, 0 without any.
            reference: Whether a voxel is lesion; the same shape.
        """
        covered = scores > 0
        passed = np.searchsorted(CANDIDATES, scores[covered], side="right")
        inside = reference[covered]
        self._inside += np.bincount(passed[inside], minlength=len(self._inside))
        self._outside += np.bincount(passed[~inside], minlength=len(self._outside))
        self._reference += int(np.count_nonzero(reference))

    def dice(self) -> NDArray[np.float64]:
        """Lesion Dice at every candidate; 1 where neither the reference nor the prediction has a lesion."""
        hits = _at_least(self._inside)
        both_sizes = hits + _at_least(self._outside) + self._reference
        return np.where(both_sizes > 0, 2 * hits / np.maximum(both_sizes, 1), 1.0)


def _at_least(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Voxels whose score reaches each candidate: those that passed it or a higher one."""
    return counts[::-1].cumsum()[::-1][1:]


@dataclass(frozen=True)
class OperatingPoint:
    """The chosen threshold.

    Attributes:
        threshold: The candidate with the highest mean lesion Dice per case; the middle one of several.
        dice: Lesion Dice of each case there, in the order given.
    """

    threshold: float
    dice: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean lesion Dice per case."""
        return sum(self.dice) / len(self.dice)


def choose_threshold(curves: Sequence[NDArray[np.float64]]) -> OperatingPoint:
    """Chooses the threshold on the lesion Dice of several cases.

    Args:
        curves: `LesionCounts.dice` of each case; at least one.
    """
    assert len(curves) > 0
    table = np.stack(list(curves))
    mean = table.mean(axis=0)
    best = np.flatnonzero(np.isclose(mean, mean.max(), rtol=0, atol=1e-12))
    place = int(best[len(best) // 2])
    return OperatingPoint(round(float(CANDIDATES[place]), 2), tuple(table[:, place].tolist()))
