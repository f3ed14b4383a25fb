"""IoU of boxes whose ends are pixels.

Which detections hit which lesions, from their overlaps in one image.

Which predicted lesions answer to which reference lesions, as the LiTS challenge pairs them.

1. References that one prediction touches are merged, each reference going only to the prediction that overlaps it most.
2. Every prediction is matched to the one (merged) reference that it overlaps most; predictions on the same reference
   are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volattn.scoring.overlap import Contingency


def pixel_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of every box with every other one, both ends inclusive: a box is x2 - x1 + 1 pixels wide.

    (Half-open boxes, in voxels: `structures.boxes.Boxes.iou`.)

    Args:
        first: (n, 4) as x1, y1, x2, y2.
        second: (m, 4).

    Returns:
        (n, m).
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


@dataclass(frozen=True)
class Match:
    """A merged reference and the merged prediction that answers to it.

    Attributes:
        references: Components of the reference, the first in order first.
        predictions: Components of the prediction, the first in order first.
        intersection: Voxels that the two have in common.
    """

    references: tuple[int, ...]
    predictions: tuple[int, ...]
    intersection: int


def match_lesions(
    table: Contingency, reference_order: Sequence[int] | None = None, prediction_order: Sequence[int] | None = None
) -> list[Match]:
    """Merges and matches; the cost is linear in the pairs of components that overlap.

    Of several that overlap equally the smallest is taken, which is met better. Where the challenge's scorer must be
    followed, the orders are given and the first one is taken.

    Args:
        table: The components.
        reference_order: The place of each component of the reference, by its number (entry 0 is not used); both
            orders, or neither.
        prediction_order: The same of the prediction.

    Returns:
        The matches in the order of their first predictions. Components that overlap nothing are in none.
    """
    by_size = reference_order is None
    wanted = range(table.references + 1) if reference_order is None else reference_order
    found = range(table.predictions + 1) if prediction_order is None else prediction_order
    wanted_voxels, found_voxels = table.reference_voxels.tolist(), table.prediction_voxels.tolist()

    holder: dict[int, tuple[tuple[int, int, int], int]] = {}
    for reference, prediction, voxels in table.pairs:
        claim = (-voxels, found_voxels[prediction] if by_size else 0, found[prediction])
        if reference not in holder or claim < holder[reference][0]:
            holder[reference] = claim, prediction
    merged: dict[int, list[int]] = {}
    for reference in sorted(holder, key=lambda one: wanted[one]):
        merged.setdefault(holder[reference][1], []).append(reference)

    # A merged reference goes by the prediction that holds it together.
    shared: dict[tuple[int, int], int] = {}
    for reference, prediction, voxels in table.pairs:
        key = prediction, holder[reference][1]
        shared[key] = shared.get(key, 0) + voxels
    group_voxels = {group: sum(wanted_voxels[one] for one in parts) for group, parts in merged.items()}
    best: dict[int, tuple[tuple[int, int, int], int]] = {}
    for (prediction, group), voxels in shared.items():
        claim = (-voxels, group_voxels[group] if by_size else 0, wanted[merged[group][0]])
        if prediction not in best or claim < best[prediction][0]:
            best[prediction] = claim, group

    answering: dict[int, list[int]] = {}
    for prediction in sorted(best, key=lambda one: found[one]):
        answering.setdefault(best[prediction][1], []).append(prediction)
    return [
        Match(
            references=tuple(merged[group]),
            predictions=tuple(predictions),
            intersection=sum(shared[prediction, group] for prediction in predictions),
        )
        for group, predictions in answering.items()
    ]
