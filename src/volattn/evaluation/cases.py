"""Scores of one case, organ and lesions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LESION, ORGAN, LabelScheme
from volattn.evaluation.label_pair import LabelPair
from volattn.evaluation.lesionwise import LesionwiseScore, score_components
from volattn.evaluation.overlap import Overlap, check_shapes
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

WRITTEN = LabelScheme(organ_name="organ", organ_values=(ORGAN,), lesion_values=(LESION,))
"""The labels that `predict` writes."""


@dataclass(frozen=True)
class CaseScore:
    """What one case scored.

    Attributes:
        name: The case.
        voxel_ml: Volume of a voxel.
        organ: Voxels of the organ with its lesions; None for data with lesions only.
        lesion: Voxels of the lesions.
        lesionwise: The same lesion by lesion.
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
        lesions = self.lesionwise
        return {
            "name": self.name,
            "trained_on": self.trained_on,
            "organ": None if self.organ is None else self._overlap_json(self.organ),
            "lesion": self._overlap_json(self.lesion),
            "reference_lesions": [
                {
                    "id": lesion.id,
                    "long_axis_mm": lesion.long_axis_mm,
                    "volume_ml": lesion.volume_ml,
                    "size": lesion.size,
                    "dice": lesion.dice,
                    "predicted_long_axis_mm": lesion.predicted_long_axis_mm,
                    "predicted_volume_ml": lesion.predicted_volume_ml,
                }
                for lesion in lesions.lesions
            ],
            "predicted_lesions": lesions.predicted,
            "false_positives": lesions.false_positives,
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
        name: The case.
        reference: 0 background, 1 organ, 2 lesion, shape (z, y, x) in canonical order (z along the patient).
        prediction: The same values and shape.
        geometry: Of that grid.
        organ: Whether the data have an organ.
        trained_on: Noted in the score.

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
        name: The case.
        reference: As read.
        prediction: As written by `predict`, on the same grid.
        scheme: What the reference's values mean.
        trained_on: Noted in the score.
        trust_grid: Voxels are compared as they lie, whatever the prediction's grid says.

    Raises:
        ValueError: The grids differ, or a label is unknown.
    """
    called = f"{name} (reference)", f"{name} (prediction)"
    pair = LabelPair.of(reference, prediction, (scheme, WRITTEN), called, trust_grid=trust_grid)
    return score_pair(name, pair, organ=scheme.organ_name is not None, trained_on=trained_on)


def score_pair(name: str, pair: LabelPair, *, organ: bool = True, trained_on: bool = False) -> CaseScore:
    """Scores label maps that lie on one grid.

    Args:
        name: The case.
        pair: The label maps.
        organ: Whether the data have an organ.
        trained_on: Noted in the score.
    """
    return CaseScore(
        name=name,
        voxel_ml=pair.geometry.voxel_volume / 1000,
        organ=Overlap.of(*pair.organ) if organ else None,
        lesion=Overlap.of(*pair.lesion),
        lesionwise=score_components(pair.lesions, pair.lesion_geometry),
        trained_on=trained_on,
    )
