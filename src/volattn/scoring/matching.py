"""Which detections hit which lesions of one image, from the overlaps of their boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pixel_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of every box with every other one, both ends inclusive: a box is x2 - x1 + 1 pixels wide.

    (Half-open boxes, in voxels: `structures.boxes.box_iou`.)

    Args:
        first: (n, 4) as x1, y1, x2, y2.

    Returns:
        (n, m) overlaps.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low + 1, 0, None), axis=2)
    return shared / (_area(first)[:, None] + _area(second)[None, :] - shared)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)


_JUST_BELOW_ONE = 1 - 1e-10


def all_hits(overlaps: NDArray[np.float64], threshold: float) -> list[tuple[int, ...]]:
    """DeepLesion's rule: a detection hits every lesion that it overlaps enough.

    Only a detection that hits nothing at all is a false positive, whether or not another has hit its lesion before.

    Args:
        overlaps: (detections, lesions).

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
