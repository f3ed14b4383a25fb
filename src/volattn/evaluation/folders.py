"""Scores of a folder of predictions, case by case: a bad file stops nothing but its own case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from volattn.datasets.case import Dataset
from volattn.evaluation.cases import CaseScore, score_volumes
from volattn.evaluation.pairing import Pair
from volattn.evaluation.seen import trained_on
from volattn.faults import explain
from volattn.io.nifti import read_labels

Score = TypeVar("Score")


@dataclass(frozen=True)
class FolderScores:
    """What could be scored, and what could not.

    Attributes:
        cases: In the data set's order.
        failed: One line for each case that could not be scored.
    """

    cases: tuple[CaseScore, ...]
    failed: tuple[str, ...] = ()


def score_pairs(
    pairs: Sequence[Pair],
    score: Callable[[Pair], Score],
    *,
    fail_fast: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Score], dict[str, str]]:
    """Scores cases one after the other.

    Args:
        pairs: The cases.
        score: Scores one; an exception fails that case.
        fail_fast: The first failure ends it all.
        progress: Called with ("score", cases done, cases) after each case.

    Returns:
        The scores in the order of the pairs, and the reason by case for those that failed.

    Raises:
        Exception: `fail_fast`, and a case failed.
    """
    scored: list[Score] = []
    failed: dict[str, str] = {}
    for done, pair in enumerate(pairs, start=1):
        try:
            scored.append(score(pair))
        except Exception as error:  # Whatever is wrong with one case must not cost the user the others.
            if fail_fast:
                raise
            failed[pair.name] = explain(error, pair.prediction)
        if progress is not None:
            progress("score", done, len(pairs))
    return scored, failed


def score_folder(
    dataset: Dataset,
    predictions: Path | str,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    trust_grid: bool = False,
) -> FolderScores:
    """Scores `NAME.nii.gz` in a folder, as `predict` writes it, against each case of a data set.

    Cases without a label map have nothing to be scored against and are left out. A case that cannot be scored
    does not stop the others.

    Args:
        dataset: The references.
        predictions: Folder of label maps with 0, 1 and 2.
        progress: Called with ("score", cases done, cases) after each case.
        trust_grid: Voxels are compared as they lie, whatever a prediction's grid says.
    """
    pairs = [
        Pair(case.name, case.labels, Path(predictions) / f"{case.name}.nii.gz")
        for case in dataset.cases
        if case.labels is not None
    ]

    def score(pair: Pair) -> CaseScore:
        return score_volumes(
            pair.name,
            read_labels(pair.reference),
            read_labels(pair.prediction),
            dataset.scheme,
            trained_on=trained_on(pair.prediction),
            trust_grid=trust_grid,
        )

    scored, failed = score_pairs(pairs, score, progress=progress)
    return FolderScores(tuple(scored), tuple(f"{name}: {reason}" for name, reason in failed.items()))
