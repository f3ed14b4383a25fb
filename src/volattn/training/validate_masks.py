"""Validation by masks: Dice on the prepared grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volattn.inference.stitch import ORGAN_SCORE, score_maps
from volattn.inference.stream import SliceResult
from volattn.preprocessing.store import Store, StoredCase
from volattn.scoring.overlap import Overlap
from volattn.slabs.slab import LESION, ORGAN
from volattn.structures.lesions import largest_component
from volattn.training.validate import Validation, choose_threshold, count_at_candidates, passed


@dataclass(frozen=True)
class DiceCurve:
    """Lesion Dice of a case at each candidate threshold, and the overlap of its organ; None without an organ."""

    lesion: NDArray[np.float64]
    organ: Overlap | None


MaskCaseStats = tuple[DiceCurve, DiceCurve]
"""With every part of the organ, and with its largest connected part alone; the same for data with lesions only."""


class MaskAccumulator:
    """One case with a label map; of the volume it keeps three bytes a prepared voxel."""

    def __init__(self, store: Store, case: StoredCase) -> None:
        _, h, w = case.shape
        self.case = case
        self.shape, self.size, self.classes = (h, w), store.plan.size, len(store.classes)
        self._levels = np.zeros(case.shape, np.uint8)
        self._organ = np.zeros(case.shape, bool) if self.classes == 2 else None

    def add(self, z: int, found: SliceResult) -> None:
        maps = score_maps(found, self.shape, self.size, self.classes)
        self._levels[z] = passed(maps[-1])
        if self._organ is not None:
            self._organ[z] = maps[0] >= ORGAN_SCORE

    def finish(self) -> MaskCaseStats:
        labels = np.asarray(self.case.labels[:])
        whole = score(self._levels, self._organ, labels)
        if self._organ is None:
            return whole, whole
        return whole, score(self._levels, largest_component(self._organ), labels)


class MaskEvaluator:
    """Mean Dice per case of lesion and organ."""

    def start(self, store: Store, case: StoredCase) -> MaskAccumulator:
        return MaskAccumulator(store, case)

    def summarise(self, cases: Mapping[str, MaskCaseStats], entropies: Mapping[str, float]) -> Validation:
        """Chooses the parts of the organ that are kept, then the threshold with the highest mean lesion Dice."""
        whole, single = ([stats[place] for stats in cases.values()] for place in (0, 1))
        single_organ = (_organ_dice(single) or 0) > (_organ_dice(whole) or 0)
        chosen = single if single_organ else whole
        threshold, values = choose_threshold([curve.lesion for curve in chosen])
        scores = {"lesion_dice": sum(values) / len(values)}
        organ_dice = _organ_dice(chosen)
        if organ_dice is not None:
            scores["organ_dice"] = organ_dice
        rows: dict[str, dict[str, float | None]] = {}
        for name, curve, dice in zip(cases, chosen, values, strict=True):
            organ = {} if curve.organ is None else {"organ": curve.organ.dice}
            rows[name] = {"lesion": dice, **organ}
        return Validation(
            scores=scores, threshold=threshold, cases=rows, entropies=dict(entropies), single_organ=single_organ
        )


def dice_curve(levels: NDArray[np.uint8], reference: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Lesion Dice of a case at every candidate; 1 where neither the reference nor the prediction has a lesion.

    Args:
        levels: `passed` of every voxel's highest score among the lesions that cover it, 0 without any.
        reference: Whether a voxel is lesion; the same shape.
    """
    covered = levels > 0
    inside = reference[covered]
    hits = count_at_candidates(levels[covered][inside])
    misses = count_at_candidates(levels[covered][~inside])
    both_sizes = hits + misses + np.count_nonzero(reference)
    return np.where(both_sizes > 0, 2 * hits / np.maximum(both_sizes, 1), 1.0)


def score(levels: NDArray[np.uint8], organ: NDArray[np.bool_] | None, labels: NDArray[np.uint8]) -> DiceCurve:
    """Scores a case; a lesion counts where the organ is.

    Args:
        levels: (Z, h, w), see `dice_curve`.
        organ: The predicted organ; None for data with lesions only.
        labels: The reference: 0, 1 organ, 2 lesion.
    """
    if organ is None:
        return DiceCurve(dice_curve(levels, labels == LESION), None)
    curve = dice_curve(np.where(organ, levels, np.uint8(0)), labels == LESION)
    return DiceCurve(curve, Overlap.of(labels >= ORGAN, organ))


def _organ_dice(curves: Sequence[DiceCurve]) -> float | None:
    """Mean per case; None for data with lesions only."""
    values = [curve.organ.dice for curve in curves if curve.organ is not None]
    return sum(values) / len(values) if values else None
