"""How sure the pooled scores of LiTS cases are: bootstrap over cases.

Scores of LiTS cases pooled, under the names of the challenge's own scores.

Label maps of two folders, scored as the LiTS challenge does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LabelScheme
from volattn.datasets.issues import LeftOut, faults_among
from volattn.io.names import volume_name
from volattn.scoring.cases import MaskScore, Summary, score_pairs, summarise
from volattn.scoring.lesions import SIZES, THRESHOLDS, Counts, LesionScore
from volattn.scoring.lits import LitsCase, lits_scheme, score_lits_files
from volattn.scoring.overlap import Overlap
from volattn.scoring.pairing import Pair, Pairing, pair_files
from volattn.scoring.statistics import Agreement, percentile_interval, resamples
from volattn.scoring.statistics import described as described_bootstrap

Interval = list[float] | None
"""Lower and upper end."""


def lits_intervals(cases: Sequence[LitsCase], seed: int) -> dict[str, Any]:
    """95 % intervals of the pooled scores, under the keys that the scores have in `scores.json`.

    Every pooled score is a sum over the cases by another one (the mean Dice of lesions: the sum of their Dice by their
    number), or made of such quotients, so that a sample of cases is a weighting of two columns. The signed maximum of
    the tumour burden has no interval: a sample never exceeds the largest value that was seen.

    Args:
        cases: At least one, each taken for a patient.
        seed: Of the bootstrap.

    Returns:
        Nested keys, each with an interval, or None where there is none; all are None with one case.
    """
    samples = _Samples(len(cases), seed)
    livers = [case.liver for case in cases if case.liver is not None]
    lesions = [case.score.lesionwise.lesions for case in cases]
    return {
        "lesion_detection": samples.detection([case.detection[0.5] for case in cases])
        | samples.detection([case.detection[0.0] for case in cases], "_greater_zero"),
        "lesion": samples.scores([case.scored for case in cases])
        | samples.whole(
            [case.score.lesion for case in cases],
            [case.score.lesion.dice for case in cases],
            [case.lesion_surface_dice_2mm for case in cases],
        ),
        "liver": samples.scores([[liver.score] for liver in livers])
        | samples.whole(
            [liver.overlap for liver in livers],
            [liver.score.dice for liver in livers],
            [liver.score.surface_dice_2mm for liver in livers],
        )
        if livers
        else None,
        "tumor_burden": {
            "rmse": samples.interval(np.sqrt(samples.quotient((liver.burden_difference**2, 1) for liver in livers)))
        }
        if livers
        else None,
        "detected_lesion": samples.scores([case.detected for case in cases]),
        "by_size": {
            size: samples.lesions([[one for one in of_case if one.size == size] for of_case in lesions])
            for size in SIZES
        },
        "all_sizes": samples.lesions(lesions),
        "false_positives_per_case": samples.mean([case.score.lesionwise.false_positives] for case in cases),
    }


class _Samples:
    """Bootstrap samples of cases; every list has an entry for each case, in one order."""

    def __init__(self, cases: int, seed: int) -> None:
        self._cases = cases
        self._weights = np.stack(list(resamples(cases, seed)))

    def quotient(self, parts: Iterable[tuple[float, float]]) -> NDArray[np.float64]:
        """(B,) of each sample, from what each case adds above and below; NaN where the sum below is 0."""
        above, below = (self._weights @ np.array(list(parts), dtype=np.float64)).T
        return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)

    def interval(self, values: NDArray[np.float64]) -> Interval:
        """Of (B,) values; samples that have none do not count."""
        low, high = percentile_interval(values).tolist()
        return None if self._cases < 2 or np.isnan(low) else [low, high]

    def mean(self, values: Iterable[Sequence[float]]) -> Interval:
        """Of the mean of what all cases have together."""
        return self.interval(self.quotient((sum(of_case), len(of_case)) for of_case in values))

    def means(self, things: Sequence[Sequence[Any]], **values: Callable[[Any], float]) -> dict[str, Interval]:
        """Of the means of several values of the things that each case has."""
        return {
            name: self.mean([value(thing) for thing in of_case] for of_case in things) for name, value in values.items()
        }

    def scores(self, scores: Sequence[Sequence[MaskScore]]) -> dict[str, Interval]:
        """Of the mean of each score."""
        return self.means(scores, **{field.name: attrgetter(field.name) for field in fields(MaskScore)})

    def lesions(self, lesions: Sequence[Sequence[LesionScore]]) -> dict[str, Interval]:
        """Of Dice per lesion and recall."""
        return self.means(lesions, dice=attrgetter("dice"), recall=attrgetter("found"))

    def whole(
        self, overlaps: Sequence[Overlap], dices: Sequence[float], surfaces: Sequence[float]
    ) -> dict[str, Interval]:
        """Of the scores of a class's whole masks."""
        shared = self.quotient((2 * one.both, one.reference + one.prediction) for one in overlaps)
        return {
            "dice_per_case": self.mean([dice] for dice in dices),
            "dice_global": self.interval(shared),
            "surface_dice_2mm_per_case": self.mean([value] for value in surfaces),
        }

    def detection(self, counts: Sequence[Counts], suffix: str = "") -> dict[str, Interval]:
        """Of precision, recall and F1, which is 0 where one of the two is or cannot be."""
        precision = self.quotient((one.taking_part, one.predictions) for one in counts)
        recall = self.quotient((one.detected, one.references) for one in counts)
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros(len(total)), where=total > 0)
        return {
            f"precision{suffix}": self.interval(precision),
            f"recall{suffix}": self.interval(recall),
            f"f1{suffix}": self.interval(f1),
        }


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
            "tumor_burden": None if self.liver is None else {"rmse": self.burden_rmse, "max": self.burden_max},
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
            threshold: reduce(Counts.__add__, [case.detection[threshold] for case in cases]) for threshold in THRESHOLDS
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
        "liver_volume_per_case_ml": [(score.organ, score.voxel_ml) for score in scores if score.organ is not None],
    }
    return {
        "lesion_volume_ml": Agreement.of(
            (lesion.volume_ml, lesion.predicted_volume_ml) for lesion in found if lesion.predicted_volume_ml is not None
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


NO_PREDICTION = "there is no prediction for it; add one, or take the reference out"


@dataclass(frozen=True)
class LitsFolderScores:
    """What could be scored, and what could not.

    Attributes:
        scores: Of the cases that could be; None if there is none.
        failed: The reason by case, also for references without a prediction and for what could not be reached.
        unused: Predictions without a reference.
        scheme: What the label values mean.
        strict: Whether lesions were counted as the challenge's scorer counts them.
        left_out: What else is in the folders.
    """

    scores: LitsScores | None
    failed: dict[str, str]
    unused: tuple[Path, ...]
    scheme: LabelScheme
    strict: bool
    left_out: tuple[LeftOut, ...] = ()

    @property
    def total(self) -> int:
        """Cases in all, failed ones included."""
        return len(self.failed) + (0 if self.scores is None else len(self.scores.cases))

    @property
    def notes(self) -> list[str]:
        """What the reader of the scores should know, a sentence each."""
        notes = [f"{path}: there is no reference for it; left out" for path in self.unused]
        for case in () if self.scores is None else self.scores.cases:
            if case.note is not None:
                notes.append(case.note)
            if case.score.trained_on:
                notes.append(f"{case.name}: the model was trained on this case: its score is no test")
            if case.liver is not None and not case.liver.labelled:
                notes.append(
                    f"{case.name}: no voxel of the prediction has the liver's label "
                    f"{self.scheme.organ_values[0]}, so that its liver scores as missing; "
                    "say --liver none for masks of lesions only"
                )
        return notes

    @property
    def content(self) -> dict[str, Any]:
        """Plain values for `scores.json`."""
        assert self.scores is not None
        liver, lesion = self.scheme.organ_values, self.scheme.lesion_values
        return {
            "kind": "lits",
            "settings": {
                "strict": self.strict,
                "liver": liver[0] if liver else None,
                "lesion": lesion[0] if len(lesion) == 1 else list(lesion),
            },
            **self.scores.as_json(),
            "failed": self.failed,
            "unused_predictions": [volume_name(path) for path in self.unused],
            "notes": self.notes,
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
    progress: Callable[[str, int, int], None] | None = None,
) -> LitsFolderScores:
    """Scores the label maps of one folder against those of another.

    Args:
        reference: Folder, data set or file; see `pair_files`.
        prediction: Folder or file.
        scheme: What the values of both mean (`lits_scheme`); by default what a `dataset.json` in a folder says, or
            else 1 liver and 2 lesion.
        strict: Lesions are counted as the challenge's scorer counts them, its faults included.
        trust_grid: Voxels are compared as they lie, whatever a prediction's grid says.
        seed: Of the intervals' bootstrap.
        fail_fast: The first case that fails, or lacks a prediction, ends it all.
        progress: Called with ("score", cases done, cases) after each case.

    Raises:
        ValueError: Nothing can be paired, what values mean is in doubt; or `fail_fast`, and a case failed.
        OSError: `fail_fast`, and a file cannot be read.
    """
    pairing = pair_files(reference, prediction)
    meaning = _described(pairing) or lits_scheme() if scheme is None else scheme
    unreached = faults_among(pairing.left_out)
    if fail_fast and unreached:
        raise ValueError(next(iter(unreached.values())))
    if fail_fast and pairing.references:
        raise ValueError(f"{pairing.references[0]}: {NO_PREDICTION}")

    def score(pair: Pair) -> LitsCase:
        return score_lits_files(
            pair.name, pair.reference, pair.prediction, meaning, strict=strict, trust_grid=trust_grid
        )

    cases, failed = score_pairs(pairing.pairs, score, fail_fast=fail_fast, progress=progress)
    failed |= {volume_name(path): f"{path}: {NO_PREDICTION}" for path in pairing.references} | unreached
    return LitsFolderScores(
        scores=summarise_lits(cases, seed=seed) if cases else None,
        failed=failed,
        unused=pairing.predictions,
        scheme=meaning,
        strict=strict,
        left_out=pairing.left_out,
    )


def _described(pairing: Pairing) -> LabelScheme | None:
    """What `dataset.json` says of the values, where there is one.

    Raises:
        ValueError: It says nothing of use, or the references' says otherwise than the predictions'.
    """
    found: LabelScheme | None = None
    for folder in pairing.folders:
        if folder.description is None:
            continue
        try:
            scheme = folder.scheme
        except ValueError as error:
            raise ValueError(f"{error}; or say --liver and --lesion") from None
        if scheme is not None and len(scheme.organ_values) > 1:
            raise ValueError(
                f"{folder.description}: has several organs ({scheme.described}); say with --liver and --lesion which "
                "labels to score"
            )
        if found is not None and scheme is not None and found.described != scheme.described:
            both = f"{found.described} in the references, {scheme.described} in the predictions"
            raise ValueError(f"{folder.description}: the labels differ, {both}; say --liver and --lesion, or relabel")
        found = found or scheme
    return found
