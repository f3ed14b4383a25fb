"""Scores of a folder of predictions against a data set."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from volattn.datasets.case import Case, Dataset
from volattn.evaluation.cases import CaseScore, score_volumes
from volattn.io.nifti import read_labels


@dataclass(frozen=True)
class FolderScores:
    """What could be scored, and what could not.

    Attributes:
        cases: In the data set's order.
        failed: One line for each case that could not be scored.
    """

    cases: tuple[CaseScore, ...]
    failed: tuple[str, ...] = ()


def score_folder(
    dataset: Dataset,
    predictions: Path | str,
    *,
    trained_on: Collection[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> FolderScores:
    """Scores `NAME.nii.gz` in a folder, as `predict` writes it, against each case of a data set.

    Cases without a label map have nothing to be scored against and are left out. A case that cannot be scored
    does not stop the others.

    Args:
        dataset: The references.
        predictions: Folder of label maps with 0, 1 and 2.
        trained_on: Names of cases that the model learned from.
        progress: Called with ("score", cases done, cases) after each case.
    """
    scored: list[CaseScore] = []
    failed: list[str] = []
    labelled = [case for case in dataset.cases if case.labels is not None]
    for done, case in enumerate(labelled, start=1):
        try:
            scored.append(_score(case, dataset, Path(predictions), case.name in trained_on))
        except (ValueError, OSError) as error:
            failed.append(f"{case.name}: {error}")
        if progress is not None:
            progress("score", done, len(labelled))
    return FolderScores(tuple(scored), tuple(failed))


def _score(case: Case, dataset: Dataset, predictions: Path, trained_on: bool) -> CaseScore:
    assert case.labels is not None
    return score_volumes(
        case.name,
        read_labels(case.labels),
        read_labels(predictions / f"{case.name}.nii.gz"),
        dataset.scheme,
        trained_on=trained_on,
    )
