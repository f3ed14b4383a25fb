"""Whether the phantoms are hard in the way that the paper is about.

Over a cohort, one cross-section of every finding, taken at random from the slices in which it is at least half as
large as at its largest:

* contrast and in-plane diameter of lesions and distractors: two-sample Kolmogorov-Smirnov;
* a classifier on in-slice features, cross-validated by case: AUC;
* the same with the extent through the slices: AUC.

    python benchmarks/phantom_hardness.py --cases 50 --seed 0 -o docs/results/phantom
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from volattn.datasets.phantom import Phantom, make_phantom
from volattn.provenance import commit, versions
from volattn.structures.lesions import axial_diameter

IN_SLICE = ("contrast", "diameter", "aspect", "area", "circularity", "sharpness", "deviation", "to_border")
THROUGH = ("depth", "depth_to_diameter")


def measure(phantom: Phantom, index: int, rng: np.random.Generator) -> list[dict[str, float]]:
    """Features of one cross-section of every finding of a case."""
    rows = []
    spacing = phantom.spacing
    for number, finding in enumerate(phantom.findings, start=1):
        inside = phantom.numbers == number
        areas = inside.sum(axis=(1, 2))
        if areas.max() < 4:
            continue
        z = int(rng.choice(np.flatnonzero(areas >= 0.5 * areas.max())))
        mask, image = inside[z], phantom.image[z].astype(np.float64)
        others = (phantom.numbers[z] > 0) | (phantom.labels[z] == 0)
        near = ndimage.distance_transform_edt(~mask)
        ring = (near > 1.5) & (near <= 6) & ~others
        if ring.sum() < 10:
            continue
        core = ndimage.binary_erosion(mask) if mask.sum() > 20 else mask
        core = core if core.any() else mask
        long, short = axial_diameter(mask, spacing[1:])
        smooth = ndimage.gaussian_filter(image, 1)
        slope = np.hypot(*np.gradient(smooth))
        border = mask & ~ndimage.binary_erosion(mask)
        contrast = image[core].mean() - image[ring].mean()
        to_border = ndimage.distance_transform_edt(phantom.labels[z] > 0)[mask].mean() * spacing[1]
        depth = np.count_nonzero(areas) * spacing[0]
        rows.append(
            {
                "case": index,
                "lesion": finding.kind == "lesion",
                "contrast": contrast,
                "diameter": long,
                "aspect": short / long,
                "area": mask.sum() * spacing[1] * spacing[2],
                "circularity": mask.sum() / max(border.sum(), 1) ** 2,
                "sharpness": slope[border].mean() / max(abs(contrast), 5),
                "deviation": image[core].std(),
                "to_border": to_border,
                "depth": depth,
                "depth_to_diameter": depth / long,
            }
        )
    return rows


def auc(rows: list[dict[str, float]], features: tuple[str, ...]) -> float:
    """Cross-validated by case."""
    table = np.array([[row[name] for name in features] for row in rows])
    truth = np.array([bool(row["lesion"]) for row in rows])
    model = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
    groups = [row["case"] for row in rows]
    scores = cross_val_predict(model, table, truth, groups=groups, cv=GroupKFold(5), method="predict_proba")
    return float(roc_auc_score(truth, scores[:, 1]))


def one_case(index: int, seed: int, size: int) -> list[dict[str, float]]:
    """Makes and measures a case."""
    return measure(make_phantom(seed, index, size), index, np.random.default_rng([seed, index, 1]))


def main() -> None:
    """Prints and writes the numbers and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("-o", "--out", type=Path, default=None)
    options = parser.parse_args()
    with ProcessPoolExecutor(2) as pool:
        found = pool.map(partial(one_case, seed=options.seed, size=options.size), range(options.cases))
        rows = [row for case in found for row in case]
    lesions = [row for row in rows if row["lesion"]]
    distractors = [row for row in rows if not row["lesion"]]
    results = {
        "command": "python " + " ".join(sys.argv),
        "commit": commit(),
        "versions": versions(),
        "cases": options.cases,
        "lesions": len(lesions),
        "distractors": len(distractors),
        "least distractors in a case": min(
            sum(row["case"] == case for row in distractors) for case in range(options.cases)
        ),
        "ks_p": {
            name: float(ks_2samp([r[name] for r in lesions], [r[name] for r in distractors]).pvalue)
            for name in ("contrast", "diameter")
        },
        "auc_in_slice": auc(rows, IN_SLICE),
        "auc_through_slices": auc(rows, IN_SLICE + THROUGH),
    }
    print(json.dumps(results, indent=2))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "hardness.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
