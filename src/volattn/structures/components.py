"""Connected components, one rule everywhere: 4 neighbours in 2D, 6 in 3D."""

from __future__ import annotations

import cc3d
import numpy as np


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the connected components of a mask.

    Args:
        mask: (y, x) or (z, y, x); non-zero is foreground. Any memory layout.

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
    """The connected component with the most voxels, the first of several; nothing of an empty mask.

    Args:
        mask: As for `label_components`.

    Returns:
        A mask of that shape, bool.
    """
    labels, count = label_components(mask)
    if count == 0:
        return np.zeros(mask.shape, dtype=bool)
    return labels == 1 + int(np.argmax(component_sizes(labels, count)))
