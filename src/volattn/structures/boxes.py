"""Boxes that know the order of their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FORMATS = ("yxyx", "xyxy", "zyxzyx", "xyzxyz")


@dataclass(frozen=True, eq=False)
class Boxes:
    """Half-open boxes in voxels of the array they belong to: a pixel is the box from its index to index + 1.

    Attributes:
        array: (n, 4) in 2D or (n, 6) in 3D, the lower corner and then the upper one, in `format`'s order.
        format: "yxyx" or "xyxy" in 2D (detectors use "xyxy"), "zyxzyx" or "xyzxyz" in 3D.
    """

    array: np.ndarray
    format: str

    def __post_init__(self) -> None:
        if self.format not in _FORMATS:
            raise ValueError(f"unknown box format {self.format!r}: use one of {', '.join(_FORMATS)}")
        array = np.asarray(self.array)
        if array.ndim != 2 or array.shape[1] != len(self.format):
            raise ValueError(f"{self.format} boxes are an (n, {len(self.format)}) array, found {array.shape}")
        if not (array[:, : self.dims] <= array[:, self.dims :]).all():
            raise ValueError("a box ends before it begins")
        object.__setattr__(self, "array", array)

    def __len__(self) -> int:
        return len(self.array)

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.format) // 2

    @property
    def area(self) -> np.ndarray:
        """(n,) pixels^2 in 2D, voxels in 3D."""
        return np.prod(self.array[:, self.dims :] - self.array[:, : self.dims], axis=1)

    def convert(self, format: str) -> Boxes:
        """The same boxes in another format of the same dimension.

        Raises:
            ValueError: The format is unknown, or 3D where the boxes are 2D or the other way round.
        """
        if format not in _FORMATS or len(format) != len(self.format):
            raise ValueError(f"{self.format} boxes cannot be given as {format!r}")
        half = [self.format[: self.dims].index(axis) for axis in format[: self.dims]]
        return Boxes(self.array[:, half + [self.dims + axis for axis in half]], format)

    def clip(self, shape: tuple[int, ...]) -> Boxes:
        """The boxes cut to an array's bounds; boxes outside keep their place in the list with area 0.

        Args:
            shape: The array's shape in array order, (y, x) or (z, y, x), whatever the boxes' format.
        """
        if len(shape) != self.dims:
            raise ValueError(f"{self.format} boxes cannot be clipped to shape {shape}")
        sizes = dict(zip("zyx"[-self.dims :], shape, strict=True))
        limits = np.array([sizes[axis] for axis in self.format])
        return Boxes(np.clip(self.array, 0, limits.astype(self.array.dtype)), self.format)

    def iou(self, other: Boxes) -> np.ndarray:
        """Intersection over union of every box with every other one: (n, m) float64, 0 for empty pairs."""
        shared = self._shared(other)
        return _ratio(shared, self.area[:, None] + other.area[None, :] - shared)

    def overlap(self, other: Boxes) -> np.ndarray:
        """Intersection over the smaller of every box and every other one: (n, m) float64, 0 for empty pairs."""
        return _ratio(self._shared(other), np.minimum(self.area[:, None], other.area[None, :]))

    def _shared(self, other: Boxes) -> np.ndarray:
        theirs = other.convert(self.format).array.astype(np.float64)
        mine = self.array.astype(np.float64)
        low = np.maximum(mine[:, None, : self.dims], theirs[None, :, : self.dims])
        high = np.minimum(mine[:, None, self.dims :], theirs[None, :, self.dims :])
        return np.prod(np.clip(high - low, 0, None), axis=2)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
