"""Exact distances between the surfaces of masks.

A surface is a mask without its erosion by the 18-neighbour element; outside the array is background. The components of
a mask (6 neighbours) never share a voxel's inside: if the six voxels around one are in the mask they are of its
component, and then so is every edge neighbour. The surface of some components together is therefore that of each, and
one pass finds the surfaces of all lesions of a case.

Most surface voxels of two similar masks are the same: their distance is 0. The others search a k-d tree; a distance
transform of the box around a liver takes longer and more than ten times the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from volattn.scoring.overlap import check_shapes

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
        """Normalised surface Dice: the share of the voxels of both surfaces at most `tolerance` mm from the other."""
        near = [int(np.count_nonzero(part <= tolerance)) for part in (self.from_reference, self.from_prediction)]
        return sum(near) / self._voxels

    @property
    def _voxels(self) -> int:
        return len(self.from_reference) + len(self.from_prediction)


class Surfaces:
    """The surfaces of two label maps, component by component.

    Args:
        reference: (z, y, x): a mask, or numbered components (6 neighbours) of one.
        spacing: mm (z, y, x).

    Raises:
        ValueError: The shapes differ.
    """

    def __init__(self, reference: NDArray[Any], prediction: NDArray[Any], spacing: tuple[float, float, float]) -> None:
        check_shapes(reference, prediction)
        self._reference, self._prediction = _surface_voxels(reference, prediction)
        self._spacing = np.array(spacing)

    def distances(
        self, references: Sequence[int] | None = None, predictions: Sequence[int] | None = None
    ) -> SurfaceDistances | None:
        """The distances between the surface voxels' centres of some components of each map, all by default.

        None if there are no voxels on one side.
        """
        ours, theirs = self._reference.of(references), self._prediction.of(predictions)
        if not len(ours.places) or not len(theirs.places):
            return None
        return SurfaceDistances(self._nearest(ours, theirs, predictions), self._nearest(theirs, ours, references))

    def _nearest(self, voxels: _Voxels, others: _Voxels, chosen: Sequence[int] | None) -> NDArray[np.float64]:
        """Of each voxel to the nearest of the others, which are of the chosen components, mm."""
        apart = voxels.opposite == 0 if chosen is None else ~np.isin(voxels.opposite, chosen)
        distances = np.zeros(len(apart))
        if apart.any():
            # A tree that is not balanced and whose nodes are not shrunk is built in a fraction of the time, and few
            # voxels look anything up.
            tree = cKDTree(others.places * self._spacing, balanced_tree=False, compact_nodes=False)
            distances[apart], _ = tree.query(voxels.places[apart] * self._spacing)
        return distances


def surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask (z, y, x) that have one of their 18 neighbours outside it, or outside the array."""
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


@dataclass(frozen=True, eq=False)
class _Voxels:
    """Surface voxels of one map, sorted by component.

    Attributes:
        places: (n, 3) indices.
        component: (n,) the component that each is of.
        opposite: (n,) the component of the other map that has it on its surface too; 0 if none has.
    """

    places: NDArray[np.int32]
    component: NDArray[np.integer]
    opposite: NDArray[np.integer]

    def of(self, components: Sequence[int] | None) -> _Voxels:
        if components is None:
            return self
        low = np.searchsorted(self.component, components, side="left")
        high = np.searchsorted(self.component, components, side="right")
        ranges = [np.arange(start, stop) for start, stop in zip(low, high, strict=True)]
        chosen = np.concatenate([np.empty(0, np.int64), *ranges])
        return _Voxels(self.places[chosen], self.component[chosen], self.opposite[chosen])


def _surface_voxels(reference: NDArray[Any], prediction: NDArray[Any]) -> tuple[_Voxels, _Voxels]:
    """The surface voxels of two maps, a few slices at a time."""
    parts: tuple[list[_Voxels], list[_Voxels]] = ([], [])
    depth = len(reference)
    for start in range(0, depth, _SLICES):
        stop = min(start + _SLICES, depth)
        low, high = max(start - 1, 0), min(stop + 1, depth)
        inner = slice(start - low, stop - low)
        maps = [labels[start:stop] for labels in (reference, prediction)]
        surfaces = [surface(labels[low:high] > 0)[inner] for labels in (reference, prediction)]
        for side in (0, 1):
            where = np.nonzero(surfaces[side])
            places = np.stack(where, axis=1).astype(np.int32)
            places[:, 0] += start
            opposite = np.where(surfaces[1 - side][where], maps[1 - side][where], 0)
            parts[side].append(_Voxels(places, maps[side][where], opposite))
    return _sorted(parts[0]), _sorted(parts[1])


def _sorted(parts: list[_Voxels]) -> _Voxels:
    component = np.concatenate([part.component for part in parts])
    order = np.argsort(component, kind="stable")
    return _Voxels(
        np.concatenate([part.places for part in parts])[order],
        component[order],
        np.concatenate([part.opposite for part in parts])[order],
    )
