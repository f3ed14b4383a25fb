"""Which detections hit which lesions, the FROC curve of the hits, and average precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from volattn.structures.boxes import box_iou

_RECALLS = np.linspace(0, 1, 101)
_JUST_BELOW_ONE = 1 - 1e-10

Start = Literal["zero", "origin"]
"""Before the curve's first point: sensitivity 0, or the straight line from (0, 0) to that point."""


def pixel_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) IoU of boxes (n, 4) and (m, 4) xyxy, both ends inclusive: a box is x2 - x1 + 1 pixels wide."""
    one_more = np.array([0, 0, 1, 1])
    return box_iou(first + one_more, second + one_more)


def all_hits(overlaps: NDArray[np.float64], threshold: float) -> list[tuple[int, ...]]:
    """DeepLesion's rule: each of the (detections, lesions) hits every lesion that it overlaps enough.

    Only a detection that hits nothing at all is a false positive, whether or not another has hit its lesion before.
    """
    return [tuple(np.flatnonzero(row >= threshold).tolist()) for row in overlaps]


def one_to_one(overlaps: NDArray[np.float64], threshold: float) -> list[int | None]:
    """COCO's rule: the most certain detection first, each takes the free lesion it overlaps most.

    Of equal overlaps the last lesion is taken, as COCO's code does.

    Args:
        overlaps: (detections, lesions), the detections in the order of descending scores.

    Returns:
        For every detection its lesion, or None.
    """
    matches: list[int | None] = [None] * len(overlaps)
    if not overlaps.size:
        return matches
    least = min(threshold, _JUST_BELOW_ONE)
    free = np.ones(overlaps.shape[1], bool)
    for place in np.flatnonzero((overlaps >= least).any(axis=1)).tolist():
        row = np.where(free, overlaps[place], -1.0)
        best = len(row) - 1 - int(row[::-1].argmax())
        if row[best] >= least:
            matches[place] = best
            free[best] = False
    return matches


@dataclass(frozen=True, eq=False)
class Froc:
    """The FROC curve: sensitivity against false positives per image.

    It has a point for every score that occurs: detections with one score cannot be told apart by a threshold, so that
    the order of rows changes nothing. Everything may be weighted by patient, which is how a bootstrap resamples.

    Attributes:
        lesion_scores: (L,) the highest score of a detection that hits the lesion, -inf for a missed one.
        lesion_patients: (L,) numbers of patients.
        false_scores: (F,) scores of the false positives.
        false_patients: (F,).
        image_patients: (I,) the patient of every image, with and without detections.
        start: The sensitivity before the first point.
    """

    lesion_scores: NDArray[np.float64]
    lesion_patients: NDArray[np.int64]
    false_scores: NDArray[np.float64]
    false_patients: NDArray[np.int64]
    image_patients: NDArray[np.int64]
    start: Start = "zero"

    def detected(self, levels: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(L, K) how far each lesion is detected at K numbers of false positives per image, from 0 to 1.

        Between two points of the curve sensitivity is linear, and so a lesion that the second point has and
        the first has not is detected in part. Beyond the curve its last point holds. The sensitivity of any set
        of lesions is its mean, weighted by (P,) how often each patient counts.
        """
        low, high, part = self._between(levels, weights)
        point = self._lesion_point[:, None]
        return (point <= low) * (1 - part) + (point <= high) * part

    def sensitivity(
        self, levels: NDArray[np.float64], weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """(K,) the share of the lesions that is detected; NaN without lesions."""
        found = self._found(weights)
        total = found[-1]
        if not total:
            return np.full(len(levels), np.nan)
        low, high, part = self._between(levels, weights)
        return (found[low + 1] * (1 - part) + found[high + 1] * part) / total

    def threshold(self, level: float) -> float:
        """The lowest score with at most so many false positives per image; infinity if no score is high enough."""
        false = np.cumsum(np.bincount(self._false_point, minlength=len(self._thresholds)))
        allowed = np.flatnonzero(false <= level * len(self.image_patients))
        return float(-self._thresholds[allowed[-1]]) if len(allowed) else np.inf

    def _between(
        self, levels: NDArray[np.float64], weights: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(K,) the points below and above each level, -1 before the first, and how far it lies between them."""
        points = len(self._thresholds)
        if not points:
            before = np.full(len(levels), -1)
            return before, before, np.zeros(len(levels))
        false, images = (self._weighted(self.false_patients, weights), self._weighted(self.image_patients, weights))
        counts = np.cumsum(np.bincount(self._false_point, weights=false, minlength=points))
        allowed = levels * images.sum()
        low = np.searchsorted(counts, allowed, side="right") - 1
        high = np.minimum(low + 1, points - 1)
        before = np.where(low >= 0, counts[low], 0.0)
        gap = counts[high] - before
        part = np.divide(allowed - before, gap, out=np.zeros(len(levels)), where=gap > 0)
        if self.start == "zero":
            part[(before <= 0) & (self._found(weights)[low + 1] <= 0)] = 0
        return low, high, part

    def _found(self, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """(points + 2,) lesions found before the curve's first point, up to each point, and all there are."""
        lesions = self._weighted(self.lesion_patients, weights)
        counted = np.bincount(self._lesion_point, weights=lesions, minlength=len(self._thresholds) + 1)
        return np.concatenate([[0.0], np.cumsum(counted)])

    @staticmethod
    def _weighted(patients: NDArray[np.int64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        return np.ones(len(patients)) if weights is None else weights[patients].astype(np.float64)

    @cached_property
    def _thresholds(self) -> NDArray[np.float64]:
        """The scores that occur, negative and ascending."""
        found = self.lesion_scores[np.isfinite(self.lesion_scores)]
        return np.unique(-np.concatenate([found, self.false_scores]))

    @cached_property
    def _lesion_point(self) -> NDArray[np.int64]:
        """The point of the curve from which on each lesion is detected; past the last one for missed ones."""
        return np.searchsorted(self._thresholds, -self.lesion_scores)

    @cached_property
    def _false_point(self) -> NDArray[np.int64]:
        return np.searchsorted(self._thresholds, -self.false_scores)


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """COCO's average precision of one class: the mean of the precision envelope at 101 recalls.

    Attributes:
        matches: (D,) in descending order of scores: the lesion that each detection is matched to, -1 for none.
        patients: (D,) the patients of the detections.
        lesion_patients: (L,) numbers of patients.
    """

    matches: NDArray[np.int64]
    patients: NDArray[np.int64]
    lesion_patients: NDArray[np.int64]

    def values(self, groups: NDArray[np.bool_], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(G,) the average precision of (G, L) groups of lesions; NaN where a group has no lesion.

        Detections matched to other lesions are left out, as COCO does with what it ignores. The (P,) weights say how
        often each patient counts; once by default.
        """
        lesions = np.ones(len(self.lesion_patients)) if weights is None else weights[self.lesion_patients]
        false = np.ones(len(self.matches)) if weights is None else weights[self.patients]
        places, found = self._matched
        false[places] = 0
        false_before = np.cumsum(false)[places]
        return np.array(
            [_mean_precision(lesions, group, found[group[found]], false_before[group[found]]) for group in groups]
        )

    @cached_property
    def _matched(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        places = np.flatnonzero(self.matches >= 0)
        return places, self.matches[places]


def _mean_precision(
    lesions: NDArray[np.float64], group: NDArray[np.bool_], found: NDArray[np.int64], false_before: NDArray[np.float64]
) -> float:
    wanted = lesions[group].sum()
    if not wanted:
        return float("nan")
    true = np.cumsum(lesions[found])
    total = true + false_before
    precision = np.divide(true, total, out=np.zeros(len(true)), where=total > 0)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(true / wanted, _RECALLS)].mean())
