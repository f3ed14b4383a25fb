"""How a cell is scored on held-out cases, all from the store: label maps as in LiTS, key slices as in DeepLesion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from volattn.checkpoints import ModelFolder
from volattn.evaluation.cases import CaseScore, score_case
from volattn.inference.stitch import Stitcher
from volattn.inference.stream import SliceDetections
from volattn.preprocessing.resample import z_weights
from volattn.preprocessing.store import Store, StoredCase
from volattn.slabs.images import input_shape
from volattn.structures.geometry import Geometry
from volattn.studies.definition import Kind
from volattn.training.validate import Reading, Validation
from volattn.training.validate_boxes import BoxReading


class LabelMapReading:
    """A case that prediction's own stitcher turns into a label map on the prepared grid, and its scores.

    Args:
        store: Where it is.
        case: It has a label map.
        folder: The model's: how it reads scores and organ.
    """

    def __init__(self, store: Store, case: StoredCase, folder: ModelFolder) -> None:
        depth, h, w = case.shape
        step = case.description.step
        self.case = case
        self.organ = len(store.classes) == 2
        self._stitcher = Stitcher(
            case.shape,
            z_weights(depth, step, step),
            input_shape(h, w, store.plan.size),
            len(store.classes),
            folder.threshold,
            single_organ=folder.single_organ,
        )

    def add(self, z: int, detections: SliceDetections) -> None:
        """Takes the detections of a slice."""
        self._stitcher.add(z, detections)

    def finish(self) -> CaseScore:
        """Scores the label map."""
        return score_case(
            self.case.name,
            np.asarray(self.case.labels[:]),
            self._stitcher.finish().labels,
            prepared_geometry(self.case),
            organ=self.organ,
        )


@dataclass(frozen=True)
class HeldOut:
    """The one interface between a cell and its scores: how `validate.examine` reads a held-out case.

    Attributes:
        kind: What the study scores. A slice of a case with boxes is an image of its own.
        folder: The model's.
    """

    kind: Kind
    folder: ModelFolder

    def begin(self, store: Store, case: StoredCase) -> Reading:
        """Begins to read a case; finished, it gives a `CaseScore` or a list of `ScoredImage`."""
        return BoxReading(store, case) if self.kind == "boxes" else LabelMapReading(store, case, self.folder)

    def join(self, found: Mapping[str, Any], entropies: Mapping[str, float]) -> Validation:
        """Nothing is chosen on held-out cases.

        Raises:
            AssertionError: Always.
        """
        raise AssertionError("held-out cases are scored one by one")


def prepared_geometry(case: StoredCase) -> Geometry:
    """The grid of a case's prepared arrays: steps along z are exact, shrunken pixels are larger."""
    source = case.source
    scale = np.array(source.shape[1:]) / np.array(case.shape[1:])
    affine = source.resampled_z(case.description.step).affine.copy()
    affine[:3, 3] += affine[:3, 1] * (scale[0] - 1) / 2 + affine[:3, 2] * (scale[1] - 1) / 2
    affine[:3, 1] *= scale[0]
    affine[:3, 2] *= scale[1]
    return Geometry(case.shape, affine)
