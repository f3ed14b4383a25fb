"""Resampling along z, shrinking in the plane, and the way back."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from volattn.structures.geometry import resampled_depth


class ZWeights(NamedTuple):
    """Linear interpolation along z: sample i is (1 - weight) * slice `lower` + weight * slice `upper`.

    Attributes:
        lower: Shape (n,) indices.
        upper: Shape (n,) indices; equal to `lower` where the weight is 0.
        weight: Shape (n,) in [0, 1).
    """

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    weight: NDArray[np.float64]


def z_weights(depth: int, spacing: float, step: float, anchor: int = 0) -> ZWeights:
    """From resampled slices back to the `depth` slices of the input: the inverse of `resampling_weights`.

    Slices beyond the centre of the first or last resampled one (less than a step) take its value.

    Args:
        depth: Slices of the input.
        spacing: Distance between them, mm.
        step: Distance between the resampled slices, mm.
        anchor: The slice of the input that they were counted from.
    """
    first, count = resampled_extent(depth, spacing, step, anchor)
    return _weights(first + (np.arange(depth) - anchor) * (spacing / step), count)


def resampling_weights(depth: int, spacing: float, step: float, anchor: int = 0) -> ZWeights:
    """From the `depth` slices of the input to resampled ones: the anchor's centre stays, the step is exact.

    Args:
        depth: See `z_weights`, as are `spacing` and `step`.
        anchor: The slice of the input that the resampled ones are counted from, 0 to depth - 1.
    """
    first, count = resampled_extent(depth, spacing, step, anchor)
    return _weights(anchor + (np.arange(count) - first) * (step / spacing), depth)


def resampled_extent(depth: int, spacing: float, step: float, anchor: int = 0) -> tuple[int, int]:
    """Which resampled slice the anchor becomes, and how many there are: as many as fit on either side of it."""
    assert 0 <= anchor < depth, (anchor, depth)
    before = resampled_depth(anchor + 1, spacing, step) - 1
    return before, before + resampled_depth(depth - anchor, spacing, step)


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
