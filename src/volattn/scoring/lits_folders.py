"""Label maps of two folders, scored as by the LiTS challenge: pooled scores with bootstrap intervals over cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LabelScheme
from volattn.datasets.issues import faults_among
from volattn.io.readers import volume_name
from volattn.scoring.cases import CaseScore
from volattn.scoring.lesions import SIZES, THRESHOLDS, Counts, LesionScore
from volattn.scoring.lits import NOTHING, LitsCase, MaskScore, lits_scheme, score_lits_files
from volattn.scoring.overlap import Overlap
from volattn.scoring.pairing import Evaluation, described_scheme, pair_files, score_cases
from volattn.scoring.statistics import Agreement, described, percentile_interval, resamples
from volattn.workers import Progress

NO_PREDICTION = "there is no prediction for it; add one, or take the reference out"


def pool_lits(cases: Sequence[LitsCase], *, seed: int = 0) -> dict[str, Any]:
    """The scores of all cases as plain values; what the challenge's scorer gives too has its names.

    Under `intervals` are the 95 % intervals, with the keys of the scores; None where there is none. The signed maximum
    of the tumour burden has no interval: a sample never exceeds the largest value that was seen.

    Args:
        cases: Each taken for a patient; all with a liver or none.

    Raises:
        ValueError: There is no case.
    """
    if not cases:
        raise ValueError("there are no scored cases to pool; check that references and predictions share names")
    pool = _Pool(len(cases), seed)
    scores = [case.score for case in cases]
    livers = [case.liver for case in cases if case.liver is not None]
    lesions = [score.lesionwise.lesions for score in scores]
    differences = [liver.burden_difference for liver in livers]
    pooled = {
        "lesion_detection": pool.detection([case.detection[0.5] for case in cases])
        | pool.detection([case.detection[0.0] for case in cases], "_greater_zero"),
        "lesion": pool.scores([case.scored for case in cases])
        | pool.whole(
            [score.lesion for score in scores],
            [score.lesion.dice for score in scores],
            [case.lesion_surface_dice_2mm for case in cases],
        ),
        "liver": pool.scores([[liver.score] for liver in livers])
        | pool.whole(
            [liver.overlap for liver in livers],
            [liver.score.dice for liver in livers],
            [liver.score.surface_dice_2mm for liver in livers],
        )
        if livers
        else None,
        "tumor_burden": {
            "rmse": pool.estimate(np.sqrt(pool.quotient((one**2, 1) for one in differences))),
            "max": float(max(differences)),
        }
        if livers
        else None,
        "detected_lesion": pool.scores([case.detected for case in cases]),
        "by_size": {
            size: pool.lesions([[one for one in of_case if one.size == size] for of_case in lesions]) for size in SIZES
        },
        "all_sizes": pool.lesions(lesions),
        "false_positives_per_case": pool.mean([score.lesionwise.false_positives] for score in scores),
    }
    return {
        **_values(pooled),
        "per_case": {
            "lesion_dice": [score.lesion.dice for score in scores],
            "liver_dice": [liver.score.dice for liver in livers],
            "tumor_burden_difference": differences,
        },
        "counts": {
            f"{threshold:g}": sum((case.detection[threshold] for case in cases), Counts()).as_json()
            for threshold in THRESHOLDS
        },
        "agreement": {name: asdict(agreement) for name, agreement in _agreement(scores).items()},
        "intervals": _intervals(pooled),
        "bootstrap": described(seed, "cases"),
        "cases": [case.as_json() for case in cases],
    }


class _Estimate(NamedTuple):
    value: float | None
    interval: list[float] | None


def _values(scores: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _values(one) if isinstance(one, dict) else one.value if isinstance(one, _Estimate) else one
        for key, one in scores.items()
    }


def _intervals(scores: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _intervals(one) if isinstance(one, dict) else None if one is None else one.interval
        for key, one in scores.items()
        if one is None or isinstance(one, dict | _Estimate)
    }


class _Pool:
    """Cases and bootstrap samples of them; every list has an entry for each case, in one order.

    Every pooled score is a sum over the cases by another one (the mean Dice of lesions: the sum of their Dice by their
    number), or made of such quotients, so that a sample is a weighting of two columns.
    """

    def __init__(self, cases: int, seed: int) -> None:
        # The first weighting counts each case once.
        self._weights = np.stack([np.ones(cases), *(resamples(cases, seed) if cases > 1 else ())])

    def quotient(self, parts: Iterable[tuple[float, float]]) -> NDArray[np.float64]:
        """(1 + B,) from what each case adds above and below; NaN where the sum below is 0."""
        above, below = (self._weights @ np.array(list(parts), dtype=np.float64)).T
        return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)

    def estimate(self, values: NDArray[np.float64], otherwise: float | None = None) -> _Estimate:
        """Of (1 + B,) values; undefined ones do not count, and `otherwise` takes the place of the first."""
        interval = percentile_interval(values[1:]).tolist() if len(values) > 1 else [np.nan] * 2
        value = otherwise if np.isnan(values[0]) else float(values[0])
        return _Estimate(value, None if np.isnan(interval[0]) else interval)

    def mean(self, values: Iterable[Sequence[float]], otherwise: float | None = None) -> _Estimate:
        """The mean of the values of all cases together."""
        return self.estimate(self.quotient((sum(of_case), len(of_case)) for of_case in values), otherwise)

    def scores(self, scores: Sequence[Sequence[MaskScore]]) -> dict[str, _Estimate]:
        """The mean of each score; `NOTHING` if there is none."""
        return {
            name: self.mean([[getattr(score, name) for score in of_case] for of_case in scores], nothing)
            for name, nothing in asdict(NOTHING).items()
        }

    def lesions(self, lesions: Sequence[Sequence[LesionScore]]) -> dict[str, Any]:
        """Dice per lesion and recall."""
        found = [[float(lesion.found) for lesion in of_case] for of_case in lesions]
        return {
            "lesions": sum(map(len, found)),
            "found": int(sum(map(sum, found))),
            "dice": self.mean([lesion.dice for lesion in of_case] for of_case in lesions),
            "recall": self.mean(found),
        }

    def whole(
        self, overlaps: Sequence[Overlap], dices: Sequence[float], surfaces: Sequence[float]
    ) -> dict[str, _Estimate]:
        """The scores of a class's whole masks."""
        shared = self.quotient((2 * one.both, one.reference + one.prediction) for one in overlaps)
        return {
            "dice_per_case": self.mean([dice] for dice in dices),
            "dice_global": self.estimate(shared, otherwise=1.0),
            "surface_dice_2mm_per_case": self.mean([value] for value in surfaces),
        }

    def detection(self, counts: Sequence[Counts], suffix: str = "") -> dict[str, _Estimate]:
        """Precision, recall and F1, each 0 where there is nothing to divide by, as the scorer has it."""
        precision = self.quotient((one.taking_part, one.predictions) for one in counts)
        recall = self.quotient((one.detected, one.references) for one in counts)
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros(len(total)), where=total > 0)
        return {
            f"{name}{suffix}": self.estimate(values, otherwise=0.0)
            for name, values in (("precision", precision), ("recall", recall), ("f1", f1))
        }


def _agreement(scores: Sequence[CaseScore]) -> dict[str, Agreement]:
    """Found lesions against the union of the predicted ones that overlap them; whole cases."""
    found = [one for score in scores for one in score.lesionwise.lesions if one.predicted_volume_ml is not None]

    def volumes(overlaps: Iterable[tuple[Overlap | None, float]]) -> Agreement:
        return Agreement.of((one.reference * ml, one.prediction * ml) for one, ml in overlaps if one is not None)

    return {
        "lesion_volume_ml": Agreement.of((one.volume_ml, one.predicted_volume_ml or 0.0) for one in found),
        "lesion_long_axis_mm": Agreement.of((one.long_axis_mm, one.predicted_long_axis_mm or 0.0) for one in found),
        "lesion_volume_per_case_ml": volumes((score.lesion, score.voxel_ml) for score in scores),
        "liver_volume_per_case_ml": volumes((score.organ, score.voxel_ml) for score in scores),
    }


def score_lits_folders(
    reference: Path | str,
    prediction: Path | str,
    scheme: LabelScheme | None = None,
    *,
    strict: bool = False,
    trust_grid: bool = False,
    seed: int = 0,
    fail_fast: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores the label maps of one folder against those of another (`pair_files`).

    Args:
        scheme: What the values of both mean (`lits_scheme`); by default what a `dataset.json` in a folder says, or
            else 1 liver and 2 lesion.
        strict: Counts lesions as the challenge's scorer does, its faults included.
        trust_grid: Compares voxels as they lie, whatever a prediction's grid says.
        fail_fast: Raises the first error, also for a case that lacks a prediction.
        progress: Called with ("score", cases done, cases) after each case.

    Raises:
        ValueError: Nothing can be paired, what values mean is in doubt; or `fail_fast`, and a case failed.
        OSError: `fail_fast`, and a file cannot be read.
    """
    pairing = pair_files(reference, prediction)
    meaning = scheme or described_scheme(pairing.folders) or lits_scheme()
    unreached = faults_among(pairing.left_out)
    if fail_fast and unreached:
        raise ValueError(next(iter(unreached.values())))
    if fail_fast and pairing.references:
        raise ValueError(f"{pairing.references[0]}: {NO_PREDICTION}")
    pairs = {pair.name: pair for pair in pairing.pairs}

    def score(name: str) -> LitsCase:
        pair = pairs[name]
        return score_lits_files(name, pair.reference, pair.prediction, meaning, strict=strict, trust_grid=trust_grid)

    files = {name: pair.prediction for name, pair in pairs.items()}
    cases, failed = score_cases(files, score, fail_fast=fail_fast, progress=progress)
    failed |= {volume_name(path): f"{path}: {NO_PREDICTION}" for path in pairing.references} | unreached
    content = lits_content(cases, meaning, failed, pairing.predictions, strict=strict, seed=seed)
    return Evaluation(content if cases else {}, failed, len(cases) + len(failed), content["notes"], pairing.left_out)


def lits_content(
    cases: Sequence[LitsCase],
    scheme: LabelScheme,
    failed: dict[str, str],
    unused: Sequence[Path] = (),
    *,
    strict: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of `scores.json`; without a case only its notes."""
    organ, lesion = scheme.organ_values, scheme.lesion_values
    notes = [f"{path}: there is no reference for it; left out" for path in unused]
    for case in cases:
        name = case.score.name
        notes += [] if case.note is None else [case.note]
        if case.score.trained_on:
            notes.append(f"{name}: the model was trained on this case: its score is no test")
        if case.liver is not None and not case.liver.labelled:
            notes.append(
                f"{name}: no voxel of the prediction has the {scheme.organ_name}'s label {organ[0]}, so that its "
                f"{scheme.organ_name} scores as missing; say --organ none for masks of lesions only"
            )
    return {
        "kind": "lits",
        "settings": {
            "strict": strict,
            "liver": organ[0] if organ else None,
            "lesion": lesion[0] if len(lesion) == 1 else list(lesion),
        },
        "organ": scheme.organ_name,
        **(pool_lits(cases, seed=seed) if cases else {}),
        "failed": failed,
        "unused_predictions": [volume_name(path) for path in unused],
        "notes": notes,
    }
