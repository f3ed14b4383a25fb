"""How a cell is scored on held-out cases, all from the store: label maps as in LiTS, key slices as in DeepLesion.

What a perfect detector would score: the reference masks themselves, at a recipe's resolution and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import roi_align

from volattn.checkpoints import ModelFolder
from volattn.datasets.case import Case, LabelScheme
from volattn.inference.stitch import Stitcher
from volattn.inference.stream import SliceDetections
from volattn.io.readers.nifti import read_labels
from volattn.models.config import ModelConfig
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import prepare_labels, z_weights
from volattn.preprocessing.store import Store, StoredCase
from volattn.scoring.cases import CaseScore, score_case
from volattn.slabs.augment import Augmentation, move_maps
from volattn.slabs.images import input_shape
from volattn.slabs.slab import component_maps, objects
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume
from volattn.studies.definition import Kind
from volattn.training.validate import CaseAccumulator, Validation
from volattn.training.validate_boxes import BoxAccumulator


class LabelMapAccumulator:
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

    def begin(self, store: Store, case: StoredCase) -> CaseAccumulator:
        """Begins to read a case; finished, it gives a `CaseScore` or a list of `ScoredImage`."""
        return BoxAccumulator(store, case) if self.kind == "boxes" else LabelMapAccumulator(store, case, self.folder)

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


def score_perfect(case: Case, scheme: LabelScheme, plan: Plan, model: ModelConfig) -> CaseScore:
    """What a case's reference itself scores at a model's resolution.

    Args:
        case: With labels.
        scheme: What they mean.
        plan: See `perfect_labels`, as is `model`.

    Raises:
        ValueError: The labels cannot be read, or hold an unknown value.
    """
    assert case.labels is not None
    labels = read_labels(case.labels)
    canonical = labels.canonical()
    return score_case(
        case.name,
        scheme.normalise(canonical.array),
        perfect_labels(labels, scheme, plan, model),
        canonical.geometry,
        organ=scheme.organ_name is not None,
    )


def perfect_labels(labels: Volume, scheme: LabelScheme, plan: Plan, model: ModelConfig) -> NDArray[np.uint8]:
    """The reference as a network that makes no mistake would give it back.

    The label map is prepared, its objects are cut out and drawn into the m x m cells of their boxes as in
    training, and these are stitched as a prediction's. What is lost on the way no training can win.

    Args:
        labels: The data set's values in file axes.
        scheme: What they mean.
        plan: How volumes are prepared.
        model: The network: its masks have twice the side of its mask pooling.

    Returns:
        (z, y, x) in canonical axes: 0 background, 1 organ, 2 lesion.

    Raises:
        ValueError: A value is not in the scheme.
    """
    prepared = prepare_labels(labels, scheme, plan)
    grid = labels.canonical().geometry
    depth, height, width = prepared.shape
    spacing = grid.spacing[0]
    classes = len(scheme.classes)
    stitcher = Stitcher(
        grid.shape,
        z_weights(grid.shape[0], spacing, plan.z_spacing or spacing),
        input_shape(height, width, plan.size),
        classes,
        threshold=0.0,
        organ_threshold=0.0,
    )
    for z in range(depth):
        if prepared[z].any():
            stitcher.add(z, _detections(prepared[z], classes, plan.size, 2 * model.regions.mask_pool))
    return stitcher.finish().labels


def _detections(labels: NDArray[np.uint8], classes: int, size: int, side: int) -> SliceDetections:
    """The objects of a label slice as detections that leave no doubt."""
    found = objects(move_maps(component_maps(labels, classes), Augmentation(), size))
    boxes = found["boxes"]
    regions = torch.cat([torch.arange(len(boxes))[:, None].to(boxes), boxes], dim=1)
    # torchvision draws the masks that the mask head learns in the same way.
    masks = roi_align(found["masks"][:, None].to(boxes), regions, (side, side), 1.0)[:, 0]
    return SliceDetections(
        boxes=boxes.numpy(),
        labels=found["labels"].numpy(),
        scores=np.ones(len(boxes), np.float32),
        masks=masks.numpy().astype(np.float16),
        weights={},
    )
