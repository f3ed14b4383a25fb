"""Lesions as connected components (4 neighbours in 2D, 6 in 3D everywhere), and their measures."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cc3d
import numpy as np

from volattn.structures.geometry import Geometry


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the connected components of a mask (y, x) or (z, y, x), whose foreground is not zero.

    Returns:
        Labels of the mask's shape, uint32, 0 outside and 1..count inside, numbered in the order in which a
        row-major walk first meets them; and the count.
    """
    if mask.ndim not in (2, 3):
        raise ValueError(f"components are found in 2D or 3D masks, found shape {mask.shape}")
    if mask.size == 0:
        return np.zeros(mask.shape, dtype=np.uint32), 0
    # Row-major: cc3d numbers components in memory order, and results must not depend on a view's strides.
    solid = np.ascontiguousarray(mask, dtype=bool)
    labels, count = cc3d.connected_components(
        solid, connectivity=4 if mask.ndim == 2 else 6, out_dtype=np.uint32, return_N=True
    )
    return labels, int(count)


def component_sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """How many pixels or voxels each component of `label_components` has, (count,) int64."""
    sizes = np.zeros(count + 1, np.int64)
    for plane in labels:  # numpy counts in 8 bytes a voxel
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return sizes[1:]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The connected component with the most voxels, the first of several, as a mask; nothing of an empty mask."""
    labels, count = label_components(mask)
    if count == 0:
        return np.zeros(mask.shape, dtype=bool)
    return labels == 1 + int(np.argmax(component_sizes(labels, count)))


_SAME_MM = 1e-6  # extents this close are one: rounding must not choose the key slice


@dataclass(frozen=True)
class Lesion:
    """One lesion of a label map.

    Attributes:
        box: Half-open bounds (z0, y0, x0, z1, y1, x1) in voxels of the canonical array.
        long_axis_mm: Largest in-plane extent (maximum Feret, pixel corners included) over its axial slices.
        short_axis_mm: Its extent perpendicular to the long axis, in the same slice.
        key_slice: Index of the slice with the largest long axis; the lowest if several have it.
    """

    id: int
    box: tuple[int, int, int, int, int, int]
    voxels: int
    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float
    key_slice: int


def measure_lesions(labels: np.ndarray, geometry: Geometry) -> list[Lesion]:
    """Measures every lesion of a label map, in ascending order of labels.

    Args:
        labels: (z, y, x) whole numbers in canonical axes, 0 is background and each other value one lesion.

    Raises:
        ValueError: The grid is another one than the labels', or is not canonical (its axis 0 is not axial).
    """
    _check_grid(labels, geometry)
    return [_measure(value, points, geometry) for value, points in _groups(labels)]


def measure_unions(
    labels: np.ndarray, geometry: Geometry, unions: Iterable[tuple[int, ...]]
) -> dict[tuple[int, ...], Lesion]:
    """Measures what several lesions of a label map are together; see `measure_lesions`.

    Args:
        unions: The labels of each union, at least one; each must be there.

    Returns:
        The measures by union, under the id of its first lesion.
    """
    _check_grid(labels, geometry)
    points = dict(_groups(labels))
    measured = {}
    for union in set(unions):
        together = points[union[0]]
        if len(union) > 1:
            together = np.concatenate([points[part] for part in union])
            together = together[np.argsort(together[:, 0], kind="stable")]
        measured[union] = _measure(union[0], together, geometry)
    return measured


def axial_diameter(mask: np.ndarray, spacing: tuple[float, float]) -> tuple[float, float]:
    """Long and short axis (mm) of a mask (y, x) in one slice of a spacing (y, x) in mm; zeros for an empty mask.

    The long axis is the largest distance between two corners of the mask's pixels (maximum Feret); the short
    axis is the mask's whole extent perpendicular to it.
    """
    rows, columns = np.nonzero(mask)
    return _feret(rows, columns, spacing) if len(rows) else (0.0, 0.0)


def _check_grid(labels: np.ndarray, geometry: Geometry) -> None:
    if labels.shape != geometry.shape:
        raise ValueError(f"labels of shape {labels.shape} do not lie on a grid of shape {geometry.shape}")
    if not geometry.turn().is_identity:
        raise ValueError("lesions are measured in canonical axes: turn the labels and their grid first")


def _measure(value: int, points: np.ndarray, geometry: Geometry) -> Lesion:
    """Measures the voxels (n, 3) of a lesion, z ascending."""
    long, short, key = _largest_axial_diameter(points, geometry.spacing[1:])
    z0, y0, x0, z1, y1, x1 = (int(bound) for bound in (*points.min(axis=0), *(points.max(axis=0) + 1)))
    return Lesion(
        id=value,
        box=(z0, y0, x0, z1, y1, x1),
        voxels=len(points),
        volume_ml=len(points) * geometry.voxel_volume / 1000,
        long_axis_mm=long,
        short_axis_mm=short,
        key_slice=key,
    )


def _groups(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each label with its voxels (n, 3), in ascending order of labels; voxels in row-major order."""
    where = np.nonzero(labels)
    points = np.stack(where, axis=1)
    values = labels[where]
    order = np.argsort(values, kind="stable")
    values, points = values[order], points[order]
    ends = np.flatnonzero(np.diff(values, append=-1))  # -1: the last run ends with the array
    for start, end in itertools.pairwise([0, *(ends + 1)]):
        yield int(values[start]), points[start:end]


def _largest_axial_diameter(points: np.ndarray, spacing: tuple[float, float]) -> tuple[float, float, int]:
    """Long and short axis (mm) and slice of the largest long axis over the slices of one lesion's voxels."""
    slices, starts = np.unique(points[:, 0], return_index=True)  # row-major order: z ascends
    ends = [*starts[1:], len(points)]
    low = np.minimum.reduceat(points[:, 1:], starts, axis=0)
    high = np.maximum.reduceat(points[:, 1:], starts, axis=0) + 1
    bounds = np.hypot(*((high - low) * spacing).T)
    best = (0.0, 0.0, int(slices[0]))
    # No slice's extent exceeds its box's diagonal: taken in descending order most slices need no search.
    for place in np.argsort(-bounds, kind="stable"):
        if bounds[place] < best[0] - _SAME_MM:
            break
        part = points[starts[place] : ends[place]]
        long, short = _feret(part[:, 1], part[:, 2], spacing)
        if long > best[0] + _SAME_MM or (long > best[0] - _SAME_MM and slices[place] < best[2]):
            best = (long, short, int(slices[place]))
    return best


def _feret(rows: np.ndarray, columns: np.ndarray, spacing: tuple[float, float]) -> tuple[float, float]:
    """Long and short axis, mm, of the pixels (rows[i], columns[i])."""
    corners = _outer_corners(rows, columns) * spacing
    offsets = corners[:, None, :] - corners[None, :, :]
    squares = np.einsum("ijk,ijk->ij", offsets, offsets)
    first, second = np.unravel_index(int(squares.argmax()), squares.shape)
    along = offsets[first, second]
    long = float(np.hypot(*along))
    across = corners @ np.array([-along[1], along[0]]) / long
    return long, float(np.ptp(across))


def _outer_corners(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The outermost pixel corners on every line between rows, (n, 2) in (y, x): their hull is the pixels'."""
    rows = rows - rows.min()
    count = int(rows.max()) + 1
    left = np.full(count + 1, np.iinfo(np.int64).max)
    right = np.full(count + 1, -1)
    for line in (rows, rows + 1):  # a row of pixels touches the line above it and the one below
        np.minimum.at(left, line, columns)
        np.maximum.at(right, line, columns + 1)
    lines = np.flatnonzero(right >= 0)
    return np.concatenate([np.stack([lines, edge[lines]], axis=1) for edge in (left, right)])
