"""The part of an array that holds something."""

from __future__ import annotations

import numpy as np

Box = tuple[slice, slice, slice]


def foreground_box(*arrays: np.ndarray) -> Box:
    """The smallest box that holds every voxel that is not zero in one of some arrays.

    It is read plane by plane, without a copy of the volume.

    Args:
        arrays: (z, y, x) booleans or whole numbers, all of one shape.

    Returns:
        Slices along z, y, x; empty ones if there is nothing but zeros.
    """
    assert arrays
    filled = np.array([any(bool(array[z].any()) for array in arrays) for z in range(len(arrays[0]))], bool)
    z = _extent(filled)
    height, width = arrays[0].shape[1:]
    rows, columns = np.zeros(height, bool), np.zeros(width, bool)
    for array in arrays:
        if z.stop > z.start:
            plane = np.bitwise_or.reduce(array[z], axis=0) != 0
            rows |= plane.any(axis=1)
            columns |= plane.any(axis=0)
    return z, _extent(rows), _extent(columns)


def _extent(filled: np.ndarray) -> slice:
    """From the first to the last True."""
    places = np.flatnonzero(filled)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
