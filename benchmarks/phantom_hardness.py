"""Whether the phantoms are hard in the way that the paper is about.

Over a cohort, one cross-section of every finding, taken at random from the slices in which it is at least
half as large as at its largest:

* contrast and in-plane diameter of lesions and distractors: two-sample Kolmogorov-Smirnov;
* a classifier on in-slice features, cross-validated by case: AUC, for five partitions of the cases;
* the same with the extent through the slices: AUC.

A finding is left out if no slice shows four pixels of it, or if fewer than ten pixels of plain liver are
around its cross-section to compare it with; the numbers say how many.

    python benchmarks/phantom_hardness.py --cases 50 --seed 0 -o docs/results/phantom
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from volattn.phantoms import Phantom, make_phantom
from volattn.provenance import commit, versions
from volattn.structures.lesions import axial_diameter

IN_SLICE = (
    "contrast",
    "diameter",
    "aspect",
    "area",
    "circularity",
    "sharpness",
    "deviation",
    "core_to_rim",
    "to_border",
)
THROUGH = ("depth", "depth_to_diameter")
BARS = {"ks_p": 0.05, "auc_in_slice": 0.65, "auc_through_slices": 0.9, "distractors": 5}
PATCH_MM = 60.0
PARTITIONS = 5


@dataclass(frozen=True)
class Section:
    """One cross-section of a finding.

    Attributes:
        case: Index of its phantom.
        kind: "lesion" or what the distractor stands for.
        features: By name; mm and HU.
        patches: (3, n, n) HU around it: 10 mm below, in its own slice, 10 mm above.
    """

    case: int
    kind: str
    features: dict[str, float]
    patches: NDArray[np.int16]

    @property
    def is_lesion(self) -> bool:
        """Whether it is labelled 2."""
        return self.kind == "lesion"


def measure(phantom: Phantom, case: int, rng: np.random.Generator) -> list[Section]:
    """One cross-section of every finding of a phantom that can be measured."""
    sections = []
    for number, finding in enumerate(phantom.findings, start=1):
        areas = (phantom.numbers == number).sum(axis=(1, 2))
        if areas.max() < 4:
            continue
        z = int(rng.choice(np.flatnonzero(areas >= 0.5 * areas.max())))
        depth = float(np.count_nonzero(areas) * phantom.spacing[0])
        features = features_in_slice(phantom, number, z)
        if features is not None:
            through = {"depth": depth, "depth_to_diameter": depth / features["diameter"]}
            sections.append(Section(case, finding.kind, features | through, patches_around(phantom, number, z)))
    return sections


def features_in_slice(phantom: Phantom, number: int, z: int) -> dict[str, float] | None:
    """What slice `z` alone tells of a finding; None if no plain liver is around it."""
    mask, image = phantom.numbers[z] == number, phantom.image[z].astype(np.float64)
    pixel = phantom.spacing[1]
    near = ndimage.distance_transform_edt(~mask)
    ring = (near > 1.5) & (near <= 6) & (phantom.numbers[z] == 0) & (phantom.labels[z] > 0)
    if ring.sum() < 10:
        return None
    eroded = ndimage.binary_erosion(mask)
    rim = mask & ~eroded
    core = eroded if eroded.sum() >= 4 else mask
    long, short = axial_diameter(mask, (pixel, pixel))
    slope = np.hypot(*np.gradient(ndimage.gaussian_filter(image, 1)))
    contrast = image[core].mean() - image[ring].mean()
    return {
        "contrast": contrast,
        "diameter": long,
        "aspect": short / long,
        "area": mask.sum() * pixel**2,
        "circularity": mask.sum() / rim.sum() ** 2,
        "sharpness": slope[rim].mean() / max(abs(contrast), 5.0),
        "deviation": image[core].std(),
        "core_to_rim": image[core].mean() - image[rim].mean(),
        "to_border": ndimage.distance_transform_edt(phantom.labels[z] > 0)[mask].mean() * pixel,
    }


def patches_around(phantom: Phantom, number: int, z: int) -> NDArray[np.int16]:
    """The finding's surroundings in its slice and 10 mm below and above it, (3, n, n) HU."""
    rows, columns = np.nonzero(phantom.numbers[z] == number)
    half = int(PATCH_MM / 2 / phantom.spacing[1])
    y, x = int(rows.mean()), int(columns.mean())
    step = max(1, round(10 / phantom.spacing[0]))
    last = len(phantom.image) - 1
    slices = phantom.image[[max(z - step, 0), z, min(z + step, last)]]
    padded = np.pad(slices, ((0, 0), (half, half), (half, half)), constant_values=-1024)
    return padded[:, y : y + 2 * half, x : x + 2 * half]


def cross_validated_auc(sections: list[Section], names: tuple[str, ...]) -> list[float]:
    """AUC of lesion against distractor for each partition; no case is in training and test."""
    table = np.array([[section.features[name] for name in names] for section in sections])
    truth = np.array([section.is_lesion for section in sections])
    cases = [section.case for section in sections]
    found = []
    for partition in range(PARTITIONS):
        model = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
        folds = GroupKFold(5, shuffle=True, random_state=partition)
        scores = cross_val_predict(model, table, truth, groups=cases, cv=folds, method="predict_proba")
        found.append(float(roc_auc_score(truth, scores[:, 1])))
    return found


def one_case(index: int, seed: int, size: int) -> tuple[list[Section], dict[str, int]]:
    """Makes and measures a case."""
    phantom = make_phantom(seed, index, size)
    lesions = sum(finding.kind == "lesion" for finding in phantom.findings)
    counts = {"lesions": lesions, "distractors": len(phantom.findings) - lesions}
    return measure(phantom, index, np.random.default_rng([seed, index, 1])), counts


def summary(sections: list[Section], counts: list[dict[str, int]]) -> dict[str, Any]:
    """The numbers that are asked for."""
    lesions = [section for section in sections if section.is_lesion]
    distractors = [section for section in sections if not section.is_lesion]
    in_slice = cross_validated_auc(sections, IN_SLICE)
    through = cross_validated_auc(sections, IN_SLICE + THROUGH)

    def values(group: list[Section], name: str) -> list[float]:
        return [section.features[name] for section in group]

    return {
        "cases": len(counts),
        "lesions": sum(count["lesions"] for count in counts),
        "lesions_measured": len(lesions),
        "distractors": sum(count["distractors"] for count in counts),
        "distractors_measured": len(distractors),
        "distractors_least_in_a_case": min(count["distractors"] for count in counts),
        "kinds_measured": {
            kind: sum(section.kind == kind for section in sections)
            for kind in sorted({section.kind for section in sections})
        },
        "median": {
            name: {
                "lesions": round(float(np.median(values(lesions, name))), 3),
                "distractors": round(float(np.median(values(distractors, name))), 3),
            }
            for name in IN_SLICE + THROUGH
        },
        "ks_p": {
            name: float(ks_2samp(values(lesions, name), values(distractors, name)).pvalue)
            for name in ("contrast", "diameter")
        },
        "auc_in_slice": float(np.mean(in_slice)),
        "auc_in_slice_partitions": in_slice,
        "auc_through_slices": float(np.mean(through)),
        "auc_through_slices_partitions": through,
    }


def passed(results: dict[str, Any]) -> bool:
    """Whether every bar is met, by every partition of the cases."""
    return bool(
        min(results["ks_p"].values()) > BARS["ks_p"]
        and max(results["auc_in_slice_partitions"]) < BARS["auc_in_slice"]
        and min(results["auc_through_slices_partitions"]) > BARS["auc_through_slices"]
        and results["distractors_least_in_a_case"] >= BARS["distractors"]
    )


def draw(sections: list[Section], path: Path, pairs: int = 6) -> None:
    """Lesions beside distractors of much the same look, each with the slices below and above."""
    rng = np.random.default_rng(0)
    lesions = [section for section in sections if section.is_lesion]
    others = [section for section in sections if not section.is_lesion]
    chosen: list[tuple[Section, Section]] = []
    for place in rng.permutation(len(lesions)):
        lesion = lesions[place]
        if len(chosen) == pairs or not others:
            break
        if not 8 < lesion.features["diameter"] < 35:
            continue
        twin = min(
            others,
            key=lambda other: (
                abs(np.log(other.features["diameter"] / lesion.features["diameter"]))
                + abs(other.features["contrast"] - lesion.features["contrast"]) / 20
            ),
        )
        others.remove(twin)
        chosen.append((lesion, twin))
    figure = Figure(figsize=(10, 1.75 * len(chosen)), layout="constrained", facecolor="white")
    axes = figure.subplots(len(chosen), 6, squeeze=False)
    for row, pair in zip(axes, chosen, strict=True):
        for section, panels in zip(pair, (row[:3], row[3:]), strict=True):
            for axis, patch in zip(panels, section.patches, strict=True):
                axis.imshow(patch, cmap="gray", vmin=-50, vmax=200, extent=(0, PATCH_MM, PATCH_MM, 0))
                axis.set_axis_off()
            look = f"{section.features['diameter']:.0f} mm, {section.features['contrast']:+.0f} HU"
            panels[1].set_title(f"{section.kind}, {look}", fontsize=8)
    for axis, title in zip(axes[0, [0, 2, 3, 5]], ("10 mm below", "10 mm above") * 2, strict=True):
        axis.set_title(title, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> int:
    """Prints the numbers, writes them with a picture, and says by the exit code whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=None)
    options = parser.parse_args()
    start = time.perf_counter()
    with ProcessPoolExecutor(options.workers) as pool:
        cases = list(pool.map(partial(one_case, seed=options.seed, size=options.size), range(options.cases)))
    sections = [section for found, _ in cases for section in found]
    results = summary(sections, [counts for _, counts in cases])
    results = {
        "command": "python " + " ".join(sys.argv),
        "seed": options.seed,
        "size": options.size,
        "commit": commit(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start),
        **results,
        "bars": BARS,
        "passed": passed(results),
    }
    print(json.dumps(results, indent=2))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "hardness.json").write_text(json.dumps(results, indent=2) + "\n")
        draw(sections, options.out / "pairs.png")
    return 0 if results["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
