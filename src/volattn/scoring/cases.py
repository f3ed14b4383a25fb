"""Scores of label maps, of one case and of several: Dice of organ and lesions, and lesion by lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LESION, ORGAN, Dataset, LabelScheme
from volattn.io.readers import read_labels
from volattn.scoring.lesions import SIZES, LesionScore, LesionwiseScore, Size, score_components
from volattn.scoring.metrics import Count, Number
from volattn.scoring.overlap import LabelPair, Overlap, check_shapes
from volattn.scoring.pairing import score_cases, trained_on
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume
from volattn.workers import Progress

WRITTEN = LabelScheme(organ_name="organ", organ_values=(ORGAN,), lesion_values=(LESION,))
"""The labels that `predict` writes."""


@dataclass(frozen=True)
class CaseScore:
    """The scores of one case.

    Attributes:
        voxel_ml: Volume of a voxel.
        organ: Voxels of the organ with its lesions; None for data with lesions only.
        trained_on: Whether the model was trained on this case, so that its score is no test.
    """

    name: str
    voxel_ml: float
    organ: Overlap | None
    lesion: Overlap
    lesionwise: LesionwiseScore
    trained_on: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values, lengths in mm and volumes in ml."""
        return {
            "name": self.name,
            "trained_on": self.trained_on,
            "organ": None if self.organ is None else self._overlap_json(self.organ),
            "lesion": self._overlap_json(self.lesion),
            "reference_lesions": [asdict(lesion) for lesion in self.lesionwise.lesions],
            "predicted_lesions": self.lesionwise.predicted,
            "false_positives": self.lesionwise.false_positives,
        }

    def _overlap_json(self, overlap: Overlap) -> dict[str, Any]:
        return {
            "dice": overlap.dice,
            "reference_ml": overlap.reference * self.voxel_ml,
            "prediction_ml": overlap.prediction * self.voxel_ml,
        }


def score_case(
    name: str,
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    geometry: Geometry,
    *,
    organ: bool = True,
    trained_on: bool = False,
) -> CaseScore:
    """Scores label maps (z, y, x) in canonical axes: 0 background, 1 organ (if `organ`), 2 lesion.

    Raises:
        ValueError: The shapes differ.
    """
    check_shapes(reference, prediction)
    pair = LabelPair.cropped(reference, prediction, geometry)
    return score_pair(name, pair, organ=organ, trained_on=trained_on)


def score_volumes(
    name: str,
    reference: Volume,
    prediction: Volume,
    scheme: LabelScheme,
    *,
    trained_on: bool = False,
    trust_grid: bool = False,
) -> CaseScore:
    """Scores a label volume (0, 1, 2) as written by `predict` against a reference with its data set's own values.

    Args:
        trust_grid: Compares voxels as they lie, whatever the prediction's grid says.

    Raises:
        ValueError: The grids differ, or a label is unknown.
    """
    called = f"{name} (reference)", f"{name} (prediction)"
    pair = LabelPair.of(reference, prediction, (scheme, WRITTEN), called, trust_grid=trust_grid)
    return score_pair(name, pair, organ=scheme.organ_name is not None, trained_on=trained_on)


def score_pair(name: str, pair: LabelPair, *, organ: bool = True, trained_on: bool = False) -> CaseScore:
    return CaseScore(
        name=name,
        voxel_ml=pair.geometry.voxel_volume / 1000,
        organ=Overlap.of(*pair.organ) if organ else None,
        lesion=Overlap.of(*pair.lesion),
        lesionwise=score_components(pair.lesions, pair.lesion_geometry),
        trained_on=trained_on,
    )


@dataclass(frozen=True)
class SizeScore:
    """The reference lesions of one size over all cases: mean Dice, missed ones 0, and the share that is found."""

    lesions: Count
    found: Count
    dice: Number | None
    recall: Number | None

    @classmethod
    def of(cls, lesions: Sequence[LesionScore]) -> SizeScore:
        count, found = len(lesions), sum(lesion.found for lesion in lesions)
        if not count:
            return cls(0, 0, None, None)
        return cls(count, found, sum(lesion.dice for lesion in lesions) / count, found / count)


@dataclass(frozen=True)
class ClassScore:
    """Dice of one class: the mean over the cases, and over the voxels of all cases together."""

    dice_per_case: float
    dice_global: float

    @classmethod
    def of(cls, overlaps: Sequence[Overlap]) -> ClassScore:
        mean = sum(overlap.dice for overlap in overlaps) / len(overlaps)
        return cls(mean, reduce(Overlap.__add__, overlaps).dice)


@dataclass(frozen=True)
class Summary:
    """Scores over cases.

    Attributes:
        trained_on: How many of them the model was trained on.
        organ: None for data with lesions only.
        false_positives_per_case: Mean number of predicted components that overlap no reference lesion.
    """

    cases: int
    trained_on: int
    organ: ClassScore | None
    lesion: ClassScore
    sizes: dict[Size, SizeScore]
    all_sizes: SizeScore
    false_positives_per_case: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(cases: Sequence[CaseScore]) -> Summary:
    if not cases:
        raise ValueError("there are no scored cases to summarise; check that references and predictions share names")
    organs = [case.organ for case in cases if case.organ is not None]
    lesions = [lesion for case in cases for lesion in case.lesionwise.lesions]
    return Summary(
        cases=len(cases),
        trained_on=sum(case.trained_on for case in cases),
        organ=ClassScore.of(organs) if organs else None,
        lesion=ClassScore.of([case.lesion for case in cases]),
        sizes={size: SizeScore.of([lesion for lesion in lesions if lesion.size == size]) for size in SIZES},
        all_sizes=SizeScore.of(lesions),
        false_positives_per_case=sum(case.lesionwise.false_positives for case in cases) / len(cases),
    )


@dataclass(frozen=True)
class FolderScores:
    """The scores of a folder: cases in the data set's order, and one line for each that could not be scored."""

    cases: tuple[CaseScore, ...]
    failed: tuple[str, ...] = ()


def score_folder(
    dataset: Dataset, predictions: Path | str, *, progress: Progress | None = None, trust_grid: bool = False
) -> FolderScores:
    """Scores `NAME.nii.gz` in a folder, as `predict` writes it, against each case of a data set with a label map.

    A case that cannot be scored does not stop the others.

    Args:
        progress: Called with ("score", cases done, cases) after each case.
        trust_grid: Compares voxels as they lie, whatever a prediction's grid says.
    """
    references = {case.name: case.labels for case in dataset.cases if case.labels is not None}
    files = {name: Path(predictions) / f"{name}.nii.gz" for name in references}

    def score(name: str) -> CaseScore:
        return score_volumes(
            name,
            read_labels(references[name]),
            read_labels(files[name]),
            dataset.scheme,
            trained_on=trained_on(files[name]),
            trust_grid=trust_grid,
        )

    scored, failed = score_cases(files, score, progress=progress)
    return FolderScores(tuple(scored), tuple(f"{name}: {reason}" for name, reason in failed.items()))
