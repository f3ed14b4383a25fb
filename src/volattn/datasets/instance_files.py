"""Which files of a folder hold the instances of which case."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from volattn.datasets.case import natural_key
from volattn.io.nifti import volume_name

_ADDED = re.compile(r"_(boxes|lesions)$")  # nnDetection's nndet_boxes2nii, and predict
_LITS_LABELS = re.compile(r"segmentation-\d+")
_LITS_IMAGE = re.compile(r"volume-\d+")


@dataclass(frozen=True)
class InstanceFiles:
    """The files of one case.

    Attributes:
        name: The case.
        masks: NIfTI files: the one that bears the case's name before one with `_boxes` or `_lesions` added.
        boxes: JSON files, in the same order.
    """

    name: str
    masks: tuple[Path, ...]
    boxes: tuple[Path, ...]

    def mask(self, lesion: int | None) -> Path:
        """The semantic mask if a lesion's value is given, else the one with instances where there are both."""
        return self.masks[-1 if lesion is None else 0]


def find_instance_files(folder: Path | str) -> dict[str, InstanceFiles]:
    """The cases of a folder, by name, in natural order; LiTS's CTs beside its segmentations are none.

    Raises:
        ValueError: It is no folder, or holds neither NIfTI nor JSON.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: is not a folder; give the one with the masks or boxes")
    masks: dict[str, list[Path]] = defaultdict(list)
    boxes: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
        if path.name.startswith(".") or path.name == "dataset.json" or not path.is_file():
            continue
        if path.name.endswith((".nii", ".nii.gz")):
            masks[_ADDED.sub("", volume_name(path))].append(path)
        elif path.suffix == ".json":
            boxes[_ADDED.sub("", path.stem)].append(path)
    names = sorted({*masks, *boxes}, key=natural_key)
    if any(_LITS_LABELS.fullmatch(name) for name in masks):
        names = [name for name in names if not _LITS_IMAGE.fullmatch(name)]
    if not names:
        raise ValueError(f"{folder}: holds no .nii, .nii.gz or .json file; give the folder with the cases")
    return {name: InstanceFiles(name, tuple(masks[name]), tuple(boxes[name])) for name in names}


def pair_names(references: Iterable[str], predictions: Iterable[str]) -> Mapping[str, str]:
    """Reference -> prediction: of the same name, else the only ones on both sides with the last number of the name.

    (`segmentation-3`, `case_003` and `volume-3` are one case.)
    """
    left, right = set(references), set(predictions)
    pairs = {name: name for name in left & right}
    numbers: list[dict[int, list[str]]] = []
    for names in (left - set(pairs), right - set(pairs)):
        by_number: dict[int, list[str]] = defaultdict(list)
        for name in names:
            digits = re.findall(r"\d+", name)
            if digits:
                by_number[int(digits[-1])].append(name)
        numbers.append(by_number)
    for number, same in numbers[0].items():
        others = numbers[1].get(number, [])
        if len(same) == len(others) == 1:
            pairs[same[0]] = others[0]
    return pairs
