"""Small label maps with known scores."""

from __future__ import annotations

import numpy as np

from volattn.scoring.cases import CaseScore, score_case
from volattn.structures.geometry import Geometry

SPACING = (5.0, 1.0, 1.0)


def label_map(*lesions: tuple[int, int, int]) -> np.ndarray:
    """A liver of 3 x 40 x 40 voxels with square lesions in the middle slice: (row, column, side)."""
    labels = np.zeros((5, 60, 60), np.uint8)
    labels[1:4, 5:45, 5:45] = 1
    for row, column, side in lesions:
        labels[2, row : row + side, column : column + side] = 2
    return labels


def case(name: str, reference: np.ndarray, prediction: np.ndarray, **options: bool) -> CaseScore:
    """Scores two label maps on a grid of 5 x 1 x 1 mm."""
    return score_case(name, reference, prediction, Geometry.aligned(reference.shape, SPACING), **options)
