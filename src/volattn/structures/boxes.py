"""Overlaps of half-open boxes: a pixel is the box from its index to index + 1."""

from __future__ import annotations

import numpy as np


def box_area(boxes: np.ndarray) -> np.ndarray:
    """(n,) pixels^2 or voxels of boxes (n, 2 d): d lower bounds, then d upper ones."""
    dims = boxes.shape[1] // 2
    return np.prod(boxes[:, dims:] - boxes[:, :dims], axis=1)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 2 d) and (m, 2 d): (n, m) float64, 0 for empty pairs."""
    shared = _shared(first, second)
    return _ratio(shared, box_area(first)[:, None] + box_area(second)[None, :] - shared)


def box_overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over the smaller box of each pair, of (n, 2 d) and (m, 2 d): (n, m) float64, 0 for empty pairs."""
    return _ratio(_shared(first, second), np.minimum(box_area(first)[:, None], box_area(second)[None, :]))


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    dims = first.shape[1] // 2
    first, second = first.astype(np.float64), second.astype(np.float64)
    low = np.maximum(first[:, None, :dims], second[None, :, :dims])
    high = np.minimum(first[:, None, dims:], second[None, :, dims:])
    return np.prod(np.clip(high - low, 0, None), axis=2)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
