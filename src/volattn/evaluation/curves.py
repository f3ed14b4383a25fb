"""Curves and errors of detections that were scored before, from the lines of their cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.evaluation.deeplesion import MEASURES
from volattn.evaluation.detection import PRESETS
from volattn.evaluation.pool import Measures, Pool
from volattn.evaluation.scored_image import ScoredImage
from volattn.evaluation.statistics import percentile_interval, resamples
from volattn.io.names import shown


def measures_of(content: Mapping[str, Any]) -> Measures | None:
    """What is measured on pooled detections; None for scores of masks.

    Args:
        content: A `scores.json`.

    Raises:
        ValueError: The preset is unknown.
    """
    if content.get("kind") == "deeplesion":
        return MEASURES
    if content.get("kind") != "detection":
        return None
    name = content.get("settings", {}).get("preset")
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"the preset {shown(name)} is unknown; evaluate again")
    return PRESETS[name].measures


def pool_of(cases: Iterable[Mapping[str, Any]], measures: Measures) -> Pool:
    """The pool that a `scores.json` was made of.

    Args:
        cases: Its cases.
        measures: What was measured on them.
    """
    return Pool([ScoredImage.from_json(case) for case in cases], measures)


def sensitivity_band(pool: Pool, levels: NDArray[np.float64], seed: int) -> NDArray[np.float64] | None:
    """The 95 % interval of the FROC curve, point by point, by bootstrap over patients.

    Args:
        pool: The images.
        levels: (K,) false positives per image.
        seed: Of the bootstrap; that of the scores gives their own intervals again.

    Returns:
        (2, K) lower and upper end; None with fewer than two patients, or without a lesion.
    """
    if len(pool.patients) < 2 or not pool.lesions:
        return None
    drawn = [pool.froc.sensitivity(levels, weights) for weights in resamples(len(pool.patients), seed)]
    return percentile_interval(np.stack(drawn))


@dataclass(frozen=True)
class ImageErrors:
    """What is wrong in an image at a threshold.

    Attributes:
        name: The image.
        missed: Lesions that no detection hits.
        false_positives: Detections that hit no lesion.
    """

    name: str
    missed: int
    false_positives: int


def image_errors(pool: Pool, threshold: float) -> list[ImageErrors]:
    """The errors in each image, most of them first; of equally many those with more missed lesions.

    Args:
        pool: The images.
        threshold: Least score of a detection.
    """
    errors = []
    for image in pool.images:
        counted = [detection for detection in image.detections if detection.score >= threshold]
        hit = {lesion for detection in counted for lesion in detection.lesions}
        false = sum(not detection.lesions for detection in counted)
        errors.append(ImageErrors(image.name, len(image.lesions) - len(hit), false))
    return sorted(errors, key=lambda one: (-one.missed - one.false_positives, -one.missed))
