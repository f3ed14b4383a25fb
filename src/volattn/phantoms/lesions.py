"""How many lesions a phantom has, and how large they are: as LiTS's."""

from __future__ import annotations

import numpy as np

from volattn.phantoms.painter import SyntheticConfig, Wanted

LOG_MEAN, LOG_SD, LOG_SHAPE = 2.77, 0.72, 6.25
"""Log of the longest axial extent of LiTS's lesions, mm: gamma-distributed, for its median (14.5 mm) lies below the
16 mm of a log-normal of this mean and deviation; 53 % are under 15 mm."""

COUNT_MEDIAN, COUNT_LOG_SD, COUNT_MOST = 4.0, 1.0, 76
"""Lesions in a case: log-normal, 80 % of cases have 1 to 14."""

LARGEST = 110.0
"""mm; no lesion is longer."""

LEAST_DISTRACTORS = 5
LOOK = SyntheticConfig(contrast=(25, 70), bright=0.2)
"""Of lesions and distractors; one in ten is brighter than the liver."""


def draw_count(rng: np.random.Generator) -> int:
    if rng.random() < 0.05:
        return 0
    drawn = np.exp(rng.normal(np.log(COUNT_MEDIAN), COUNT_LOG_SD))
    return int(np.clip(np.rint(drawn), 1, COUNT_MOST))


def draw_diameter(rng: np.random.Generator, largest: float) -> float:
    """Longest axial extent, mm; what does not fit the liver is drawn again."""
    while True:
        standard = (rng.gamma(LOG_SHAPE) - LOG_SHAPE) / np.sqrt(LOG_SHAPE)
        diameter = float(np.exp(LOG_MEAN + LOG_SD * standard))
        if diameter < largest:
            return diameter


def draw_structures(rng: np.random.Generator, largest: float) -> list[Wanted]:
    """A case's lesions, none wider than `largest` mm, and its distractors: as wide, but for the widest."""
    wanted = [Wanted(draw_diameter(rng, largest) / 2, True) for _ in range(draw_count(rng))]
    count = LEAST_DISTRACTORS + int(rng.poisson(0.5))
    return wanted + [Wanted(draw_diameter(rng, min(largest, 60.0)) / 2, False) for _ in range(count)]
