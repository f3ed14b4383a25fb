"""Lesions detected at an overlap: as they should be counted, and as the LiTS challenge's scorer counts them.

Both count the matches of `lesion_matching` whose intersection over union is strictly above a threshold; they differ in
the union and in what is counted then.

Scores lesion by lesion: Dice and recall by size, false positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from volattn.scoring.matching import Match, match_lesions
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
        references: Lesions of the reference.
        predictions: Lesions of the prediction.
        detected: References that count as detected, each at its original number.
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
class Detected:
    """A detected lesion, as it is scored.

    Attributes:
        references: Components of the reference, ascending; the scorer's ids may leave none.
        predictions: Components of the prediction, ascending.
    """

    references: tuple[int, ...]
    predictions: tuple[int, ...]


@dataclass(frozen=True)
class Detection:
    """What was detected in a case at one overlap.

    Attributes:
        counts: How many.
        lesions: Those that are scored one by one.
    """

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
        table: The components of a case.
        reference_ids: The scorer's id of each component of the reference, by its number (entry 0 is not used).
        prediction_ids: The same of the prediction.
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
    """The scorer's two maps, lesion by lesion instead of voxel by voxel.

    Args:
        table: The components.
        reference_ids: The scorer's ids.
        matches: All matches, the references of each in the order of their ids.
    """

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
        """What is left, in the order of the ids."""
        return tuple(
            Detected(tuple(self._references.get(entry, ())), tuple(sorted(self._predictions[entry])))
            for entry in sorted(self._predictions)
        )


def scorer_ids(labels: NDArray[Any], count: int) -> list[int]:
    """The ids that the scorer gives to components: in the order in which it first meets them.

    Args:
        labels: (i, j, k), in the order of the file's axes; components are numbered from 1 in any order.
        count: How many there are.

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
    """How one reference lesion was met.

    Attributes:
        id: Its number in the case, from 1.
        long_axis_mm: Largest axial extent (maximum Feret diameter, pixel corners included).
        volume_ml: Its volume.
        dice: Against the union of the predicted components that overlap it; 0 if there is none.
        predicted_long_axis_mm: Of that union; None if there is none.
        predicted_volume_ml: Its volume.
    """

    id: int
    long_axis_mm: float
    volume_ml: float
    dice: float
    predicted_long_axis_mm: float | None
    predicted_volume_ml: float | None

    @property
    def size(self) -> Size:
        """Its bin by the long axis."""
        return size_of(self.long_axis_mm)

    @property
    def found(self) -> bool:
        """Whether the prediction overlaps it at all."""
        return self.dice > 0


@dataclass(frozen=True)
class LesionwiseScore:
    """The lesions of a case.

    Attributes:
        lesions: One score per reference lesion (3D component, 6 neighbours).
        predicted: Components of the prediction.
        false_positives: Those of them that overlap no reference lesion.
    """

    lesions: tuple[LesionScore, ...]
    predicted: int
    false_positives: int


def score_lesions(reference: NDArray[np.bool_], prediction: NDArray[np.bool_], geometry: Geometry) -> LesionwiseScore:
    """Compares the lesions of two masks; the cost is linear in the voxels.

    Args:
        reference: Lesion voxels, (z, y, x) in canonical axes.
        prediction: The same shape.
        geometry: Of that grid.

    Raises:
        ValueError: The shapes differ, or the grid is not canonical.
    """
    return score_components(Contingency.of(reference, prediction), geometry)


def score_components(table: Contingency, geometry: Geometry) -> LesionwiseScore:
    """Compares lesions that were found and counted already.

    Args:
        table: The lesions, in canonical axes.
        geometry: The grid of its label maps.

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
