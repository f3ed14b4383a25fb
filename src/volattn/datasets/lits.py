"""LiTS's layout: `volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in one folder or in batches below it."""

from __future__ import annotations

import re
from pathlib import Path

from volattn.datasets.case import Case, Dataset, LabelScheme, make_dataset

SCHEME = LabelScheme(organ_name="liver", organ_values=(1,), lesion_name="lesion", lesion_values=(2,))
_NAME = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?")


def has_lits(root: Path) -> bool:
    """Whether a file below the folder is named as LiTS names its files."""
    return any(_NAME.fullmatch(path.name) for path in root.rglob("*.nii*"))


def open_lits(root: Path) -> Dataset:
    """Opens a folder in LiTS's layout; the case of `volume-44.nii.gz` is named `volume-44`.

    Raises:
        ValueError: There are no such files, or one is there twice, e.g. as .nii and as .nii.gz.
    """
    found: dict[tuple[str, int], Path] = {}
    for path in sorted(root.rglob("*.nii*")):
        match = _NAME.fullmatch(path.name)
        if not match:
            continue
        key = (match[1], int(match[2]))
        if key in found:
            raise ValueError(f"{root}: {found[key]} and {path} are the same case; keep one of them")
        found[key] = path
    cases = []
    for number in {number for _, number in found}:
        labels = found.get(("segmentation", number))
        image = found.get(("volume", number))
        if image is None:
            assert labels is not None
            image = labels.with_name(labels.name.replace("segmentation", "volume"))
        cases.append(Case(f"volume-{number}", image, labels))
    return make_dataset(root.name, root, cases, SCHEME)
