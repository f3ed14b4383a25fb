"""The components of two masks, and how many voxels each shares with each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from volattn.evaluation.overlap import Overlap, check_shapes
from volattn.structures.components import label_components


@dataclass(frozen=True, eq=False)
class Contingency:
    """What two sets of components have in common, from one pass over their voxels.

    Attributes:
        reference: Components of the reference, (z, y, x), 0 outside and numbered from 1.
        prediction: Those of the prediction, the same shape.
        reference_voxels: Voxels of each component of the reference, (n + 1,); 0 for number 0.
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
        """Components of the reference."""
        return len(self.reference_voxels) - 1

    @property
    def predictions(self) -> int:
        """Components of the prediction."""
        return len(self.prediction_voxels) - 1

    @property
    def pairs(self) -> list[tuple[int, int, int]]:
        """(reference, prediction, voxels) of each pair that overlaps."""
        return list(
            zip(
                self.pair_references.tolist(),
                self.pair_predictions.tolist(),
                self.pair_voxels.tolist(),
                strict=True,
            )
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
