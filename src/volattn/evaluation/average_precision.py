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

    def values(
        self, groups: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """The average precision of groups of lesions.

        Args:
            groups: (G, L) the lesions of each group; detections matched to other lesions are left out, as COCO
                does with what it ignores.
            weights: (P,) how often each patient counts; once by default.

        Returns:
            (G,) from 0 to 1; NaN where a group has no lesion.
        """
        lesions = np.ones(len(self.lesion_patients)) if weights is None else weights[self.lesion_patients]
        false = np.ones(len(self.matches)) if weights is None else weights[self.patients]
        places, found = self._matched
        false[places] = 0
        false_before = np.cumsum(false)[places]
        return np.array(
            [
                _mean_precision(lesions, group, found[group[found]], false_before[group[found]])
                for group in groups
            ]
        )

    @cached_property
    def _matched(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places of the matched detections, and their lesions."""
        places = np.flatnonzero(self.matches >= 0)
        return places, self.matches[places]


def _mean_precision(
    lesions: NDArray[np.float64],
    group: NDArray[np.bool_],
    found: NDArray[np.int64],
    false_before: NDArray[np.float64],
) -> float:
    """Over 101 recalls, from the lesions' weights, those that are found in order, and the false ones before each."""
    wanted = lesions[group].sum()
    if not wanted:
        return float("nan")
    true = np.cumsum(lesions[found])
    total = true + false_before
    precision = np.divide(true, total, out=np.zeros(len(true)), where=total > 0)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(true / wanted, _RECALLS)].mean())
