"""Label maps of two folders, scored as the LiTS challenge does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volattn.datasets.case import LabelScheme
from volattn.datasets.finding import LeftOut, faults_among
from volattn.evaluation.folders import score_pairs
from volattn.evaluation.lits import LitsCase, lits_scheme, score_lits_files
from volattn.evaluation.lits_summary import LitsScores, summarise_lits
from volattn.evaluation.pairing import Pair, Pairing, pair_files
from volattn.io.names import volume_name

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
            raise ValueError(
                f"{folder.description}: the labels differ, {both}; say --liver and --lesion, or relabel"
            )
        found = found or scheme
    return found
