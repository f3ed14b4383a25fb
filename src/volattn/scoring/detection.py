"""Scores of lesions found in volumes, as boxes or masks, against reference instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case_files import CaseFiles, find_case_files
from volattn.datasets.instances import Classes, Instance, Instances, read_boxes, read_mask
from volattn.datasets.issues import faults_among
from volattn.io.readers import endings_in_words
from volattn.scoring.froc import Start, all_hits, one_to_one
from volattn.scoring.lesions import SIZES, size_of
from volattn.scoring.metrics import SCAN_LEVELS
from volattn.scoring.pairing import Evaluation, find_classes, pair_cases, score_cases
from volattn.scoring.pool import FrocSettings, Pool, ScoredDetection, ScoredImage, score_pool
from volattn.structures.boxes import box_iou
from volattn.structures.geometry import check_same_grid
from volattn.structures.lesions import measure_lesions
from volattn.workers import Progress


@dataclass(frozen=True)
class Preset:
    """A way of scoring.

    Attributes:
        overlap: "box_iou" (3D IoU of the boxes), or "centre_inside" (1 where the centre of the detection's box
            lies in the lesion's mask, else 0).
        threshold: The least overlap of a hit.
        matching: "one_to_one": as COCO does, and a second detection of a lesion is a false positive; "all": a
            detection hits every lesion that it overlaps, and a second one is neither true nor false.
        start: Sensitivity at fewer false positives than the curve's first point has.
        detections_per_scan: The most certain ones of each class that count; None for all.
    """

    name: str
    overlap: Literal["box_iou", "centre_inside"]
    threshold: float
    matching: Literal["one_to_one", "all"]
    start: Start
    detections_per_scan: int | None = None
    average_precision: bool = True

    @property
    def froc(self) -> FrocSettings:
        """How the pooled detections are measured."""
        without = () if self.average_precision else ("average_precision",)
        return FrocSettings("scan", averaged=SCAN_LEVELS, start=self.start, without=without)

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        return {"preset": values.pop("name"), **values, "false_positives_per_scan": list(SCAN_LEVELS)}


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("nndet", "box_iou", 0.1, "one_to_one", "origin", detections_per_scan=100),
        Preset("luna16", "centre_inside", 1.0, "all", "origin", average_precision=False),
        Preset("strict", "box_iou", 0.5, "one_to_one", "zero"),
    )
}


def score_detections(
    reference: Path | str,
    prediction: Path | str,
    preset: Preset,
    *,
    lesion: int | None = None,
    predicted_lesion: int | None = None,
    trust_grid: bool = False,
    seed: int = 0,
    fail_fast: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores a folder of detections against a folder of reference masks.

    Args:
        reference: Folder of masks, see `find_case_files` and `read_mask`.
        prediction: Folder of `predict`'s JSON, nnDetection's boxes, or masks.
        lesion: The value of lesion voxels where the references are semantic masks; see `find_classes`.
        predicted_lesion: The same for predicted masks.
        trust_grid: Compares voxels as they lie, whatever a prediction's grid says.
        fail_fast: Whether the first case that cannot be scored is an error.
        progress: Called with ("score", cases done, cases) after each case.

    Raises:
        ValueError: A folder holds nothing to score, several names fit one, no case could be scored, or (with
            `fail_fast`) one could not.
    """
    folders = find_case_files(reference), find_case_files(prediction)
    references, predictions = folders[0].masks, folders[1].cases
    if not references:
        raise ValueError(f"{reference}: holds no {endings_in_words()} file; references are masks")
    pairs = pair_cases(
        {name: files.masks[0] for name, files in references.items()},
        {name: (*files.masks, *files.boxes)[0] for name, files in predictions.items()},
    )
    classes = find_classes(folders[0], lesion, "--lesion")
    predicted = find_classes(folders[1], predicted_lesion, "--predicted-lesion", reference=classes or Classes((), ""))
    left_out = tuple(dict.fromkeys(one for folder in folders for one in folder.left_out))
    unreached = faults_among(left_out)
    if fail_fast and unreached:
        raise ValueError(next(iter(unreached.values())))

    def read_case(name: str) -> _Case:
        files = references[name]
        if name not in pairs:
            raise ValueError(f"{files.masks[0]}: has no prediction in {prediction}; predict it, or move it away")
        wanted = read_mask(files.mask(semantic=lesion is not None), _of(files, classes))
        found, note = _read(
            predictions[pairs[name]], wanted, predicted, asked=predicted_lesion is not None, trust_grid=trust_grid
        )
        return _Case.of(name, wanted, found, preset, note)

    read, failed = score_cases(
        {name: files.masks[0] for name, files in references.items()}, read_case, fail_fast=fail_fast, progress=progress
    )
    faults = unreached | failed
    if not read:
        raise ValueError(next(iter(faults.values())))
    by_class = all(case.has_classes for case in read)
    pool = Pool((case.matched(preset, by_class) for case in read), preset.froc)
    groups: dict[str, Sequence[str]] = {"size": list(_SIZE_NAMES.values())}
    if by_class:
        groups["class"] = sorted({str(lesion.label) for case in read for lesion in case.lesions})
    unpaired = tuple(name for name in predictions if name not in set(pairs.values()))
    notes = [f"no reference for {', '.join(unpaired)}; not scored"] if unpaired else []
    notes += [
        f"{folder.root}: its masks are read as {found.scheme.described}, {found.reason}; {option} says otherwise"
        for folder, found, option in zip(folders, (classes, predicted), ("--lesion", "--predicted-lesion"), strict=True)
        if found is not None and found.scheme is not None
    ]
    content = {
        "kind": "detection",
        "settings": preset.as_json() | {"classes": "each by itself" if by_class else "one"},
        "read_as": {
            side: sorted({case.read_as[place] for case in read})
            for place, side in enumerate(("reference", "prediction"))
        },
        **score_pool(pool, groups, seed),
        "failed": faults,
        "predictions_without_reference": list(unpaired),
        "notes": [*notes, *(case.note for case in read if case.note is not None)],
        "cases": [image.as_json() for image in pool.images],
    }
    total = len(references) + len(faults.keys() - references.keys())
    return Evaluation(content, faults, total, content["notes"], left_out)


_SIZE_NAMES = dict(zip(SIZES, ("<15 mm", "15-30 mm", ">30 mm"), strict=True))


@dataclass(frozen=True, eq=False)
class _Case:
    """A case before its detections are matched.

    Attributes:
        detections: In descending order of scores; among equal ones the boxes' places decide.
        overlaps: (detections, lesions).
        read_as: How the reference and the prediction were read.
        note: What was overlooked.
    """

    name: str
    sizes: tuple[str, ...]
    lesions: tuple[Instance, ...]
    detections: tuple[Instance, ...]
    overlaps: NDArray[np.float64]
    read_as: tuple[str, str]
    note: str | None

    @classmethod
    def of(cls, name: str, wanted: Instances, found: Instances, preset: Preset, note: str | None) -> _Case:
        assert wanted.volume is not None
        detections = tuple(sorted(found.found, key=lambda one: (-one.score, one.box)))
        boxes = _box_array(detections)
        if preset.overlap == "box_iou":
            overlaps = box_iou(boxes, _box_array(wanted.found))
        else:
            overlaps = _centre_inside(boxes, [one.id for one in wanted.found], wanted.volume.array)
        turned = wanted.volume.canonical()
        measured = measure_lesions(turned.array, turned.geometry)
        sizes = tuple(_SIZE_NAMES[size_of(lesion.long_axis_mm)] for lesion in measured)
        return cls(name, sizes, wanted.found, detections, overlaps, (wanted.kind, found.kind), note)

    @property
    def has_classes(self) -> bool:
        return all(one.label is not None for one in (*self.lesions, *self.detections))

    def matched(self, preset: Preset, by_class: bool) -> ScoredImage:
        """Matches detections with lesions, by class with those of their own."""
        lesion_labels, labels = (
            np.array([one.label if by_class else 0 for one in instances], dtype=np.int64)
            for instances in (self.lesions, self.detections)
        )
        scored: dict[int, ScoredDetection] = {}
        for label in np.unique(labels).tolist():
            places = np.flatnonzero(labels == label)[: preset.detections_per_scan]
            lesions = np.flatnonzero(lesion_labels == label)
            overlaps = self.overlaps[np.ix_(places, lesions)]
            one_each = preset.matching == "one_to_one"
            hits = (
                [() if match is None else (match,) for match in one_to_one(overlaps, preset.threshold)]
                if one_each
                else all_hits(overlaps, preset.threshold)
            )
            for place, hit in zip(places.tolist(), hits, strict=True):
                of_case = tuple(lesions[list(hit)].tolist())
                matched = of_case[0] if of_case and one_each else None
                scored[place] = ScoredDetection(self.detections[place].score, of_case, matched, label)
        groups = [{"size": size} for size in self.sizes]
        if by_class:
            groups = [
                group | {"class": str(label)} for group, label in zip(groups, lesion_labels.tolist(), strict=True)
            ]
        return ScoredImage(
            self.name,
            self.name,
            tuple(groups),
            tuple(scored[place] for place in sorted(scored)),
            tuple(lesion_labels.tolist()) if by_class else (),
        )


def _of(files: CaseFiles, classes: Classes | None) -> Classes | None:
    """The classes of a case's masks: one that is named as a mask of numbers has none, unless the user says so."""
    return None if classes is not None and classes.scheme is not None and files.numbered else classes


def _read(
    files: CaseFiles, wanted: Instances, classes: Classes | None, *, asked: bool, trust_grid: bool
) -> tuple[Instances, str | None]:
    """Boxes where there are some, else the mask; and what was overlooked."""
    assert wanted.volume is not None
    grid = wanted.volume
    if not asked:
        for path in files.boxes:
            found = read_boxes(path, grid, trust_grid)
            if found is not None:
                return found, None
    if not files.masks:
        raise ValueError(
            f"{files.boxes[0]}: holds neither predict's lesions nor nnDetection's boxes, and there is no mask beside it"
        )
    found = read_mask(files.mask(semantic=asked), _of(files, classes))
    assert found.volume is not None
    called = (str(wanted.path), str(found.path))
    return found, check_same_grid(grid.geometry, found.volume.geometry, called, trust_grid)


def _box_array(instances: Sequence[Instance]) -> NDArray[np.float64]:
    return np.array([one.box for one in instances], dtype=np.float64).reshape(-1, 6)


def _centre_inside(boxes: NDArray[np.float64], ids: Sequence[int], labels: NDArray[Any]) -> NDArray[np.float64]:
    """(detections, lesions) 1 where the box's centre lies in a voxel of the lesion, its faces included."""
    result = np.zeros((len(boxes), len(ids)))
    for row, centre in enumerate((boxes[:, :3] + boxes[:, 3:]) / 2):
        # A centre between two voxels touches both, or a flip of the axes would change the score.
        low, high = np.ceil(centre).astype(int) - 1, np.floor(centre).astype(int) + 1
        low, high = np.maximum(low, 0), np.clip(high, 0, labels.shape)
        touched = labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        result[row] = np.isin(ids, touched)
    return result
