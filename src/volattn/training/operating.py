"""The operating threshold: the score from which on a lesion counts, chosen on the validation cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# float32, because scores are: a candidate then compares with them here exactly as in prediction.
CANDIDATES: NDArray[np.float32] = (np.arange(5, 100) / 100).astype(np.float32)
"""Thresholds that are tried: 0.05, 0.06, ..., 0.99."""


def passed(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """How many candidates each score reaches: all that a cut at any of them needs to know, in a byte."""
    return np.searchsorted(CANDIDATES, scores, side="right").astype(np.uint8)


def dice_curve(levels: NDArray[np.uint8], reference: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Lesion Dice of a case at every candidate; 1 where neither the reference nor the prediction has a lesion.

    Args:
        levels: `passed` of every voxel's highest score among the lesions that cover it, 0 without any.
        reference: Whether a voxel is lesion; the same shape.
    """
    covered = levels > 0
    inside = reference[covered]
    size = len(CANDIDATES) + 1
    hits = _at_least(np.bincount(levels[covered][inside], minlength=size))
    misses = _at_least(np.bincount(levels[covered][~inside], minlength=size))
    both_sizes = hits + misses + np.count_nonzero(reference)
    return np.where(both_sizes > 0, 2 * hits / np.maximum(both_sizes, 1), 1.0)


def _at_least(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Voxels whose score reaches each candidate: those that passed it or a higher one."""
    return counts[::-1].cumsum()[::-1][1:]


@dataclass(frozen=True)
class OperatingPoint:
    """The chosen threshold.

    Attributes:
        threshold: The candidate with the highest mean; the middle one of several.
        values: Those of each curve there, in the order given.
    """

    threshold: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the curves."""
        return sum(self.values) / len(self.values)


def f1_curve(matched: NDArray[np.float32], false: NDArray[np.float32], lesions: int) -> NDArray[np.float64]:
    """F1 of boxes at every candidate: 2 TP / (2 TP + FP + FN); 1 where there is neither a lesion nor a detection.

    Args:
        matched: Scores of the detections that are matched to a lesion of their own.
        false: Scores of those that hit none. (What hits a lesion that another one is matched to is neither.)
        lesions: How many there are.
    """
    size = len(CANDIDATES) + 1
    hits, misses = (_at_least(np.bincount(passed(scores), minlength=size)) for scores in (matched, false))
    both = hits + misses + lesions
    return np.where(both > 0, 2 * hits / np.maximum(both, 1), 1.0)


def choose_threshold(curves: Sequence[NDArray[np.float64]]) -> OperatingPoint:
    """Chooses the threshold at which the mean of some curves is highest.

    Args:
        curves: A value for each candidate, e.g. `dice_curve` of each case; at least one.
    """
    assert len(curves) > 0
    table = np.stack(list(curves))
    mean = table.mean(axis=0)
    best = np.flatnonzero(np.isclose(mean, mean.max(), rtol=0, atol=1e-12))
    place = int(best[len(best) // 2])
    return OperatingPoint(round(float(CANDIDATES[place]), 2), tuple(table[:, place].tolist()))
