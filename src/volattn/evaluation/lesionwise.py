"""Scores lesion by lesion: Dice and recall by size, false positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from volattn.evaluation.contingency import Contingency
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import measure_lesions, measure_unions

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


def score_lesions(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], geometry: Geometry
) -> LesionwiseScore:
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
