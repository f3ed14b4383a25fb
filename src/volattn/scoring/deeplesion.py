"""Scores of boxes on DeepLesion's key slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.deeplesion import LESION_TYPES, KeyDetection, KeyLesion, read_detections, read_dl_info
from volattn.scoring.froc import all_hits, one_to_one, pixel_iou
from volattn.scoring.pairing import Evaluation
from volattn.scoring.pool import FrocSettings, Pool, ScoredDetection, ScoredImage, score_pool

Subset = Literal["test", "val", "train", "all"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)

IOU = 0.5
PRECISION_CAP = 100
"""Detections per image that COCO's average precision looks at."""

FROC = FrocSettings("image", averaged=(0.5, 1, 2, 4), start="zero", precision_cap=PRECISION_CAP)
UNKNOWN = "unknown"
SIZES = ("<10 mm", "10-30 mm", ">30 mm", UNKNOWN)
INTERVALS = ("<=2.5 mm", ">2.5 mm", UNKNOWN)
GROUPS: dict[str, Sequence[str]] = {
    "type": (*LESION_TYPES.values(), UNKNOWN),
    "size": SIZES,
    "slice_interval": INTERVALS,
}


def score_deeplesion(
    reference: Path | str,
    prediction: Path | str,
    *,
    subset: Subset = "test",
    keep_noisy: bool = False,
    seed: int = 0,
    fail_fast: bool = False,
) -> Evaluation:
    """Scores detections against DeepLesion's own boxes.

    A key slice with a bad row in either file has failed, and counts nowhere.

    Args:
        reference: `DL_info.csv`.
        prediction: `detections.csv`; rows outside the subset are left alone.
        keep_noisy: Whether rows marked Possibly_noisy count.
        fail_fast: Whether the first bad row is an error.

    Raises:
        ValueError: A file cannot be read or lacks a column, the subset has no lesions, no key slice is
            without a fault, or (with `fail_fast`) any bad row.
    """
    info = read_dl_info(reference, fail_fast=fail_fast)
    lesions: dict[str, list[KeyLesion]] = {}
    noisy = 0
    for lesion in info.lesions:
        if subset in ("all", lesion.subset):
            noisy += lesion.noisy
            if keep_noisy or not lesion.noisy:
                lesions.setdefault(lesion.file_name, []).append(lesion)
    if not lesions:
        raise ValueError(f"{reference}: has no lesions in the subset {subset}; give another --subset")
    known = {lesion.file_name for lesion in info.lesions} | set(info.faults)
    found = read_detections(prediction, known, fail_fast=fail_fast)
    faults = info.faults | {name: fault for name, fault in found.faults.items() if name in lesions or name not in known}
    names = [name for name in lesions if name not in faults]
    if not names:
        raise ValueError(next(iter(faults.values())))
    pool = Pool((score_image(name, lesions[name], found.images.get(name, [])) for name in names), FROC)
    content = {
        "kind": "deeplesion",
        "settings": {
            "iou": IOU,
            "areas": "a box is x2 - x1 + 1 pixels wide",
            "noisy_lesions_count": keep_noisy,
            "average_precision_detections_per_image": PRECISION_CAP,
        },
        "subset": subset,
        "noisy_lesions": noisy,
        "detections_outside_the_subset": sum(len(rows) for name, rows in found.images.items() if name not in lesions),
        **score_pool(pool, GROUPS, seed),
        "failed": faults,
        "cases": [image.as_json() for image in pool.images],
    }
    return Evaluation(content, faults, len(lesions.keys() | faults.keys()))


def score_image(name: str, lesions: Sequence[KeyLesion], detections: Sequence[KeyDetection]) -> ScoredImage:
    """Matches the detections on one key slice with its lesions, of which there is at least one.

    Among equal scores the boxes' places decide, never the order of rows.
    """
    ordered = sorted(detections, key=lambda one: (-one.score, one.box))
    lesions = sorted(lesions, key=lambda lesion: lesion.box)
    boxes, truth = (np.array([one.box for one in rows]).reshape(-1, 4) for rows in (ordered, lesions))
    scores = [one.score for one in ordered]
    return match_boxes(name, lesions[0].patient, tuple(map(_groups, lesions)), truth, scores, boxes)


def match_boxes(
    name: str,
    patient: str,
    groups: Sequence[Mapping[str, str]],
    lesions: NDArray[np.float64],
    scores: Sequence[float],
    boxes: NDArray[np.float64],
) -> ScoredImage:
    """Matches boxes on one image by DeepLesion's rule for the curve and COCO's for average precision.

    Args:
        groups: Those of each lesion.
        lesions: (m, 4) xyxy, both ends inclusive.
        scores: Descending.
        boxes: (n, 4) of the detections, likewise.
    """
    overlaps = pixel_iou(boxes, lesions)
    matched = one_to_one(overlaps[:PRECISION_CAP], IOU) + [None] * (len(scores) - PRECISION_CAP)
    scored = map(ScoredDetection, scores, all_hits(overlaps, IOU), matched)
    return ScoredImage(name, patient, tuple(groups), tuple(scored))


def _groups(lesion: KeyLesion) -> dict[str, str]:
    size = interval = UNKNOWN
    if lesion.diameters_mm is not None:
        long = lesion.diameters_mm[0]
        size = SIZES[0] if long < 10 else SIZES[2] if long > 30 else SIZES[1]
    if lesion.slice_interval_mm is not None:
        interval = INTERVALS[0] if lesion.slice_interval_mm <= 2.5 else INTERVALS[1]
    return {"type": lesion.lesion_type or UNKNOWN, "size": size, "slice_interval": interval}
