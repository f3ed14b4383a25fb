"""Lesions matched, counted and scored: as they should be, and as the LiTS challenge's scorer counts them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from operator import add
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from volattn.scoring.metrics import Count, Length, Share
from volattn.scoring.overlap import Contingency
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import measure_lesions, measure_unions

THRESHOLDS = (0.0, 0.5)
"""The overlaps at which the challenge counts."""
_IDS = 2**8
"""The scorer keeps the ids of detected lesions in 8 bits."""


@dataclass(frozen=True)
class Counts:
    """Lesions counted; those of several cases add up.

    Attributes:
        detected: References that count as detected, merged ones each by itself.
        taking_part: Predictions that take part in a detection.
    """

    references: int = 0
    predictions: int = 0
    detected: int = 0
    taking_part: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, astuple(self), astuple(other)))

    def as_json(self) -> dict[str, int]:
        """Plain values under the scorer's names, and what they are made of."""
        return {
            "TP": self.detected,
            "FP": self.predictions - self.taking_part,
            "FN": self.references - self.detected,
            "references": self.references,
            "predictions": self.predictions,
            "predictions_taking_part": self.taking_part,
        }


class Match(NamedTuple):
    """A merged reference and the merged prediction that is matched to it: the components of each."""

    references: tuple[int, ...]
    predictions: tuple[int, ...]


def match_lesions(
    table: Contingency, reference_order: Sequence[int] | None = None, prediction_order: Sequence[int] | None = None
) -> list[Match]:
    """Pairs predicted with reference lesions as the LiTS challenge does; the cost is that of sorting the overlaps.

    1. References that one prediction touches are merged, each going only to the prediction that overlaps it most.
    2. Every prediction is matched to the one (merged) reference that it overlaps most; predictions on the same
       reference are merged.

    Of several that overlap equally the smallest is taken, which is met better. Where the challenge's scorer must be
    followed, the orders are given and the first one is taken.

    Args:
        reference_order: The place of each component of the reference, by its number (entry 0 is not used); both
            orders, or neither.

    Returns:
        The matches in the order of their first predictions, the components of each in the given order. Those that
        overlap nothing are in none.
    """
    by_size = reference_order is None
    wanted = range(table.references + 1) if reference_order is None else reference_order
    found = range(table.predictions + 1) if prediction_order is None else prediction_order
    wanted_voxels, found_voxels = table.reference_voxels.tolist(), table.prediction_voxels.tolist()

    def ours(pair: tuple[int, int, int]) -> tuple[int, ...]:
        _, prediction, voxels = pair
        return -voxels, found_voxels[prediction] if by_size else 0, found[prediction]

    holder: dict[int, int] = {}  # reference -> the prediction that overlaps it most
    for reference, prediction, _ in sorted(table.pairs, key=ours):
        holder.setdefault(reference, prediction)
    # A merged reference goes by the prediction that holds it together.
    merged: dict[int, list[int]] = defaultdict(list)
    for reference in sorted(holder, key=lambda one: wanted[one]):
        merged[holder[reference]].append(reference)
    group_voxels = {group: sum(wanted_voxels[one] for one in parts) for group, parts in merged.items()}
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for reference, prediction, voxels in table.pairs:
        shared[prediction, holder[reference]] += voxels

    def theirs(pair: tuple[int, int]) -> tuple[int, ...]:
        group = pair[1]
        return -shared[pair], group_voxels[group] if by_size else 0, wanted[merged[group][0]]

    best: dict[int, int] = {}  # prediction -> the merged reference that it overlaps most
    for prediction, group in sorted(shared, key=theirs):
        best.setdefault(prediction, group)
    answering: dict[int, list[int]] = defaultdict(list)
    for prediction in sorted(best, key=lambda one: found[one]):
        answering[best[prediction]].append(prediction)
    return [Match(tuple(merged[group]), tuple(predictions)) for group, predictions in answering.items()]


class Detection(NamedTuple):
    """The lesions that were detected in a case at one overlap, and how many count.

    Attributes:
        lesions: With their components in ascending order; the scorer's ids may leave none of the reference.
    """

    counts: Counts
    lesions: tuple[Match, ...]


def detect(table: Contingency, threshold: float) -> Detection:
    """Detection as it is meant: by the union of the merged prediction and the merged reference.

    Args:
        threshold: Least intersection over union, not included.
    """
    hits = [match for match in match_lesions(table) if table.overlap(*match).jaccard > threshold]
    return Detection(
        Counts(
            references=table.references,
            predictions=table.predictions,
            detected=sum(len(hit.references) for hit in hits),
            taking_part=sum(len(hit.predictions) for hit in hits),
        ),
        tuple(Match(tuple(sorted(hit.references)), tuple(sorted(hit.predictions))) for hit in hits),
    )


def detect_as_scorer(
    table: Contingency, reference_ids: Sequence[int], prediction_ids: Sequence[int], threshold: float
) -> Detection:
    """Detection as the challenge's scorer does it, its faults included.

    The scorer writes a map in which every predicted voxel has the id of the merged reference that its lesion is
    matched to, in 8 bits. The union of a match is then that of the merged reference with the voxels whose entry in
    that map equals the *prediction's* id; a match that fails has its id erased from the map, with whatever else has
    it, before the next one is judged. Every failed match costs as many true positives as references were merged into
    it, so that there may be fewer than none. What the map holds in the end is scored, id by id, against the
    references of that id; nothing is if there is no true positive.

    Args:
        reference_ids: The scorer's id of each component of the reference, by its number (entry 0 is not used).
        threshold: Least "intersection over union", not included.

    Raises:
        ValueError: The reference has no lesion: the scorer crashes.
    """
    if not table.references:
        raise ValueError(
            "the reference has no lesion, and the challenge's scorer crashes on such a case; "
            "score without --strict, or leave the case out"
        )
    matches = match_lesions(table, reference_ids, prediction_ids)
    # The scorer's two maps, component by component instead of voxel by voxel: id -> components.
    id_of = list(reference_ids)
    predicted: dict[int, list[int]] = defaultdict(list)
    for match in matches:
        target = reference_ids[match.references[0]]
        predicted[target % _IDS].extend(match.predictions)
        for reference in match.references:
            id_of[reference] = target
    predicted.pop(0, None)  # An id that is 0 in 8 bits is background.
    wanted: dict[int, list[int]] = defaultdict(list)
    for reference in range(1, table.references + 1):
        wanted[id_of[reference]].append(reference)

    true_positives = len(matches)
    for match in matches:
        own, target = prediction_ids[match.predictions[0]], reference_ids[match.references[0]]
        union = table.overlap(wanted[target], predicted.get(own, ())).union
        if table.overlap(*match).both / union <= threshold:
            predicted.pop(target, None)  # One beyond 8 bits is not found there.
            true_positives -= len(match.references)
    left = tuple(Match(tuple(wanted.get(one, ())), tuple(sorted(predicted[one]))) for one in sorted(predicted))
    return Detection(
        Counts(table.references, table.predictions, true_positives, true_positives), left if true_positives > 0 else ()
    )


def scorer_ids(labels: NDArray[Any], count: int) -> list[int]:
    """The ids that the scorer gives to components: in the order in which it first meets them.

    Args:
        labels: (i, j, k), in the order of the file's axes; components are numbered from 1 in any order.

    Returns:
        The id of each, by its number; entry 0 is 0.
    """
    flat = labels.ravel()
    places = np.flatnonzero(flat)
    first = np.zeros(count + 1, np.int64)
    first[flat[places[::-1]]] = places[::-1]  # The last one written is the first one met.
    ids = np.empty(count, np.int64)
    ids[np.argsort(first[1:])] = np.arange(1, count + 1)
    return [0, *ids.tolist()]


Size = Literal["small", "medium", "large"]
SIZES: tuple[Size, ...] = get_args(Size)


def size_of(long_axis_mm: float) -> Size:
    """The paper's bins (section 3.1): small < 15 mm, medium 15 to 30 mm with both ends, large > 30 mm."""
    if long_axis_mm < 15:
        return "small"
    return "large" if long_axis_mm > 30 else "medium"


@dataclass(frozen=True)
class LesionScore:
    """The scores of one reference lesion, a 3D component (6 neighbours).

    Attributes:
        id: Its number in the case, from 1.
        long_axis_mm: Largest axial extent (maximum Feret diameter, pixel corners included).
        dice: Against the union of the predicted components that overlap it; 0 if there is none.
        predicted_long_axis_mm: Of that union; None if there is none, as `predicted_volume_ml` is.
    """

    id: Count
    long_axis_mm: Length
    volume_ml: Length
    size: Size
    dice: Share
    predicted_long_axis_mm: Length | None
    predicted_volume_ml: Length | None

    @property
    def found(self) -> bool:
        return self.dice > 0


@dataclass(frozen=True)
class LesionwiseScore:
    """The reference lesions of a case, how many components are predicted, and how many of those overlap no lesion."""

    lesions: tuple[LesionScore, ...]
    predicted: int
    false_positives: int


def score_lesions(reference: NDArray[np.bool_], prediction: NDArray[np.bool_], geometry: Geometry) -> LesionwiseScore:
    """Compares the lesions of two masks; the cost is linear in the voxels.

    Args:
        reference: Lesion voxels, (z, y, x) in canonical axes.

    Raises:
        ValueError: The shapes differ, or the grid is not canonical.
    """
    return score_components(Contingency.of(reference, prediction), geometry)


def score_components(table: Contingency, geometry: Geometry) -> LesionwiseScore:
    """Compares the components of two masks in canonical axes, on one grid.

    Raises:
        ValueError: The grid is another one, or is not canonical.
    """
    both: dict[int, int] = defaultdict(int)
    pieces: dict[int, list[int]] = defaultdict(list)
    for reference, prediction, voxels in table.pairs:
        both[reference] += voxels
        pieces[reference].append(prediction)
    overlapping = {reference: tuple(parts) for reference, parts in pieces.items()}
    unions = measure_unions(table.prediction, geometry, overlapping.values())
    lesions = []
    for lesion in measure_lesions(table.reference, geometry):
        union = unions[overlapping[lesion.id]] if lesion.id in overlapping else None
        lesions.append(
            LesionScore(
                id=lesion.id,
                long_axis_mm=lesion.long_axis_mm,
                volume_ml=lesion.volume_ml,
                size=size_of(lesion.long_axis_mm),
                dice=0.0 if union is None else 2 * both[lesion.id] / (lesion.voxels + union.voxels),
                predicted_long_axis_mm=None if union is None else union.long_axis_mm,
                predicted_volume_ml=None if union is None else union.volume_ml,
            )
        )
    return LesionwiseScore(
        lesions=tuple(lesions), predicted=table.predictions, false_positives=table.predictions - len(table.overlapping)
    )
