"""Validation by masks: Dice on the prepared grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volattn.inference.stitch import ORGAN_SCORE, score_maps
from volattn.inference.stream import SliceDetections
from volattn.preprocessing.store import Store, StoredCase
from volattn.scoring.overlap import Overlap
from volattn.slabs.slab import LESION, ORGAN
from volattn.structures.lesions import largest_component
from volattn.training.validate import Validation, choose_threshold, dice_curve, passed


@dataclass(frozen=True)
class Scored:
    """The scores of a case for one way to read its organ.

    Attributes:
        lesion: Lesion Dice at each candidate threshold.
        organ: None for data with lesions only.
    """

    lesion: NDArray[np.float64]
    organ: Overlap | None


@dataclass(frozen=True)
class MaskCaseStats:
    """What one case adds.

    Attributes:
        whole: With every part of the organ.
        single: With its largest connected part alone; as `whole` for data with lesions only.
    """

    whole: Scored
    single: Scored


class MaskAccumulator:
    """One case; of the volume it keeps three bytes a prepared voxel.

    Args:
        store: Where it is.
        case: It has a label map.
    """

    def __init__(self, store: Store, case: StoredCase) -> None:
        _, h, w = case.shape
        self.case = case
        self.shape, self.size, self.classes = (h, w), store.plan.size, len(store.classes)
        self._levels = np.zeros(case.shape, np.uint8)
        self._organ = np.zeros(case.shape, bool) if self.classes == 2 else None

    def add(self, z: int, detections: SliceDetections) -> None:
        """Takes the detections of a slice."""
        maps = score_maps(detections, self.shape, self.size, self.classes)
        self._levels[z] = passed(maps[-1])
        if self._organ is not None:
            self._organ[z] = maps[0] >= ORGAN_SCORE

    def finish(self) -> MaskCaseStats:
        """Scores the volume."""
        labels = np.asarray(self.case.labels[:])
        whole = score(self._levels, self._organ, labels)
        if self._organ is None:
            return MaskCaseStats(whole, whole)
        return MaskCaseStats(whole, score(self._levels, largest_component(self._organ), labels))


class MaskEvaluator:
    """Mean Dice per case of lesion and organ."""

    def begin(self, store: Store, case: StoredCase) -> MaskAccumulator:
        """Begins to read a case."""
        return MaskAccumulator(store, case)

    def join(self, found: Mapping[str, MaskCaseStats], entropies: Mapping[str, float]) -> Validation:
        """Chooses how the organ is read, then the threshold with the highest mean lesion Dice."""
        whole = [finding.whole for finding in found.values()]
        single = [finding.single for finding in found.values()]
        single_organ = (_organ_dice(single) or 0) > (_organ_dice(whole) or 0)
        chosen = single if single_organ else whole
        point = choose_threshold([scored.lesion for scored in chosen])
        cases: dict[str, dict[str, float]] = {}
        for name, scored, dice in zip(found, chosen, point.values, strict=True):
            organ = {} if scored.organ is None else {"organ": scored.organ.dice}
            cases[name] = {"lesion": dice} | organ
        organ_dice = _organ_dice(chosen)
        return Validation(
            {"lesion_dice": point.mean} | ({} if organ_dice is None else {"organ_dice": organ_dice}),
            point.threshold,
            cases,
            dict(entropies),
            single_organ,
        )


def score(levels: NDArray[np.uint8], organ: NDArray[np.bool_] | None, labels: NDArray[np.uint8]) -> Scored:
    """Scores a case; a lesion counts where the organ is.

    Args:
        levels: (Z, h, w), see `dice_curve`.
        organ: What is taken for the organ; None for data with lesions only.
        labels: The reference: 0, 1 organ, 2 lesion.
    """
    if organ is None:
        return Scored(dice_curve(levels, labels == LESION), None)
    curve = dice_curve(np.where(organ, levels, np.uint8(0)), labels == LESION)
    return Scored(curve, Overlap.of(labels >= ORGAN, organ))


def _organ_dice(scored: Sequence[Scored]) -> float | None:
    """Mean per case; None for data with lesions only."""
    values = [one.organ.dice for one in scored if one.organ is not None]
    return sum(values) / len(values) if values else None
