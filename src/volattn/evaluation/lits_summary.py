"""Scores of LiTS cases pooled, under the names of the challenge's own scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from volattn.evaluation.agreement import Agreement
from volattn.evaluation.lesion_detection import THRESHOLDS, Counts
from volattn.evaluation.lits import LitsCase
from volattn.evaluation.lits_intervals import lits_intervals
from volattn.evaluation.mask_scores import MaskScore
from volattn.evaluation.overlap import Overlap
from volattn.evaluation.statistics import described as described_bootstrap
from volattn.evaluation.summary import Summary, summarise


@dataclass(frozen=True)
class ClassScores:
    """One class over the cases.

    Attributes:
        mean: Mean scores: of the detected lesions pooled over the cases, or of the livers.
        dice_per_case: Mean over the cases, each counting the same.
        dice_global: Over the voxels of all cases together.
        surface_dice_2mm_per_case: Mean over the cases.
    """

    mean: MaskScore
    dice_per_case: float
    dice_global: float
    surface_dice_2mm_per_case: float

    def as_json(self) -> dict[str, float]:
        """Plain values."""
        return {
            **self.mean.as_json(),
            "dice_per_case": self.dice_per_case,
            "dice_global": self.dice_global,
            "surface_dice_2mm_per_case": self.surface_dice_2mm_per_case,
        }


@dataclass(frozen=True)
class LitsScores:
    """Scores over cases.

    Attributes:
        cases: The scores of each, in their order.
        counts: Lesions counted at each overlap.
        lesion: Of the lesions that the challenge's scorer detects, in both modes.
        detected_lesion: Means over the lesions detected by the union of what was merged, in both modes.
        liver: None for masks of lesions only.
        burden_rmse: Root mean square of the differences of the tumour burden; None without a liver.
        burden_max: The largest of them, signed.
        summary: Lesion by lesion, by size.
        agreement: Of predicted and reference measures, by what is measured.
        intervals: Of the scores above, see `lits_intervals`.
        seed: Of the intervals' bootstrap.
    """

    cases: tuple[LitsCase, ...]
    counts: dict[float, Counts]
    lesion: ClassScores
    detected_lesion: MaskScore
    liver: ClassScores | None
    burden_rmse: float | None
    burden_max: float | None
    summary: Summary
    agreement: dict[str, Agreement]
    intervals: dict[str, Any]
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Plain values; what the challenge's scorer gives too stands under its names."""
        above, touched = self.counts[0.5], self.counts[0.0]
        summary = self.summary.as_json()
        livers = [case.liver for case in self.cases if case.liver is not None]
        return {
            "lesion_detection": {
                "precision": above.precision,
                "recall": above.recall,
                "f1": above.f1,
                "precision_greater_zero": touched.precision,
                "recall_greater_zero": touched.recall,
                "f1_greater_zero": touched.f1,
            },
            "lesion": self.lesion.as_json(),
            "liver": None if self.liver is None else self.liver.as_json(),
            "tumor_burden": None
            if self.liver is None
            else {"rmse": self.burden_rmse, "max": self.burden_max},
            "per_case": {
                "lesion_dice": [case.score.lesion.dice for case in self.cases],
                "liver_dice": [liver.score.dice for liver in livers],
                "tumor_burden_difference": [liver.burden_difference for liver in livers],
            },
            "counts": {f"{threshold:g}": counts.as_json() for threshold, counts in self.counts.items()},
            "detected_lesion": self.detected_lesion.as_json(),
            "by_size": summary["sizes"],
            "all_sizes": summary["all_sizes"],
            "false_positives_per_case": summary["false_positives_per_case"],
            "agreement": {name: agreement.as_json() for name, agreement in self.agreement.items()},
            "intervals": self.intervals,
            "bootstrap": described_bootstrap(self.seed, "cases"),
            "cases": [case.as_json() for case in self.cases],
        }


def summarise_lits(cases: Sequence[LitsCase], *, seed: int = 0) -> LitsScores:
    """Pools the scores of cases.

    Args:
        cases: Of one kind, all with a liver or none.
        seed: Of the intervals' bootstrap.

    Raises:
        ValueError: There is no case.
    """
    summary = summarise([case.score for case in cases])
    livers = [case.liver for case in cases if case.liver is not None]
    differences = np.array([liver.burden_difference for liver in livers])
    return LitsScores(
        cases=tuple(cases),
        counts={
            threshold: reduce(Counts.__add__, [case.detection[threshold] for case in cases])
            for threshold in THRESHOLDS
        },
        lesion=ClassScores(
            mean=MaskScore.mean([score for case in cases for score in case.scored]),
            dice_per_case=summary.lesion.dice_per_case,
            dice_global=summary.lesion.dice_global,
            surface_dice_2mm_per_case=float(np.mean([case.lesion_surface_dice_2mm for case in cases])),
        ),
        detected_lesion=MaskScore.mean([score for case in cases for score in case.detected]),
        liver=ClassScores(
            mean=MaskScore.mean([liver.score for liver in livers]),
            dice_per_case=float(np.mean([liver.score.dice for liver in livers])),
            dice_global=reduce(Overlap.__add__, [liver.overlap for liver in livers]).dice,
            surface_dice_2mm_per_case=float(np.mean([liver.score.surface_dice_2mm for liver in livers])),
        )
        if livers
        else None,
        burden_rmse=float(np.sqrt(np.mean(np.square(differences)))) if livers else None,
        burden_max=float(differences.max()) if livers else None,
        summary=summary,
        agreement=_agreement(cases),
        intervals=lits_intervals(cases, seed),
        seed=seed,
    )


def _agreement(cases: Sequence[LitsCase]) -> dict[str, Agreement]:
    """Found lesions against the union of the predicted ones that overlap them; whole cases."""
    scores = [case.score for case in cases]
    found = [lesion for score in scores for lesion in score.lesionwise.lesions]
    volumes = {
        "lesion_volume_per_case_ml": [(score.lesion, score.voxel_ml) for score in scores],
        "liver_volume_per_case_ml": [
            (score.organ, score.voxel_ml) for score in scores if score.organ is not None
        ],
    }
    return {
        "lesion_volume_ml": Agreement.of(
            (lesion.volume_ml, lesion.predicted_volume_ml)
            for lesion in found
            if lesion.predicted_volume_ml is not None
        ),
        "lesion_long_axis_mm": Agreement.of(
            (lesion.long_axis_mm, lesion.predicted_long_axis_mm)
            for lesion in found
            if lesion.predicted_long_axis_mm is not None
        ),
        **{
            name: Agreement.of((overlap.reference * ml, overlap.prediction * ml) for overlap, ml in overlaps)
            for name, overlaps in volumes.items()
        },
    }
