"""How a volume is prepared: the same for training and prediction."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from volattn.config import Config


class Plan(Config):
    """How a volume is prepared; saved with the store and with every model.

    Attributes:
        window: HU that are kept; others are clamped to it (paper, section 3.2).
        z_spacing: Distance between slices, mm; None keeps the volume's own.
        size: Longest in-plane side, pixels. Larger slices are averaged down; smaller ones stay as they are in
            the store and are scaled up on their way into the network.
    """

    window: tuple[float, float] = (-200.0, 300.0)
    z_spacing: float | None = Field(1.5, ge=0.05, le=50)
    size: int = Field(1024, ge=32, le=4096)

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.window
        if not -32768 <= low < high <= 32767:
            raise ValueError(f"window must be two HU, low < high, found {list(self.window)}")
        return self


def clamp(array: np.ndarray, window: tuple[float, float]) -> NDArray[np.float32]:
    """HU outside the window become its ends; float32."""
    return np.clip(array, *window, dtype=np.float32)


def whole(array: np.ndarray) -> NDArray[np.int16]:
    """HU rounded to whole numbers, as in the store."""
    return np.rint(array).astype(np.int16)
