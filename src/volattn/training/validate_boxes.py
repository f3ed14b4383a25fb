"""Validation by boxes: sensitivity at false positives per image, on the slices of which the reference speaks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from volattn.inference.stream import SliceDetections
from volattn.preprocessing.store import BoxedCase, Store, StoredCase
from volattn.scoring.deeplesion import MEASURES, match_boxes
from volattn.scoring.pool import Pool, ScoredImage
from volattn.slabs.images import input_shape
from volattn.slabs.slab import component_maps, objects
from volattn.training.validate import Validation, choose_threshold, f1_curve

BoxFinding = list[ScoredImage]
"""The slices of one case."""


class BoxAccumulator:
    """One case; a slice of it is an image.

    Args:
        store: Where it is.
        case: With boxes, or with a label map whose 2D lesions have some.
    """

    def __init__(self, store: Store, case: StoredCase) -> None:
        _, h, w = case.shape
        rows, columns = input_shape(h, w, store.plan.size)
        self.case = case
        self.patient = (store.patients or {}).get(case.name, case.name)
        self.lesion = len(store.classes)
        self._scale = np.array([columns / w, rows / h] * 2)
        self._images: BoxFinding = []

    def add(self, z: int, detections: SliceDetections) -> None:
        """Matches the detections of a slice with its lesions, in pixels of the prepared slice."""
        chosen = np.flatnonzero(detections.labels == self.lesion)
        boxes = detections.boxes[chosen].astype(np.float64) / self._scale
        # Among equal scores the boxes' places decide.
        order = sorted(range(len(chosen)), key=lambda row: (-detections.scores[chosen[row]], *boxes[row]))
        lesions = self._lesions(z)
        self._images.append(
            match_boxes(
                f"{self.case.name} {z:04d}",
                self.patient,
                ({},) * len(lesions),
                _inclusive(lesions),
                detections.scores[chosen[order]].tolist(),
                _inclusive(boxes[order]),
            )
        )

    def finish(self) -> BoxFinding:
        """The slices."""
        return self._images

    def _lesions(self, z: int) -> NDArray[np.float64]:
        """(m, 4) xyxy, half-open, in pixels of the prepared slice."""
        if isinstance(self.case, BoxedCase):
            return np.array(self.case.boxes.boxes, np.float64).reshape(-1, 4)
        return objects(component_maps(np.asarray(self.case.labels[z]), 1))["boxes"].double().numpy()


class BoxEvaluator:
    """DeepLesion's measures over all validated slices, and the threshold with the highest F1 of lesions."""

    def begin(self, store: Store, case: StoredCase) -> BoxAccumulator:
        """Begins to read a case."""
        return BoxAccumulator(store, case)

    def join(self, found: Mapping[str, BoxFinding], entropies: Mapping[str, float]) -> Validation:
        """Pools the slices of all cases."""
        pool = Pool(chain.from_iterable(found.values()), MEASURES)
        # Without any lesion nothing can be found.
        values = pool.measure(pool.whole())[0].tolist() if pool.lesions else [0.0] * len(MEASURES.names)
        measured = dict(zip(MEASURES.names, values, strict=True))
        point = choose_threshold([f1_curve(*_by_kind(pool.images), pool.lesions)])
        return Validation(
            {
                "mean_sensitivity": measured["mean_sensitivity"],
                "sensitivity_at_1": measured[f"{MEASURES.sensitivity_key}.1"],
                "ap50": measured["ap50"],
            },
            point.threshold,
            {name: _counts(images, point.threshold) for name, images in found.items()},
            dict(entropies),
        )


def _inclusive(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half-open boxes as their first and last pixels: the IoU stays what it is."""
    return boxes - np.array([0.0, 0.0, 1.0, 1.0])


def _by_kind(images: BoxFinding) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores of the matched detections, and of those that hit nothing."""
    detections = [detection for image in images for detection in image.detections]
    matched = [one.score for one in detections if one.matched is not None]
    false = [one.score for one in detections if not one.lesions]
    return np.array(matched, np.float32), np.array(false, np.float32)


def _counts(images: BoxFinding, threshold: float) -> dict[str, float]:
    """What a case comes to at the threshold."""
    matched, false = _by_kind(images)
    least = np.float32(threshold)
    return {
        "lesions": float(sum(len(image.lesions) for image in images)),
        "found": float(np.count_nonzero(matched >= least)),
        "false_positives": float(np.count_nonzero(false >= least)),
    }
