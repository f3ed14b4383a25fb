"""Overlap of two masks, from three counts of voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Overlap:
    """Voxels of a reference mask, of a predicted one, and of both at once.

    Everything that is said about overlap follows from these counts; those of several cases add up, so that a
    value over the whole data set ("global") is that of their sum.

    Attributes:
        reference: Voxels of the reference.
        prediction: Voxels of the prediction.
        both: Voxels of their intersection.
    """

    reference: int
    prediction: int
    both: int

    @classmethod
    def of(cls, reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Self:
        """Counts the voxels of two masks of one shape.

        Raises:
            ValueError: The shapes differ.
        """
        check_shapes(reference, prediction)
        return cls(
            reference=int(np.count_nonzero(reference)),
            prediction=int(np.count_nonzero(prediction)),
            both=int(np.count_nonzero(reference & prediction)),
        )

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.reference + other.reference, self.prediction + other.prediction, self.both + other.both
        )

    @property
    def dice(self) -> float:
        """2 |R and P| / (|R| + |P|); 1 if both are empty, 0 if one of them is."""
        total = self.reference + self.prediction
        return 2 * self.both / total if total else 1.0

    @property
    def jaccard(self) -> float:
        """|R and P| / |R or P|; 1 if both are empty."""
        return self.both / self.union if self.union else 1.0

    @property
    def union(self) -> int:
        """|R or P|."""
        return self.reference + self.prediction - self.both

    @property
    def volume_difference(self) -> float | None:
        """(|P| - |R|) / |R|: positive where the prediction is too large; None without a reference."""
        return (self.prediction - self.reference) / self.reference if self.reference else None


def dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks: 1 if both are empty, 0 if one of them is.

    Args:
        reference: Any shape.
        prediction: The same shape.

    Raises:
        ValueError: The shapes differ.
    """
    return Overlap.of(reference, prediction).dice


def check_shapes(reference: NDArray[Any], prediction: NDArray[Any]) -> None:
    """Refuses masks on different grids.

    Raises:
        ValueError: The shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError(
            f"the reference has shape {reference.shape}, the prediction {prediction.shape}; "
            f"only masks on one grid can be compared"
        )
