"""Scores lesion by lesion: Dice and recall by size, false positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from volattn.evaluation.overlap import check_shapes
from volattn.structures.components import label_components
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import measure_lesions

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
    """

    id: int
    long_axis_mm: float
    volume_ml: float
    dice: float

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
    check_shapes(reference, prediction)
    wanted, wanted_count = label_components(reference)
    found, found_count = label_components(prediction)
    shared = _intersections(wanted, wanted_count, found, found_count)
    wanted_voxels = np.bincount(wanted.ravel(), minlength=wanted_count + 1)
    found_voxels = np.bincount(found.ravel(), minlength=found_count + 1)

    both = np.zeros(wanted_count + 1)
    union = np.zeros(wanted_count + 1)
    np.add.at(both, shared.reference, shared.voxels)
    np.add.at(union, shared.reference, found_voxels[shared.prediction])
    return LesionwiseScore(
        lesions=tuple(
            LesionScore(
                id=lesion.id,
                long_axis_mm=lesion.long_axis_mm,
                volume_ml=lesion.volume_ml,
                dice=float(2 * both[lesion.id] / (wanted_voxels[lesion.id] + union[lesion.id])),
            )
            for lesion in measure_lesions(wanted, geometry)
        ),
        predicted=found_count,
        false_positives=found_count - len(np.unique(shared.prediction)),
    )


@dataclass(frozen=True)
class _Intersections:
    """Pairs of components that overlap, each pair once, and in how many voxels."""

    reference: NDArray[np.int64]
    prediction: NDArray[np.int64]
    voxels: NDArray[np.int64]


def _intersections(
    wanted: NDArray[Any], wanted_count: int, found: NDArray[Any], found_count: int
) -> _Intersections:
    overlap = (wanted > 0) & (found > 0)
    table = (wanted_count + 1, found_count + 1)
    pairs = np.ravel_multi_index((wanted[overlap].astype(np.int64), found[overlap].astype(np.int64)), table)
    codes, voxels = np.unique(pairs, return_counts=True)
    reference, prediction = np.unravel_index(codes, table)
    return _Intersections(reference, prediction, voxels)
