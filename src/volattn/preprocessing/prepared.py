"""A volume prepared slice by slice, for the store and for prediction: resampled along z, shrunk in the plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LESION, ORGAN, LabelScheme
from volattn.io.names import count_of
from volattn.preprocessing.plan import Plan, clamp, whole
from volattn.structures.geometry import Geometry, resampled_depth
from volattn.structures.volume import Volume


class ZWeights(NamedTuple):
    """Linear interpolation along z: sample i is (1 - weight) * slice `lower` + weight * slice `upper`; all (n,).

    Weights are in [0, 1); where one is 0, `upper` is `lower`.
    """

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    weight: NDArray[np.float64]


def z_weights(depth: int, spacing: float, step: float, fixed_z: int = 0) -> ZWeights:
    """From resampled slices back to the `depth` slices of the input: the inverse of `resampling_weights`.

    Slices beyond the centre of the first or last resampled one (less than a step) take its value.
    """
    first, count = resampled_extent(depth, spacing, step, fixed_z)
    return _weights(first + (np.arange(depth) - fixed_z) * (spacing / step), count)


def resampling_weights(depth: int, spacing: float, step: float, fixed_z: int = 0) -> ZWeights:
    """From the `depth` slices of the input to resampled ones: the centre of the fixed slice stays, the step is exact.

    Args:
        spacing: Between slices of the input, mm.
        step: Between resampled ones, mm.
        fixed_z: The slice of the input that the resampled ones are counted from, 0 to depth - 1.
    """
    first, count = resampled_extent(depth, spacing, step, fixed_z)
    return _weights(fixed_z + (np.arange(count) - first) * (step / spacing), depth)


def resampled_extent(depth: int, spacing: float, step: float, fixed_z: int = 0) -> tuple[int, int]:
    """Which resampled slice the fixed one becomes, and how many there are: as many as fit on either side of it."""
    assert 0 <= fixed_z < depth, (fixed_z, depth)
    before = resampled_depth(fixed_z + 1, spacing, step) - 1
    return before, before + resampled_depth(depth - fixed_z, spacing, step)


def _weights(positions: NDArray[np.floating], depth: int) -> ZWeights:
    nearest = np.rint(positions)
    # Rounded spacings put a sample 1e-12 off a slice that it stands for.
    positions = np.clip(np.where(np.abs(positions - nearest) < 1e-6, nearest, positions), 0, depth - 1)
    lower = np.floor(positions).astype(np.int64)
    weight = positions - lower
    return ZWeights(lower, np.where(weight > 0, lower + 1, lower), weight)


def shrunk_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """The in-plane shape when the longest side may have `size` pixels at most; the aspect is kept."""
    longest = max(shape)
    if longest <= size:
        return shape
    return max(1, round(shape[0] * size / longest)), max(1, round(shape[1] * size / longest))


def shrink(plane: np.ndarray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Averages slices down to a smaller shape: every output pixel is the mean over the area that it covers.

    Args:
        plane: (..., h, w).
        shape: Rows and columns, none larger than the slice's.

    Returns:
        (..., *shape), the same bits on every machine and for any number of threads.
    """
    plane = np.asarray(plane, np.float32)
    for axis, target in zip((-2, -1), shape, strict=True):
        plane = _averaged(plane, target, axis)
    return plane


def _averaged(plane: NDArray[np.float32], target: int, axis: int) -> NDArray[np.float32]:
    if plane.shape[axis] == target:
        return plane
    indices, shares = _area(plane.shape[axis], target)
    # Summed in a fixed order. A matrix product would be shorter, but its rounding depends on the processor and
    # its threads, and a label share of exactly one half, cut at 0.5, would fall on either side.
    total = np.float32(0)
    for index, share in zip(indices, shares, strict=True):
        total = total + plane.take(index, axis) * (share[:, None] if axis == -2 else share)
    return np.asarray(total, np.float32)


@lru_cache(maxsize=16)
def _area(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which source pixels every target pixel covers, and their shares of it; both (taps, target).

    In whole numbers, in units of 1 / target of a source pixel: target pixel j is source units long.
    """
    start = np.arange(target) * source
    first, last = start // target, (start + source - 1) // target
    index = first + np.arange(int((last - first).max()) + 1)[:, None]
    covered = np.minimum((index + 1) * target, start + source) - np.maximum(index * target, start)
    shares = np.clip(covered, 0, None) / source
    return np.minimum(index, source - 1), shares.astype(np.float32)


_MOST_VOXELS = 2**31
_FEW = 8
"""Shrunk slices that are kept where keeping all would take too much."""


class Resampled:
    """The slices of an array on a plan's grid, made when they are asked for.

    At 1.5 mm a CT with 5 mm slices has 3.3 times as many; whoever needs three at a time should not hold them all.

    Args:
        plane: Gives slice z of the array in canonical axes, (H, W) float32.
        geometry: The array's canonical grid.
        fixed_z: The slice of the array that stays as it is; the others are counted from it.
    """

    def __init__(self, plane: Callable[[int], np.ndarray], geometry: Geometry, plan: Plan, fixed_z: int = 0) -> None:
        depth, *in_plane = geometry.shape
        self.geometry = geometry
        self.fixed_z = fixed_z
        self.step = plan.z_spacing or geometry.spacing[0]
        self.shape = shrunk_shape((in_plane[0], in_plane[1]), plan.size)
        _, slices = resampled_extent(depth, geometry.spacing[0], self.step, fixed_z)
        planned = slices * self.shape[0] * self.shape[1]
        if planned > _MOST_VOXELS:
            raise ValueError(
                f"its {count_of(depth, 'slice')} {geometry.spacing[0]:.4g} mm apart become {slices} at "
                f"{self.step:g} mm, {planned:.2g} voxels in all; give a larger plan.z_spacing or a smaller plan.size"
            )
        self.weights = resampling_weights(depth, geometry.spacing[0], self.step, fixed_z)
        # A stream passes three times. Shrunk slices are slow to make and small: all are kept where they take no more
        # than a byte per voxel of the input.
        few = 4 * self.shape[0] * self.shape[1] > in_plane[0] * in_plane[1]
        self._plane = lru_cache(maxsize=_FEW if few else depth)(lambda z: shrink(plane(z), self.shape))

    def __len__(self) -> int:
        return len(self.weights.lower)

    def __getitem__(self, z: int) -> NDArray[np.float32]:
        """Slice z, (h, w)."""
        if not 0 <= z < len(self):
            raise IndexError(z)
        lower = self._plane(int(self.weights.lower[z]))
        weight = np.float32(self.weights.weight[z])
        if weight == 0:
            return lower
        return lower + weight * (self._plane(int(self.weights.upper[z])) - lower)

    @property
    def fixed_slice(self) -> int:
        """Which of these slices is the input's `fixed_z`."""
        first, _ = resampled_extent(self.geometry.shape[0], self.geometry.spacing[0], self.step, self.fixed_z)
        return first

    def back(self) -> ZWeights:
        """Which of these slices make each slice of the input, and how."""
        return z_weights(self.geometry.shape[0], self.geometry.spacing[0], self.step, self.fixed_z)

    def nearest(self, z: int) -> int:
        """The slice of the input that is nearest to slice z."""
        return int(self.weights.upper[z] if self.weights.weight[z] > 0.5 else self.weights.lower[z])


class PreparedSlices:
    """A CT as the network's images are cut from it: turned, clamped, resampled, shrunk.

    HU are clamped before anything is averaged, so that metal and air do not bleed into their neighbours, and rounded
    once, at the end.

    Args:
        fixed_z: The slice, in canonical axes, that stays as it is; the first by default.
    """

    def __init__(self, volume: Volume, plan: Plan, fixed_z: int = 0) -> None:
        canonical = volume.canonical()
        self.resampled = Resampled(lambda z: clamp(canonical.array[z], plan.window), canonical.geometry, plan, fixed_z)

    def __len__(self) -> int:
        return len(self.resampled)

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        return (self[z] for z in range(len(self)))

    def __getitem__(self, z: int) -> NDArray[np.int16]:
        """Slice z, (h, w), HU within the plan's window."""
        return whole(self.resampled[z])


def prepare_labels(labels: Volume, scheme: LabelScheme, plan: Plan) -> NDArray[np.uint8]:
    """(Z, h, w) label map on the grid of `PreparedSlices`: 0 background, 1 organ, 2 lesion, 3, ... auxiliary classes.

    Each class (the organ with all that is in it; the lesions; ...) is resampled linearly and cut at 0.5.

    Raises:
        ValueError: A value is not in the scheme.
    """
    canonical = labels.canonical()
    normal = scheme.normalise(canonical.array, auxiliary=True)

    def shares(value: int) -> Resampled:
        def share(z: int) -> NDArray[np.float32]:
            return (normal[z] >= ORGAN if value == ORGAN else normal[z] == value).astype(np.float32)

        return Resampled(share, canonical.geometry, plan)

    # Lesions last: where two reach half, a lesion is not lost.
    classes = {value: shares(value) for value in (ORGAN, *range(LESION + len(scheme.auxiliary), ORGAN, -1))}
    prepared = np.zeros((len(classes[ORGAN]), *classes[ORGAN].shape), np.uint8)
    for z, plane in enumerate(prepared):
        for value, share in classes.items():
            plane[share[z] >= 0.5] = value
    return prepared
