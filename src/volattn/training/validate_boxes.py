"""Validation by boxes: sensitivity at false positives per image, on the slices that the reference labels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from volattn.inference.stitch import class_boxes
from volattn.inference.stream import SliceResult
from volattn.preprocessing.store import Store, StoredCase
from volattn.scoring.deeplesion import FROC, match_boxes
from volattn.scoring.pool import Pool, ScoredImage
from volattn.slabs.images import input_shape
from volattn.slabs.slab import component_maps, objects
from volattn.training.validate import Validation, choose_threshold, count_at_candidates, passed

BoxCaseStats = list[ScoredImage]
"""The slices of one case."""


class BoxAccumulator:
    """One case, with boxes, or with a label map whose 2D lesions have some; a slice of it is an image."""

    def __init__(self, store: Store, case: StoredCase) -> None:
        _, h, w = case.shape
        rows, columns = input_shape(h, w, store.plan.size)
        self.case = case
        self.patient = (store.patients or {}).get(case.name, case.name)
        self.lesion = len(store.classes)
        self._scale = np.array([columns / w, rows / h] * 2)
        self._images: BoxCaseStats = []

    def add(self, z: int, found: SliceResult) -> None:
        """Matches the detections of a slice with its lesions, in pixels of the prepared slice."""
        boxes, scores = class_boxes(found, self.lesion)
        boxes = boxes.astype(np.float64) / self._scale
        # Among equal scores the boxes' places decide.
        order = sorted(range(len(boxes)), key=lambda row: (-scores[row], *boxes[row]))
        lesions = self._lesions(z)
        self._images.append(
            match_boxes(
                f"{self.case.name} {z:04d}",
                self.patient,
                ({},) * len(lesions),
                _inclusive(lesions),
                scores[order].tolist(),
                _inclusive(boxes[order]),
            )
        )

    def finish(self) -> BoxCaseStats:
        return self._images

    def _lesions(self, z: int) -> NDArray[np.float64]:
        """(m, 4) xyxy, half-open, in pixels of the prepared slice."""
        if self.case.boxes is not None:
            return np.array(self.case.boxes.boxes, np.float64).reshape(-1, 4)
        return objects(component_maps(np.asarray(self.case.labels[z]), 1))["boxes"].double().numpy()


class BoxEvaluator:
    """DeepLesion's metrics over all validated slices, and the threshold with the highest F1 of lesions."""

    def start(self, store: Store, case: StoredCase) -> BoxAccumulator:
        return BoxAccumulator(store, case)

    def summarise(self, cases: Mapping[str, BoxCaseStats], entropies: Mapping[str, float]) -> Validation:
        """Pools the slices of all cases."""
        pool = Pool(chain.from_iterable(cases.values()), FROC)
        # Without any lesion nothing can be found.
        values = pool.measure(pool.whole())[0].tolist() if pool.lesions else [0.0] * len(FROC.names)
        measured = dict(zip(FROC.names, values, strict=True))
        threshold, _ = choose_threshold([f1_curve(*_by_kind(pool.images), pool.lesions)])
        return Validation(
            scores={
                "mean_sensitivity": measured["mean_sensitivity"],
                "sensitivity_at_1": measured[f"{FROC.sensitivity_key}.1"],
                "ap50": measured["ap50"],
            },
            threshold=threshold,
            cases={name: _counts(images, threshold) for name, images in cases.items()},
            entropies=dict(entropies),
        )


def f1_curve(matched: NDArray[np.float32], false: NDArray[np.float32], lesions: int) -> NDArray[np.float64]:
    """F1 of boxes at every candidate: 2 TP / (2 TP + FP + FN); 1 where there is neither a lesion nor a detection.

    Args:
        matched: Scores of the detections that are matched to a lesion of their own.
        false: Scores of those that hit none. (What hits a lesion that another one is matched to is neither.)
        lesions: How many there are.
    """
    hits, misses = count_at_candidates(passed(matched)), count_at_candidates(passed(false))
    both = hits + misses + lesions
    return np.where(both > 0, 2 * hits / np.maximum(both, 1), 1.0)


def _inclusive(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half-open boxes as their first and last pixels: the IoU stays what it is."""
    return boxes - np.array([0.0, 0.0, 1.0, 1.0])


def _by_kind(images: BoxCaseStats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores of the matched detections, and of those that hit nothing."""
    detections = [detection for image in images for detection in image.detections]
    matched = [one.score for one in detections if one.matched is not None]
    false = [one.score for one in detections if not one.lesions]
    return np.array(matched, np.float32), np.array(false, np.float32)


def _counts(images: BoxCaseStats, threshold: float) -> dict[str, float | None]:
    """What is found of a case at the threshold."""
    matched, false = _by_kind(images)
    least = np.float32(threshold)
    return {
        "lesions": float(sum(len(image.lesions) for image in images)),
        "found": float(np.count_nonzero(matched >= least)),
        "false_positives": float(np.count_nonzero(false >= least)),
    }
