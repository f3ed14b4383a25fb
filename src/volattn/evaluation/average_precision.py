"""Average precision as COCO defines it: the mean of the precision envelope at 101 recalls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Detections of one class over all images, matched one to one.

    Attributes:
        matches: (D,) in descending order of scores: the lesion that each detection is matched to, -1 for none.
        patients: (D,) the patients of the detections.
        lesion_patients: (L,) numbers of patients.
    """

    matches: NDArray[np.int64]
    patients: NDArray[np.int64]
    lesion_patients: NDArray[np.int64]

    def value(
        self,
        chosen: NDArray[np.bool_] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> float:
        """The average precision.

        Args:
            chosen: (L,) the lesions that count, all by default; detections matched to others are left out, as
                COCO does with what it ignores.
            weights: (P,) how often each patient counts; once by default.

        Returns:
            From 0 to 1; NaN without lesions.
        """
        lesions = np.ones(len(self.lesion_patients)) if weights is None else weights[self.lesion_patients]
        wanted = lesions.sum() if chosen is None else lesions[chosen].sum()
        if not wanted:
            return float("nan")
        places, found = self._matched
        false = np.ones(len(self.matches)) if weights is None else weights[self.patients].astype(np.float64)
        false[places] = 0
        false_before = np.cumsum(false)[places]
        if chosen is not None:
            counts = chosen[found]
            found, false_before = found[counts], false_before[counts]
        true = np.cumsum(lesions[found])
        total = true + false_before
        precision = np.divide(true, total, out=np.zeros(len(true)), where=total > 0)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        return float(envelope[np.searchsorted(true / wanted, _RECALLS)].mean())

    @cached_property
    def _matched(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places of the matched detections, and their lesions."""
        places = np.flatnonzero(self.matches >= 0)
        return places, self.matches[places]
