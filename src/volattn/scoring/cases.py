"""Scores of label maps, one case and all cases: overlap and surface as the LiTS challenge counts them, and lesions."""

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
from volattn.scoring.overlap import LabelPair, Overlap, check_shapes
from volattn.scoring.pairing import Pair, score_pairs, trained_on
from volattn.scoring.surface import SurfaceDistances
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume
from volattn.workers import Progress

FAR = 9001.0
"""The value that the challenge's scorer writes where there is nothing to measure."""
TOLERANCE_MM = 2.0
"""Of the normalised surface Dice."""


@dataclass(frozen=True)
class MaskScore:
    """Scores of one pair of masks.

    Attributes:
        dice: 2 |R and P| / (|R| + |P|).
        jaccard: |R and P| / |R or P|.
        voe: 1 - Jaccard.
        rvd: (|R| - |P|) / |P|, as the challenge's scorer has it.
        rvd_conventional: (|P| - |R|) / |R|, as it is usually defined.
        assd: Average symmetric surface distance, mm.
        rmsd: Root mean square symmetric surface distance, mm.
        msd: Maximum symmetric surface distance, mm.
        surface_dice_2mm: Share of the surfaces' voxels that are at most 2 mm from the other surface.
    """

    dice: float
    jaccard: float
    voe: float
    rvd: float
    rvd_conventional: float
    assd: float
    rmsd: float
    msd: float
    surface_dice_2mm: float

    @classmethod
    def of(cls, overlap: Overlap, distances: SurfaceDistances | None) -> MaskScore:
        """Scores masks by their overlap and surfaces; `distances` is None, and the score `NOTHING`, if one is empty."""
        if distances is None:
            return NOTHING
        conventional = overlap.volume_difference
        assert conventional is not None
        return cls(
            dice=overlap.dice,
            jaccard=overlap.jaccard,
            voe=1 - overlap.jaccard,
            rvd=(overlap.reference - overlap.prediction) / overlap.prediction,
            rvd_conventional=conventional,
            assd=distances.mean,
            rmsd=distances.root_mean_square,
            msd=distances.maximum,
            surface_dice_2mm=distances.share_within(TOLERANCE_MM),
        )


NOTHING = MaskScore(0.0, 0.0, 1.0, FAR, FAR, FAR, FAR, FAR, 0.0)
"""Where one of the masks is empty, as the challenge's scorer has it."""


def surface_dice(overlap: Overlap, distances: SurfaceDistances | None) -> float:
    """Normalised surface Dice at 2 mm: 1 if both masks are empty, 0 if one of them is (`distances` is then None)."""
    if distances is None:
        return float(overlap.reference == overlap.prediction == 0)
    return distances.share_within(TOLERANCE_MM)


WRITTEN = LabelScheme(organ_name="organ", organ_values=(ORGAN,), lesion_values=(LESION,))
"""The labels that `predict` writes."""


@dataclass(frozen=True)
class CaseScore:
    """The scores of one case.

    Attributes:
        voxel_ml: Volume of a voxel.
        organ: Voxels of the organ with its lesions; None for data with lesions only.
        lesion: Voxels of the lesions.
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
    """Scores one label map against another.

    Args:
        reference: (z, y, x) 0 background, 1 organ, 2 lesion, in canonical axes.
        organ: Whether the data have an organ.

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
    """Scores a predicted label volume (0, 1, 2) against a reference one with its data set's own values.

    Both are turned to canonical axes first, so that axial diameters are axial.

    Args:
        reference: As read.
        prediction: As written by `predict`, on the same grid.
        scheme: What the reference's values mean.
        trust_grid: Compares voxels as they lie, whatever the prediction's grid says.

    Raises:
        ValueError: The grids differ, or a label is unknown.
    """
    called = f"{name} (reference)", f"{name} (prediction)"
    pair = LabelPair.of(reference, prediction, (scheme, WRITTEN), called, trust_grid=trust_grid)
    return score_pair(name, pair, organ=scheme.organ_name is not None, trained_on=trained_on)


def score_pair(name: str, pair: LabelPair, *, organ: bool = True, trained_on: bool = False) -> CaseScore:
    """Scores label maps that lie on one grid; see `score_case`."""
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
    """The reference lesions of one size, pooled over the cases.

    Attributes:
        lesions: How many there are.
        found: How many the prediction overlaps.
        dice: Mean Dice per lesion, missed ones 0; None without lesions.
    """

    lesions: int
    found: int
    dice: float | None

    @classmethod
    def of(cls, lesions: Sequence[LesionScore]) -> SizeScore:
        """Pools lesions."""
        found = sum(lesion.found for lesion in lesions)
        return cls(len(lesions), found, sum(one.dice for one in lesions) / len(lesions) if lesions else None)

    @property
    def recall(self) -> float | None:
        """Share found; None without lesions."""
        return self.found / self.lesions if self.lesions else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"recall": self.recall}


@dataclass(frozen=True)
class ClassScore:
    """Overlap of one class over the cases.

    Attributes:
        dice_per_case: Mean over the cases, each counting the same.
        dice_global: Over the voxels of all cases together.
    """

    dice_per_case: float
    dice_global: float

    @classmethod
    def of(cls, overlaps: Sequence[Overlap]) -> ClassScore:
        """Pools the overlaps of all cases."""
        mean = sum(overlap.dice for overlap in overlaps) / len(overlaps)
        return cls(mean, reduce(Overlap.__add__, overlaps).dice)


@dataclass(frozen=True)
class Summary:
    """Scores over cases.

    Attributes:
        trained_on: How many of them the model was trained on.
        organ: None for data with lesions only.
        sizes: Lesion by lesion, by size.
        all_sizes: The same for all lesions together.
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
        """Plain values."""
        sizes = {name: size.as_json() for name, size in self.sizes.items()}
        return asdict(self) | {"sizes": sizes, "all_sizes": self.all_sizes.as_json()}


def summarise(cases: Sequence[CaseScore]) -> Summary:
    """Pools the scores of cases.

    Raises:
        ValueError: There is no case.
    """
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
