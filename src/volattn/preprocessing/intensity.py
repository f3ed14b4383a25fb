"""HU to what is stored, and to what a network takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clamp(array: np.ndarray, window: tuple[float, float]) -> NDArray[np.float32]:
    """HU outside the window become its ends; float32."""
    return np.clip(array, *window, dtype=np.float32)


def whole(array: np.ndarray) -> NDArray[np.int16]:
    """HU to the nearest whole one, as the store keeps them."""
    return np.rint(array).astype(np.int16)


def normalise(array: np.ndarray, window: tuple[float, float]) -> NDArray[np.float32]:
    """HU to [0, 1], linear in the window and clamped outside."""
    low, high = window
    return (clamp(array, window) - np.float32(low)) / np.float32(high - low)
