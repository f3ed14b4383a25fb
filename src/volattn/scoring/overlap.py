"""Reference and prediction of one case on one grid: their overlap, that of their components, and their surfaces."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from volattn.datasets.case import LESION, ORGAN, LabelScheme
from volattn.structures.geometry import Geometry, Turn, check_same_grid
from volattn.structures.lesions import label_components
from volattn.structures.volume import Box, Volume, foreground_box


@dataclass(frozen=True)
class Overlap:
    """Voxels of a reference mask, of a predicted one, and of both at once; those of several cases add up."""

    reference: int
    prediction: int
    both: int

    @classmethod
    def of(cls, reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Self:
        """Counts the voxels of two masks.

        Raises:
            ValueError: The shapes differ.
        """
        check_shapes(reference, prediction)
        return cls(*(int(np.count_nonzero(mask)) for mask in (reference, prediction, reference & prediction)))

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.reference + other.reference, self.prediction + other.prediction, self.both + other.both)

    @property
    def dice(self) -> float:
        """2 |R and P| / (|R| + |P|); 1 if both are empty, 0 if one of them is."""
        total = self.reference + self.prediction
        return 2 * self.both / total if total else 1.0

    @property
    def jaccard(self) -> float:
        """|R and P| / |R or P|; 1 if both are empty."""
        return self.both / self.union if self.union else 1.0

    @property
    def union(self) -> int:
        return self.reference + self.prediction - self.both


def dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks of one shape: 1 if both are empty, 0 if one of them is."""
    return Overlap.of(reference, prediction).dice


def check_shapes(reference: NDArray[Any], prediction: NDArray[Any]) -> None:
    if reference.shape != prediction.shape:
        raise ValueError(
            f"the reference has shape {reference.shape}, the prediction {prediction.shape}; "
            f"only masks on one grid can be compared"
        )


@dataclass(frozen=True, eq=False)
class Contingency:
    """The voxels that the components of a reference and of a prediction share, from one pass over them.

    Attributes:
        reference: (z, y, x) components, 0 outside and numbered from 1; `prediction` likewise.
        reference_voxels: (n + 1,) voxels of each component; 0 for number 0.
        pair_voxels: (k,) voxels that two components share, whose numbers are in `pair_references` and
            `pair_predictions`.
    """

    reference: NDArray[np.uint32]
    prediction: NDArray[np.uint32]
    reference_voxels: NDArray[np.int64]
    prediction_voxels: NDArray[np.int64]
    pair_references: NDArray[np.int64]
    pair_predictions: NDArray[np.int64]
    pair_voxels: NDArray[np.int64]

    @classmethod
    def of(cls, reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Contingency:
        """Finds the components (6 neighbours) of two masks (z, y, x) of one shape."""
        check_shapes(reference, prediction)
        wanted, wanted_count = label_components(reference)
        found, found_count = label_components(prediction)
        overlap = (wanted > 0) & (found > 0)
        table = (wanted_count + 1, found_count + 1)
        codes, voxels = np.unique(
            np.ravel_multi_index((wanted[overlap].astype(np.int64), found[overlap].astype(np.int64)), table),
            return_counts=True,
        )
        pair_references, pair_predictions = np.unravel_index(codes, table)
        wanted_voxels = np.bincount(wanted[wanted > 0], minlength=wanted_count + 1)
        found_voxels = np.bincount(found[found > 0], minlength=found_count + 1)
        return cls(wanted, found, wanted_voxels, found_voxels, pair_references, pair_predictions, voxels)

    @property
    def references(self) -> int:
        return len(self.reference_voxels) - 1

    @property
    def predictions(self) -> int:
        return len(self.prediction_voxels) - 1

    @property
    def pairs(self) -> list[tuple[int, int, int]]:
        """(reference, prediction, voxels) of each pair that overlaps."""
        columns = (self.pair_references, self.pair_predictions, self.pair_voxels)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    @cached_property
    def overlapping(self) -> dict[int, list[tuple[int, int]]]:
        """By component of the prediction: (reference, voxels) of those that it overlaps."""
        found: dict[int, list[tuple[int, int]]] = {}
        for reference, prediction, voxels in self.pairs:
            found.setdefault(prediction, []).append((reference, voxels))
        return found

    def overlap(self, references: Collection[int], predictions: Collection[int]) -> Overlap:
        """Of some components of the reference with some of the prediction."""
        chosen = set(references)
        return Overlap(
            reference=int(self.reference_voxels[list(references)].sum()),
            prediction=int(self.prediction_voxels[list(predictions)].sum()),
            both=sum(
                voxels
                for prediction in predictions
                for reference, voxels in self.overlapping.get(prediction, ())
                if reference in chosen
            ),
        )


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Two label maps: 0 background, 1 organ, 2 lesion.

    Attributes:
        reference: (z, y, x) in canonical axes, cropped to what is not background in one of the two.
        prediction: The same shape.
        turn: From the axes of the files to these.
        note: That the prediction's own grid was not trusted; None if it is the reference's.
    """

    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    geometry: Geometry
    turn: Turn
    note: str | None = None

    @classmethod
    def cropped(cls, reference: NDArray[np.uint8], prediction: NDArray[np.uint8], geometry: Geometry) -> Self:
        """Crops label maps (z, y, x) of one shape in canonical axes."""
        box = _not_empty(foreground_box(reference, prediction))
        return cls(reference[box], prediction[box], geometry.cropped(box), Turn())

    @classmethod
    def of(
        cls,
        reference: Volume,
        prediction: Volume,
        schemes: tuple[LabelScheme, LabelScheme],
        called: tuple[str, str],
        *,
        way_out: str = "",
        trust_grid: bool = False,
    ) -> Self:
        """Crops two label volumes, translates their values by their schemes and turns them to canonical axes.

        Args:
            called: The name of each in errors: its file.
            way_out: Another way out for an unknown label, after "correct the labels".
            trust_grid: Compares voxels as they lie, whatever the prediction's grid.

        Raises:
            ValueError: The grids differ (`check_same_grid`), or a label is unknown.
        """
        note = check_same_grid(reference.geometry, prediction.geometry, called, trust_grid)
        box = _not_empty(foreground_box(reference.array, prediction.array))
        turn = reference.geometry.turn()
        parts = []
        for volume, scheme, name in zip((reference, prediction), schemes, called, strict=True):
            try:
                part = scheme.normalise(volume.array[box])
            except ValueError as error:
                raise ValueError(f"{name}: {error}{way_out}") from None
            parts.append(np.ascontiguousarray(turn.apply(part)))
        return cls(parts[0], parts[1], reference.geometry.cropped(box).turned(turn), turn, note)

    @property
    def organ(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Voxels of the organ with its lesions, of the reference and of the prediction."""
        return self.reference >= ORGAN, self.prediction >= ORGAN

    @property
    def lesion(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Voxels of lesions, in the box around all of them."""
        return self.reference[self._lesion_box] == LESION, self.prediction[self._lesion_box] == LESION

    @property
    def lesion_geometry(self) -> Geometry:
        return self.geometry.cropped(self._lesion_box)

    @cached_property
    def lesions(self) -> Contingency:
        return Contingency.of(*self.lesion)

    @cached_property
    def _lesion_box(self) -> Box:
        return _not_empty(foreground_box(self.reference == LESION, self.prediction == LESION))


def _not_empty(box: Box) -> Box:
    """The box itself, or one of one voxel: no grid is without voxels."""
    z, y, x = (part if part.stop > part.start else slice(0, 1) for part in box)
    return z, y, x


_SLICES = 32
"""Slices whose surface is taken at a time."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Of each surface voxel of a mask the distance to the other's surface, mm."""

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

    A surface is a mask without its erosion by the 18-neighbour element; outside the array is background. The
    components of a mask (6 neighbours) never share a voxel's inside: if the six voxels around one are in the mask they
    are of its component, and then so is every edge neighbour. The surface of some components together is therefore
    that of each, and one pass finds the surfaces of all lesions of a case.

    Most surface voxels of two similar masks are the same: their distance is 0. The others search a k-d tree; a distance
    transform of the box around a liver takes longer and more than ten times the memory.

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
        ours, theirs = _of_components(self._reference, references), _of_components(self._prediction, predictions)
        if not len(ours) or not len(theirs):
            return None
        return SurfaceDistances(self._nearest(ours, theirs, predictions), self._nearest(theirs, ours, references))

    def _nearest(
        self, voxels: NDArray[np.int32], others: NDArray[np.int32], chosen: Sequence[int] | None
    ) -> NDArray[np.float64]:
        """Of each voxel to the nearest of the others, which are of the chosen components, mm."""
        opposite = voxels[:, 4]
        apart = opposite == 0 if chosen is None else ~np.isin(opposite, chosen)
        distances = np.zeros(len(apart))
        if apart.any():
            # A tree that is not balanced and whose nodes are not shrunk is built in a fraction of the time, and few
            # voxels look anything up.
            tree = cKDTree(others[:, :3] * self._spacing, balanced_tree=False, compact_nodes=False)
            distances[apart], _ = tree.query(voxels[apart, :3] * self._spacing)
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


def _surface_voxels(*maps: NDArray[Any]) -> list[NDArray[np.int32]]:
    """The surface voxels of two maps, found a few slices at a time and sorted by component.

    Returns:
        For each map (n, 5): indices z, y, x; the component; that of the other map which has the voxel on its surface
        too, 0 if none has.
    """
    parts: tuple[list[NDArray[np.int32]], ...] = ([], [])
    depth = len(maps[0])
    for start in range(0, depth, _SLICES):
        stop = min(start + _SLICES, depth)
        low, high = max(start - 1, 0), min(stop + 1, depth)
        inner = [labels[start:stop] * surface(labels[low:high] > 0)[start - low : stop - low] for labels in maps]
        for labels, others, found in zip(inner, inner[::-1], parts, strict=True):
            where = np.nonzero(labels)
            voxels = np.stack([*where, labels[where], others[where]], axis=1).astype(np.int32)
            voxels[:, 0] += start
            found.append(voxels)
    voxels_of = [np.concatenate(found) for found in parts]
    return [voxels[np.argsort(voxels[:, 3], kind="stable")] for voxels in voxels_of]


def _of_components(voxels: NDArray[np.int32], components: Sequence[int] | None) -> NDArray[np.int32]:
    if components is None:
        return voxels
    low, high = (np.searchsorted(voxels[:, 3], components, side) for side in ("left", "right"))
    rows = [voxels[start:stop] for start, stop in zip(low, high, strict=True)]
    return np.concatenate([voxels[:0], *rows])
