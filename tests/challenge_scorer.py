"""How the LiTS challenge's public scorer goes about it, written down voxel by voxel and as slow.

The oracle of the tests and what `benchmarks/lits_scoring.py` measures against: whole maps are compared for every pair
of lesions, and k-d trees hold the surfaces of every pair of masks. Label maps are (i, j, k), as nibabel reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

FAR = 9001.0
METRICS = ("dice", "jaccard", "voe", "rvd", "assd", "rmsd", "msd")
MISSING = dict(zip(METRICS, (0.0, 0.0, 1.0, FAR, FAR, FAR, FAR), strict=True))
Case = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]
"""Reference, prediction and spacing (i, j, k), mm."""


def score(cases: Iterable[Case]) -> dict[str, Any]:
    """The keys of `official_scores.json`.

    Raises:
        ZeroDivisionError: A reference has no lesion (the scorer crashes too, in another way).
    """
    counts = {threshold: {"TP": 0, "FP": 0, "FN": 0} for threshold in (0, 0.5)}
    lesions: list[dict[str, float]] = []
    livers: list[dict[str, float]] = []
    dices: dict[str, list[float]] = {"lesion": [], "liver": []}
    shared = {"lesion": [0, 0], "liver": [0, 0]}
    differences = []
    for reference, prediction, spacing in cases:
        wanted, wanted_count = ndimage.label(reference == 2, output=np.int16)
        found, found_count = ndimage.label(prediction == 2, output=np.int16)
        for threshold, count in counts.items():
            written, merged, detected = detect(wanted, found, threshold)
            count["TP"] += detected
            count["FP"] += found_count - detected
            count["FN"] += wanted_count - detected
        if detected > 0:
            lesions += compare_by_id(written, merged, spacing)

        liver = np.any(prediction == 1)
        masks = reference >= 1, prediction >= 1
        livers += compare_by_id(masks[1], masks[0], spacing) if liver else [MISSING]
        dices["lesion"].append(dice(wanted > 0, found > 0))
        dices["liver"].append(dice(*masks) if liver else 0.0)
        for name, (one, other) in {"lesion": (wanted > 0, found > 0), "liver": masks}.items():
            other = other if name == "lesion" or liver else np.zeros_like(other)
            shared[name][0] += int((one & other).sum())
            shared[name][1] += int(one.sum()) + int(other.sum())
        burdens = [(labels == 2).sum() / (labels >= 1).sum() for labels in (reference, prediction)]
        differences.append(float(burdens[0] - (burdens[1] if liver else FAR)))

    ratios = {
        threshold: (count["TP"] / max(count["TP"] + count["FP"], 1), count["TP"] / max(count["TP"] + count["FN"], 1))
        for threshold, count in counts.items()
    }
    return {
        "lesion_detection": {
            "precision": ratios[0.5][0],
            "recall": ratios[0.5][1],
            "precision_greater_zero": ratios[0][0],
            "recall_greater_zero": ratios[0][1],
        },
        "lesion": {
            **mean(lesions),
            "dice_per_case": float(np.mean(dices["lesion"])),
            "dice_global": 2 * shared["lesion"][0] / shared["lesion"][1],
        },
        "liver": {
            **mean(livers),
            "dice_per_case": float(np.mean(dices["liver"])),
            "dice_global": 2 * shared["liver"][0] / shared["liver"][1],
        },
        "tumor_burden": {"rmse": float(np.sqrt(np.mean(np.square(differences)))), "max": max(differences)},
        "per_case": {
            "lesion_dice": dices["lesion"],
            "liver_dice": dices["liver"],
            "tumor_burden_difference": differences,
        },
        "counts": {f"{threshold:g}": count for threshold, count in counts.items()},
    }


def detect(reference: np.ndarray, prediction: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, int]:
    """The scorer's detection.

    Args:
        reference: Ids of components.
        prediction: The same.
        threshold: Of intersection over "union".

    Returns:
        Which (merged) reference each predicted voxel is of, in 8 bits; the merged references; true positives.
    """
    written, merged = np.zeros(reference.shape, np.uint8), reference.copy()
    references = [g for g in np.unique(reference) if g]
    if not references:
        raise ZeroDivisionError("no lesion in the reference")
    touching = [p for p in np.unique(prediction[reference > 0]) if p]
    concerned = (reference > 0) | np.isin(prediction, touching)
    box = ndimage.find_objects(concerned.astype(np.int8))[0]
    r, p_, w, m = reference[box], prediction[box], written[box], merged[box]
    table = np.zeros((len(touching), len(references)), np.int64)
    for row, p in enumerate(touching):
        for column, g in enumerate(references):
            table[row, column] = np.count_nonzero((p_ == p) & (r == g))
    if not touching:
        return written, merged, 0

    holders = table.argmax(axis=0)
    groups: list[list[int]] = []
    for column in range(len(references)):
        if not table[:, column].any():
            groups.append([column])
            continue
        mates = [
            other for other in range(len(references)) if table[:, other].any() and holders[other] == holders[column]
        ]
        if mates[0] == column:
            groups.append(mates)
            for other in mates:
                m[m == references[other]] = references[column]
    overlaps = np.stack([table[:, group].sum(axis=1) for group in groups], axis=1)
    chosen = overlaps.argmax(axis=1)

    matches = []
    for number, group in enumerate(groups):
        rows = [row for row in range(len(touching)) if chosen[row] == number]
        for row in rows:
            w[p_ == touching[row]] = int(references[group[0]]) % 256
        if rows:
            matches.append((touching[rows[0]], references[group[0]], len(group), overlaps[rows, number].sum()))
    detected = len(matches)
    for p, g, merged_count, intersection in sorted(matches):
        union = np.count_nonzero((w == p) | (m == g))
        if intersection / union <= threshold:
            w[w == g] = 0
            detected -= merged_count
    return written, merged, detected


def compare_by_id(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
) -> list[dict[str, float]]:
    """The scores of every id of the prediction."""
    return [compare(reference == number, prediction == number, spacing) for number in np.unique(prediction) if number]


def compare(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, float]:
    """The seven scores of two masks."""
    box = ndimage.find_objects((reference | prediction).astype(np.int8))[0]
    reference, prediction = reference[box], prediction[box]
    if not reference.any() or not prediction.any():
        return MISSING
    overlap = dice(reference, prediction)
    jaccard = overlap / (2 - overlap)
    ours, theirs = surface_points(reference) * spacing, surface_points(prediction) * spacing
    there, back = cKDTree(theirs).query(ours)[0], cKDTree(ours).query(theirs)[0]
    distances = np.concatenate([there, back])
    return dict(
        zip(
            METRICS,
            (
                overlap,
                jaccard,
                1 - jaccard,
                (int(reference.sum()) - int(prediction.sum())) / int(prediction.sum()),
                float(distances.mean()),
                float(np.sqrt(np.mean(distances**2))),
                float(distances.max()),
            ),
            strict=True,
        )
    )


def surface_points(mask: np.ndarray) -> np.ndarray:
    """Voxels (n, 3) of a mask XOR its erosion by the 18-neighbour element."""
    return np.argwhere(mask ^ ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2)))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """1 if both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def mean(scores: list[dict[str, float]]) -> dict[str, float]:
    """What is missing if there is nothing."""
    if not scores:
        return dict(MISSING)
    return {metric: float(np.mean([one[metric] for one in scores])) for metric in METRICS}
