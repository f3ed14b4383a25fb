"""Lesions matched, counted and scored: as they should be, and as the LiTS challenge's scorer counts them.

Both count the matches of `match_lesions` whose intersection over union is strictly above a threshold; they differ in
the union, and in what is counted then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from volattn.scoring.overlap import Contingency
from volattn.scoring.values import Count, Length, Share
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
        return Counts(
            self.references + other.references,
            self.predictions + other.predictions,
            self.detected + other.detected,
            self.taking_part + other.taking_part,
        )

    @property
    def recall(self) -> float:
        """Detected of all references; 0 if there is none, as the scorer has it."""
        return self.detected / self.references if self.references else 0.0

    @property
    def precision(self) -> float:
        """Predictions that take part in a detection of all; 0 if there is none, as the scorer has it."""
        return self.taking_part / self.predictions if self.predictions else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of recall and precision; 0 if both are."""
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total > 0 else 0.0

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


@dataclass(frozen=True)
class Match:
    """A merged reference and the merged prediction that is matched to it.

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
    """Pairs predicted with reference lesions as the LiTS challenge does; the cost is linear in the overlapping pairs.

    1. References that one prediction touches are merged, each going only to the prediction that overlaps it most.
    2. Every prediction is matched to the one (merged) reference that it overlaps most; predictions on the same
       reference are merged.

    Of several that overlap equally the smallest is taken, which is met better. Where the challenge's scorer must be
    followed, the orders are given and the first one is taken.

    Args:
        reference_order: The place of each component of the reference, by its number (entry 0 is not used); both
            orders, or neither.

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


@dataclass(frozen=True)
class Detected:
    """A detected lesion: components of the reference (the scorer's ids may leave none) and prediction, ascending."""

    references: tuple[int, ...]
    predictions: tuple[int, ...]


@dataclass(frozen=True)
class Detection:
    """The lesions that were detected in a case at one overlap, and how many count."""

    counts: Counts
    lesions: tuple[Detected, ...]


def detect(table: Contingency, threshold: float) -> Detection:
    """Detection as it is meant: by the union of the merged prediction and the merged reference.

    Args:
        table: The components of a case; there may be none.
        threshold: Least intersection over union, not included.
    """
    hits = [
        match
        for match in match_lesions(table)
        if table.overlap(match.references, match.predictions).jaccard > threshold
    ]
    return Detection(
        Counts(
            references=table.references,
            predictions=table.predictions,
            detected=sum(len(hit.references) for hit in hits),
            taking_part=sum(len(hit.predictions) for hit in hits),
        ),
        tuple(Detected(tuple(sorted(hit.references)), tuple(sorted(hit.predictions))) for hit in hits),
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
    written = _Map(table, reference_ids, matches)
    true_positives = len(matches)
    for match in matches:
        own, target = prediction_ids[match.predictions[0]], reference_ids[match.references[0]]
        if match.intersection / written.union(own, target) <= threshold:
            written.erase(target)
            true_positives -= len(match.references)
    return Detection(
        Counts(table.references, table.predictions, true_positives, true_positives),
        written.lesions() if true_positives > 0 else (),
    )


class _Map:
    """The scorer's two maps, lesion by lesion instead of voxel by voxel; `matches` have references by ascending ids."""

    def __init__(self, table: Contingency, reference_ids: Sequence[int], matches: Sequence[Match]) -> None:
        self._table = table
        self._id_of = list(reference_ids)
        for match in matches:
            for reference in match.references:
                self._id_of[reference] = reference_ids[match.references[0]]
        self._references: dict[int, list[int]] = {}
        for reference in range(1, table.references + 1):
            self._references.setdefault(self._id_of[reference], []).append(reference)
        self._predictions: dict[int, list[int]] = {}
        for match in matches:
            entry = reference_ids[match.references[0]] % _IDS
            self._predictions.setdefault(entry, []).extend(match.predictions)
        self._predictions.pop(0, None)  # An id that is 0 in 8 bits is background.

    def union(self, own: int, target: int) -> int:
        """Voxels with the prediction's id in the one map or the reference's in the other."""
        return self._table.overlap(self._references[target], self._predictions.get(own, ())).union

    def erase(self, target: int) -> None:
        """Takes an id out of the map of predictions; one beyond 8 bits is not found there."""
        self._predictions.pop(target, None)

    def lesions(self) -> tuple[Detected, ...]:
        """The lesions that are left, in the order of the ids."""
        return tuple(
            Detected(tuple(self._references.get(entry, ())), tuple(sorted(self._predictions[entry])))
            for entry in sorted(self._predictions)
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

SMALL_BELOW_MM = 15.0
LARGE_ABOVE_MM = 30.0


def size_of(long_axis_mm: float) -> Size:
    """The paper's bins (section 3.1): small < 15 mm, medium 15 to 30 mm with both ends, large > 30 mm."""
    if long_axis_mm < SMALL_BELOW_MM:
        return "small"
    return "large" if long_axis_mm > LARGE_ABOVE_MM else "medium"


@dataclass(frozen=True)
class LesionScore:
    """The scores of one reference lesion.

    Attributes:
        id: Its number in the case, from 1.
        long_axis_mm: Largest axial extent (maximum Feret diameter, pixel corners included).
        size: Its bin by the long axis.
        dice: Against the union of the predicted components that overlap it; 0 if there is none.
        predicted_long_axis_mm: Of that union; None if there is none.
        predicted_volume_ml: Likewise.
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
        """Whether the prediction overlaps it at all."""
        return self.dice > 0


@dataclass(frozen=True)
class LesionwiseScore:
    """The lesions of a case.

    Attributes:
        lesions: One score per reference lesion (3D component, 6 neighbours).
        predicted: How many components the prediction has.
        false_positives: How many of them overlap no reference lesion.
    """

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
    both = np.zeros(table.references + 1)
    np.add.at(both, table.pair_references, table.pair_voxels)
    pieces: dict[int, list[int]] = {}
    for reference, prediction, _ in table.pairs:
        pieces.setdefault(reference, []).append(prediction)
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
                dice=0.0 if union is None else float(2 * both[lesion.id] / (lesion.voxels + union.voxels)),
                predicted_long_axis_mm=None if union is None else union.long_axis_mm,
                predicted_volume_ml=None if union is None else union.volume_ml,
            )
        )
    return LesionwiseScore(
        lesions=tuple(lesions),
        predicted=table.predictions,
        false_positives=table.predictions - len(np.unique(table.pair_predictions)),
    )
