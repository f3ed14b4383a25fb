"""Scores of test cases, all from the store: label maps as in LiTS, key slices as in DeepLesion.

Also their upper bound: what the reference masks themselves score at a model's resolution.
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
from volattn.inference.stream import SliceDetections, SliceProbabilities, SliceResult
from volattn.io.readers import read_labels
from volattn.models.config import ModelConfig
from volattn.models.detectors.rcnn import MaskRCNNConfig
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import prepare_labels, z_weights
from volattn.preprocessing.store import Store, StoredCase
from volattn.scoring.cases import CaseScore, score_case
from volattn.slabs.augment import Augmentation, move_maps
from volattn.slabs.images import input_shape
from volattn.slabs.slab import class_map, component_maps, objects
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume
from volattn.studies.definition import Kind
from volattn.training.validate import CaseAccumulator, Validation
from volattn.training.validate_boxes import BoxAccumulator


class LabelMapAccumulator:
    """Stitches a case's detections into a label map on the prepared grid, as prediction does, and scores it."""

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

    def add(self, z: int, found: SliceResult) -> None:
        self._stitcher.add(z, found)

    def finish(self) -> CaseScore:
        return score_case(
            self.case.name,
            np.asarray(self.case.labels[:]),
            self._stitcher.finish().labels,
            prepared_geometry(self.case),
            organ=self.organ,
        )


@dataclass(frozen=True)
class TestEvaluator:
    """How `validate.evaluate_case` scores a test case; with boxes each slice is an image of its own."""

    kind: Kind
    folder: ModelFolder

    def start(self, store: Store, case: StoredCase) -> CaseAccumulator:
        """Starts a case; finished, it gives a `CaseScore` or a list of `ScoredImage`."""
        return BoxAccumulator(store, case) if self.kind == "boxes" else LabelMapAccumulator(store, case, self.folder)

    def summarise(self, cases: Mapping[str, Any], entropies: Mapping[str, float]) -> Validation:
        raise AssertionError("nothing is chosen on test cases")


def prepared_geometry(case: StoredCase) -> Geometry:
    """The grid of a case's prepared arrays: steps along z are exact, shrunken pixels are larger."""
    source = case.source
    scale = np.array(source.shape[1:]) / np.array(case.shape[1:])
    affine = source.resampled_z(case.description.step).affine.copy()
    affine[:3, 3] += affine[:3, 1] * (scale[0] - 1) / 2 + affine[:3, 2] * (scale[1] - 1) / 2
    affine[:3, 1] *= scale[0]
    affine[:3, 2] *= scale[1]
    return Geometry(case.shape, affine)


def upper_bound(case: Case, scheme: LabelScheme, plan: Plan, model: ModelConfig) -> CaseScore:
    """What a case's reference itself scores at a model's resolution, see `perfect_labels`.

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

    The label map is prepared, its objects are resampled to the m x m masks of their boxes as in training (Mask R-CNN),
    or its classes to the pixels of the input (segmenters), and these are stitched as a prediction is. No training can
    win back what is lost on the way.

    Args:
        labels: The data set's values in file axes.

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
            stitcher.add(z, _perfect(prepared[z], classes, plan.size, model))
    return stitcher.finish().labels


def _perfect(labels: NDArray[np.uint8], classes: int, size: int, model: ModelConfig) -> SliceResult:
    """A label slice as a model without errors finds it: the classes of all pixels, or objects that score 1."""
    if not isinstance(model, MaskRCNNConfig):
        maps = move_maps(class_map(labels, classes)[None].astype(np.int32), Augmentation(), size)
        nested = maps >= np.arange(1, classes + 1)[:, None, None]
        return SliceProbabilities(nested.astype(np.float32), {})
    side = 2 * model.roi_heads.mask_output_size
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
