"""IoU of boxes whose ends are pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pixel_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of every box with every other one, both ends inclusive: a box is x2 - x1 + 1 pixels wide.

    (Half-open boxes, in voxels: `structures.boxes.Boxes.iou`.)

    Args:
        first: (n, 4) as x1, y1, x2, y2.
        second: (m, 4).

    Returns:
        (n, m).
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low + 1, 0, None), axis=2)
    return shared / (_area(first)[:, None] + _area(second)[None, :] - shared)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
