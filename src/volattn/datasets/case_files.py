"""Which files of a folder belong to which case: label maps, masks of instances, boxes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from volattn.datasets.case import LabelScheme, natural_key
from volattn.datasets.description import DESCRIPTION, LABELS, Description, find_description, holds_cases
from volattn.datasets.issues import LeftOut
from volattn.datasets.listing import folders_below, list_volumes
from volattn.datasets.lits import SCHEME, has_lits, is_lits_name
from volattn.datasets.open import open_dataset
from volattn.io.names import both
from volattn.io.readers import endings_in_words, refuse_dicom, volume_name

_ADDED = re.compile(r"_(boxes|lesions)$")  # nnDetection's nndet_boxes2nii, and predict
_LITS_IMAGE = re.compile(r"volume-(\d+)")
_NOT_BOXES = {
    *("dataset.json", "plans.json", "predict_from_raw_data_args.json", "dataset_fingerprint.json"),
    *("summary.json", "splits_final.json", "debug.json", "scores.json", "config.json", "provenance.json"),
}
"""JSON that programs write into folders of predictions."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        masks: The file with the case's name before one with `_boxes` or `_lesions` added.
        boxes: JSON files, in the same order.
    """

    name: str
    masks: tuple[Path, ...]
    boxes: tuple[Path, ...] = ()

    def mask(self, *, semantic: bool) -> Path:
        """The mask of classes, or the one of instances, where there are both."""
        return self.masks[0 if semantic else -1]

    @property
    def numbered(self) -> bool:
        """Whether the last mask is one of numbered instances, by its name."""
        return bool(self.masks) and _ADDED.search(volume_name(self.masks[-1])) is not None


@dataclass(frozen=True)
class CaseFolder:
    """Label maps and boxes of a folder.

    Attributes:
        root: The folder, or one label map.
        cases: By name, in natural order.
        description: The `dataset.json` with the meaning of the values; None without.
    """

    root: Path
    cases: Mapping[str, CaseFiles]
    description: Path | None
    left_out: tuple[LeftOut, ...] = ()

    @property
    def masks(self) -> dict[str, CaseFiles]:
        return {name: files for name, files in self.cases.items() if files.masks}

    @property
    def named_as_lits(self) -> bool:
        masks = [files.masks[0] for files in self.masks.values()]
        return all(is_lits_name(mask) and mask.name.lower().startswith("s") for mask in masks)

    @property
    def scheme(self) -> LabelScheme | None:
        """What the values mean by `dataset.json`, or by file names as in LiTS; None if neither tells.

        Raises:
            ValueError: `dataset.json` cannot be used.
        """
        if self.description is None:
            return SCHEME if self.named_as_lits else None
        description = Description.read_from(self.description)
        return None if description.of_instances else description.scheme()


def find_case_files(path: Path | str) -> CaseFolder:
    """The cases that a path stands for.

    Of a folder the files directly in it, without LiTS's CTs; of a data set the labels, also in folders below; else the
    one label map in each folder below, whose name is the case's (MONAI).

    Raises:
        ValueError: It does not exist, holds nothing of the kind, or one mask twice (`.nii` and `.nii.gz`).
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: does not exist; give a folder with label maps, or one of them")
    if not path.is_dir():
        name = volume_name(path)
        return CaseFolder(path, {name: CaseFiles(name, (path,))}, find_description(path.parent))
    description = find_description(path)
    if (path / DESCRIPTION).exists() and holds_cases(path):
        of_instances = Description.read_from(path / DESCRIPTION).of_instances
        return find_case_files(path / LABELS) if of_instances else _labels_of(path, description)
    listing = list_volumes(path)
    cases = _directly_in(path, listing.files)
    if cases:
        return CaseFolder(path, cases, description, listing.left_out)
    if has_lits(path):
        return _labels_of(path, description)
    cases, left_out = _folder_by_folder(path)
    if not cases:
        if (path / DESCRIPTION).exists():
            open_dataset(path)  # raises what is wrong with it
        refuse_dicom(path)
        raise ValueError(
            f"{path}: holds no label map ({endings_in_words()}) and no boxes (.json); give the folder that does"
        )
    return CaseFolder(path, cases, description, left_out)


def _directly_in(folder: Path, files: Iterable[Path]) -> dict[str, CaseFiles]:
    masks: dict[str, list[Path]] = defaultdict(list)
    boxes: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(files, key=_shortest_first):
        of_case = masks[_ADDED.sub("", volume_name(path))]
        for other in of_case:
            if volume_name(other) == volume_name(path):
                raise ValueError(f"{both(other, path)} are the same case; keep one of them")
        of_case.append(path)
    for path in sorted(folder.iterdir(), key=_shortest_first):
        if path.suffix.lower() == ".json" and path.name[0] != "." and path.name not in _NOT_BOXES:
            boxes[_ADDED.sub("", volume_name(path.with_suffix("")))].append(path)
    images = {name for name in masks if _LITS_IMAGE.sub(r"segmentation-\1", name) in masks.keys() - {name}}
    names = sorted({*masks, *boxes} - images, key=natural_key)
    return {name: CaseFiles(name, tuple(masks[name]), tuple(boxes[name])) for name in names}


def _labels_of(root: Path, description: Path | None) -> CaseFolder:
    dataset = open_dataset(root)
    labels = {volume_name(case.labels): case.labels for case in dataset.cases if case.labels is not None}
    if not labels:
        raise ValueError(f"{root}: holds no label map ({endings_in_words()}); give the folder that does")
    cases = {name: CaseFiles(name, (labels[name],)) for name in sorted(labels, key=natural_key)}
    errors = tuple(LeftOut(one.file, "file", one.message) for one in dataset.found if one.severity == "error")
    benign = tuple(one for one in dataset.left_out if one.fault is None)
    return CaseFolder(root, cases, description, (*errors, *benign))


def _folder_by_folder(root: Path) -> tuple[dict[str, CaseFiles], tuple[LeftOut, ...]]:
    cases: dict[str, CaseFiles] = {}
    left_out = [one for one in list_volumes(root).left_out if one.fault is not None]
    for folder in folders_below(root):
        listing = list_volumes(folder)
        left_out += listing.left_out
        if len(listing.files) > 1:
            first, second = listing.files[:2]
            raise ValueError(
                f"{folder}: holds several files, such as {first.name} and {second.name}, and which is the label map is "
                "unknown; put the label maps of all cases into one folder"
            )
        name = volume_name(folder)
        if listing.files:
            cases[name] = CaseFiles(name, listing.files)
    return cases, tuple(left_out)


def _shortest_first(path: Path) -> tuple[int, str]:
    return len(path.name), path.name
