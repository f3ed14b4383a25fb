"""Which detections hit which lesions, from their overlaps in one image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_JUST_BELOW_ONE = 1 - 1e-10


def all_hits(overlaps: NDArray[np.float64], threshold: float) -> list[tuple[int, ...]]:
    """DeepLesion's rule: a detection hits every lesion that it overlaps enough.

    Whether another detection has hit the lesion before is the curve's business: only a detection that hits
    nothing at all is a false positive.

    Args:
        overlaps: (detections, lesions).
        threshold: The least overlap of a hit.

    Returns:
        For every detection the lesions it hits.
    """
    hits: list[tuple[int, ...]] = [()] * len(overlaps)
    for detection, lesion in np.argwhere(overlaps >= threshold).tolist():
        hits[detection] += (lesion,)
    return hits


def one_to_one(overlaps: NDArray[np.float64], threshold: float) -> list[int | None]:
    """COCO's rule: the most certain detection first, each takes the free lesion it overlaps most.

    Of equal overlaps the last lesion is taken, as COCO's code does.

    Args:
        overlaps: (detections, lesions), the detections in the order of descending scores.
        threshold: The least overlap of a match.

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
