"""Which files of a folder belong to which case: label maps, masks of instances, boxes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from volattn.datasets.case import natural_key
from volattn.datasets.naming import is_nifti
from volattn.io.nifti import volume_name

_ADDED = re.compile(r"_(boxes|lesions)$")  # nnDetection's nndet_boxes2nii, and predict
_LITS_IMAGE = re.compile(r"volume-(\d+)")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        name: The case.
        masks: NIfTI files: the one that bears the case's name before one with `_boxes` or `_lesions` added.
        boxes: JSON files, in the same order.
    """

    name: str
    masks: tuple[Path, ...]
    boxes: tuple[Path, ...]

    def mask(self, *, semantic: bool) -> Path:
        """The mask of classes, or the one of instances, where there are both."""
        return self.masks[0 if semantic else -1]


def find_case_files(folder: Path | str) -> dict[str, CaseFiles]:
    """The cases directly in a folder, by name, in natural order; LiTS's CTs beside their segmentations are none.

    Raises:
        ValueError: It is no folder, or holds one mask twice (`.nii` and `.nii.gz`).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: is not a folder; give the one with the masks or boxes")
    masks: dict[str, list[Path]] = defaultdict(list)
    boxes: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
        if is_nifti(path):
            of_case = masks[_ADDED.sub("", volume_name(path))]
            for other in of_case:
                if volume_name(other) == volume_name(path):
                    raise ValueError(f"{other} and {path} are the same case; keep one of them")
            of_case.append(path)
        elif path.suffix == ".json" and not path.name.startswith(".") and path.name != "dataset.json":
            boxes[_ADDED.sub("", path.stem)].append(path)
    images = {name for name in masks if _LITS_IMAGE.sub(r"segmentation-\1", name) in masks.keys() - {name}}
    names = sorted({*masks, *boxes} - images, key=natural_key)
    return {name: CaseFiles(name, tuple(masks[name]), tuple(boxes[name])) for name in names}
