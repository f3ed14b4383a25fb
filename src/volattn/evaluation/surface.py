"""Distances between the surfaces of two masks, exact.

A surface is a mask without its erosion by the 18-neighbour element, what lies outside the array being background. Of
two masks that are to be compared most surface voxels are the same: those are 0 apart and are never searched for. The
others look for their nearest neighbour in a k-d tree; a distance transform of the box around a liver takes longer and
more than ten times the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from volattn.evaluation.overlap import check_shapes

_SLICES = 32
"""Slices whose surface is taken at a time."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """How far apart the surfaces of two masks are.

    Attributes:
        from_reference: Of each surface voxel of the reference, the distance to the prediction's surface, mm.
        from_prediction: Of each surface voxel of the prediction, that to the reference's, mm.
    """

    from_reference: NDArray[np.float64]
    from_prediction: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """ASSD: the mean over the voxels of both surfaces, mm."""
        return float((self.from_reference.sum() + self.from_prediction.sum()) / self._voxels)

    @property
    def root_mean_square(self) -> float:
        """RMSD: the root of the mean square over the voxels of both surfaces, mm."""
        squares = np.square(self.from_reference).sum() + np.square(self.from_prediction).sum()
        return float(np.sqrt(squares / self._voxels))

    @property
    def maximum(self) -> float:
        """MSD, the Hausdorff distance of the surfaces, mm."""
        return float(max(self.from_reference.max(), self.from_prediction.max()))

    def share_within(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of the voxels of both surfaces that are at most so far apart.

        Args:
            tolerance: mm.
        """
        within = sum(
            np.count_nonzero(distances <= tolerance)
            for distances in (self.from_reference, self.from_prediction)
        )
        return within / self._voxels

    @property
    def _voxels(self) -> int:
        return len(self.from_reference) + len(self.from_prediction)


def surface_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> SurfaceDistances:
    """Measures the distances between two surfaces, between the centres of their voxels.

    Args:
        reference: (z, y, x).
        prediction: The same shape.
        spacing: mm (z, y, x).

    Raises:
        ValueError: The shapes differ, or a mask is empty and has no surface.
    """
    check_shapes(reference, prediction)
    ours, theirs, ours_shared, theirs_shared = _surfaces(reference, prediction)
    if not len(ours) or not len(theirs):
        raise ValueError("there is no distance to the surface of an empty mask; check for that first")
    return SurfaceDistances(
        _distances(ours, ours_shared, theirs, spacing), _distances(theirs, theirs_shared, ours, spacing)
    )


def surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask that have one of their 18 neighbours outside it.

    Args:
        mask: (z, y, x); what lies outside the array is background.
    """
    # The 18-neighbour element is the union of the 3 x 3 squares in the three planes, and a square is a line along one
    # axis, then one along the other.
    along_x, along_y = _eroded(mask, 2), _eroded(mask, 1)
    inside = _eroded(along_x, 1)
    inside &= _eroded(along_x, 0)
    inside &= _eroded(along_y, 0)
    return mask & ~inside


def _eroded(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Erosion by a line of three voxels along one axis."""
    result = mask.copy()
    moved, source = np.moveaxis(result, axis, 0), np.moveaxis(mask, axis, 0)
    moved[:-1] &= source[1:]
    moved[1:] &= source[:-1]
    moved[0] = moved[-1] = False
    return result


def _surfaces(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Surface voxels (n, 3) of both masks, and which of them are on the other's surface too."""
    found: tuple[list[NDArray[np.int32]], ...] = ([], [])
    shared: tuple[list[NDArray[np.bool_]], ...] = ([], [])
    depth = len(reference)
    for start in range(0, depth, _SLICES):
        stop = min(start + _SLICES, depth)
        low, high = max(start - 1, 0), min(stop + 1, depth)
        inner = slice(start - low, stop - low)
        both = [surface(mask[low:high])[inner] for mask in (reference, prediction)]
        for own, other, points, common in zip(both, both[::-1], found, shared, strict=True):
            where = np.nonzero(own)
            voxels = np.stack(where, axis=1).astype(np.int32)
            voxels[:, 0] += start
            points.append(voxels)
            common.append(other[where])
    ours, theirs = (np.concatenate([*parts, np.empty((0, 3), np.int32)]) for parts in found)
    ours_shared, theirs_shared = (np.concatenate([*parts, np.empty(0, bool)]) for parts in shared)
    return ours, theirs, ours_shared, theirs_shared


def _distances(
    points: NDArray[np.int32],
    shared: NDArray[np.bool_],
    others: NDArray[np.int32],
    spacing: tuple[float, float, float],
) -> NDArray[np.float64]:
    """Distance of each point (n, 3) to the nearest of the others, mm."""
    distances = np.zeros(len(points))
    if not shared.all():
        # Built without sorting and shrinking its nodes: that takes longer than it saves with so few points to look up.
        tree = cKDTree(others * np.array(spacing), balanced_tree=False, compact_nodes=False)
        distances[~shared], _ = tree.query(points[~shared] * np.array(spacing))
    return distances
