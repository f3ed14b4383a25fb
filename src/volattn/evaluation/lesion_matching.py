"""Which predicted lesions answer to which reference lesions, as the LiTS challenge pairs them.

1. References that one prediction touches are merged, each reference going only to the prediction that overlaps it most.
2. Every prediction is matched to the one (merged) reference that it overlaps most; predictions on the same reference
   are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from volattn.evaluation.contingency import Contingency


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
    table: Contingency,
    reference_order: Sequence[int] | None = None,
    prediction_order: Sequence[int] | None = None,
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
