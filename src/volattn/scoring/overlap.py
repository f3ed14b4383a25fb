"""Reference and prediction of one case on one grid: their overlap, and that of their components."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LESION, ORGAN, LabelScheme
from volattn.structures.geometry import Geometry, Turn, check_same_grid
from volattn.structures.lesions import label_components
from volattn.structures.volume import Box, Volume, foreground_box


@dataclass(frozen=True)
class Overlap:
    """Voxels of a reference mask, of a predicted one, and of both at once.

    Those of several cases add up, so that a value over the whole data set ("global") is that of their sum.
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
        return Overlap(self.reference + other.reference, self.prediction + other.prediction, self.both + other.both)

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
    """Dice coefficient of two masks of one shape: 1 if both are empty, 0 if one of them is.

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


@dataclass(frozen=True, eq=False)
class Contingency:
    """The voxels that two sets of components share, from one pass over them.

    Attributes:
        reference: (z, y, x) components of the reference, 0 outside and numbered from 1.
        prediction: The same of the prediction.
        reference_voxels: (n + 1,) voxels of each component of the reference; 0 for number 0.
        prediction_voxels: The same of the prediction.
        pair_references: (k,) one entry for each pair of components that overlap: the reference's number,
        pair_predictions: the prediction's,
        pair_voxels: and how many voxels they share.
    """

    reference: NDArray[np.uint32]
    prediction: NDArray[np.uint32]
    reference_voxels: NDArray[np.int64]
    prediction_voxels: NDArray[np.int64]
    pair_references: NDArray[np.int64]
    pair_predictions: NDArray[np.int64]
    pair_voxels: NDArray[np.int64]

    @classmethod
    def of(cls, reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Contingency:
        """Finds the components (6 neighbours) of two masks (z, y, x) and counts.

        Raises:
            ValueError: The shapes differ.
        """
        check_shapes(reference, prediction)
        wanted, wanted_count = label_components(reference)
        found, found_count = label_components(prediction)
        overlap = (wanted > 0) & (found > 0)
        table = (wanted_count + 1, found_count + 1)
        codes, voxels = np.unique(
            np.ravel_multi_index((wanted[overlap].astype(np.int64), found[overlap].astype(np.int64)), table),
            return_counts=True,
        )
        pair_references, pair_predictions = np.unravel_index(codes, table)
        return cls(
            wanted,
            found,
            _sizes(wanted, wanted_count),
            _sizes(found, found_count),
            pair_references,
            pair_predictions,
            voxels,
        )

    @property
    def references(self) -> int:
        """How many components the reference has."""
        return len(self.reference_voxels) - 1

    @property
    def predictions(self) -> int:
        """How many components the prediction has."""
        return len(self.prediction_voxels) - 1

    @property
    def pairs(self) -> list[tuple[int, int, int]]:
        """(reference, prediction, voxels) of each pair that overlaps."""
        return list(
            zip(self.pair_references.tolist(), self.pair_predictions.tolist(), self.pair_voxels.tolist(), strict=True)
        )

    @cached_property
    def overlapping(self) -> dict[int, list[tuple[int, int]]]:
        """By component of the prediction: (reference, voxels) of those that it overlaps."""
        found: dict[int, list[tuple[int, int]]] = {}
        for reference, prediction, voxels in self.pairs:
            found.setdefault(prediction, []).append((reference, voxels))
        return found

    def overlap(self, references: Collection[int], predictions: Collection[int]) -> Overlap:
        """Of some components of the reference with some of the prediction."""
        chosen = set(references)
        return Overlap(
            reference=int(self.reference_voxels[list(references)].sum()),
            prediction=int(self.prediction_voxels[list(predictions)].sum()),
            both=sum(
                voxels
                for prediction in predictions
                for reference, voxels in self.overlapping.get(prediction, ())
                if reference in chosen
            ),
        )


def _sizes(labels: NDArray[np.uint32], count: int) -> NDArray[np.int64]:
    return np.bincount(labels[labels > 0], minlength=count + 1)


Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Of the reference and of the prediction."""


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Two label maps: 0 background, 1 organ, 2 lesion.

    Attributes:
        reference: (z, y, x) in canonical axes, cropped to what is not background in one of the two.
        prediction: The same shape.
        turn: From the axes of the files to these.
        note: That the prediction's own grid was not trusted; None if it is the reference's.
    """

    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    geometry: Geometry
    turn: Turn
    note: str | None = None

    @classmethod
    def cropped(cls, reference: NDArray[np.uint8], prediction: NDArray[np.uint8], geometry: Geometry) -> Self:
        """Crops label maps (z, y, x) of one shape in canonical axes."""
        box = _not_empty(foreground_box(reference, prediction))
        return cls(reference[box], prediction[box], geometry.cropped(box), Turn())

    @classmethod
    def of(
        cls,
        reference: Volume,
        prediction: Volume,
        schemes: tuple[LabelScheme, LabelScheme],
        called: tuple[str, str],
        *,
        way_out: str = "",
        trust_grid: bool = False,
    ) -> Self:
        """Crops two label volumes, translates their values and turns them to canonical axes.

        Args:
            schemes: What the values of each mean.
            called: The name of each in errors: its file.
            way_out: Another way out for an unknown label, after "correct the labels".
            trust_grid: Compares voxels as they lie, whatever the prediction's grid.

        Raises:
            ValueError: The grids differ (`check_same_grid`), or a label is unknown.
        """
        note = check_same_grid(reference.geometry, prediction.geometry, called, trust_grid)
        box = _not_empty(foreground_box(reference.array, prediction.array))
        turn = reference.geometry.turn()
        parts = []
        for volume, scheme, name in zip((reference, prediction), schemes, called, strict=True):
            try:
                part = scheme.normalise(volume.array[box])
            except ValueError as error:
                raise ValueError(f"{name}: {error}{way_out}") from None
            parts.append(np.ascontiguousarray(turn.apply(part)))
        return cls(parts[0], parts[1], reference.geometry.cropped(box).turned(turn), turn, note)

    @cached_property
    def organ(self) -> Masks:
        """Voxels of the organ with its lesions."""
        return self.reference >= ORGAN, self.prediction >= ORGAN

    @cached_property
    def lesion(self) -> Masks:
        """Voxels of lesions, in the box around all of them."""
        return self.reference[self._lesion_box] == LESION, self.prediction[self._lesion_box] == LESION

    @cached_property
    def lesion_geometry(self) -> Geometry:
        """The grid of `lesion`."""
        return self.geometry.cropped(self._lesion_box)

    @cached_property
    def lesions(self) -> Contingency:
        """The components of `lesion`."""
        return Contingency.of(*self.lesion)

    @cached_property
    def _lesion_box(self) -> Box:
        return _not_empty(foreground_box(self.reference == LESION, self.prediction == LESION))


def _not_empty(box: Box) -> Box:
    """The box itself, or one of one voxel: no grid is without voxels."""
    z, y, x = (part if part.stop > part.start else slice(0, 1) for part in box)
    return z, y, x
