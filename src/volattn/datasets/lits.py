"""LiTS's layout: `volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in one folder or in batches below it."""

from __future__ import annotations

import re
from pathlib import Path

from volattn.datasets.case import Case, Dataset, LabelScheme
from volattn.datasets.issues import LeftOut
from volattn.datasets.listing import list_volumes
from volattn.io.readers import is_volume_name, volume_name

SCHEME = LabelScheme(organ_name="liver", organ_values=(1,), lesion_name="lesion", lesion_values=(2,))
_NAME = re.compile(r"(volume|segmentation)-(\d+)", re.IGNORECASE)


def is_lits_name(path: Path) -> bool:
    return is_volume_name(path) and _NAME.fullmatch(volume_name(path)) is not None


def has_lits(root: Path) -> bool:
    """Whether a file below the folder is named as LiTS names its files."""
    return any(map(is_lits_name, list_volumes(root, below=True).files))


def open_lits(root: Path) -> Dataset:
    """Opens a folder in LiTS's layout; the case of `volume-44.nii.gz` is named `volume-44`.

    Raises:
        ValueError: There are no such files, or one is there twice, e.g. as .nii and as .nii.gz.
    """
    listing = list_volumes(root, below=True)
    left_out = list(listing.left_out)
    found: dict[tuple[str, int], Path] = {}
    for path in listing.files:
        match = _NAME.fullmatch(volume_name(path))
        if not match:
            left_out.append(LeftOut(path, "file that is not named as LiTS names its own"))
            continue
        key = (match[1].lower(), int(match[2]))
        other = found.setdefault(key, path)
        if not (other == path or (other.exists() and path.exists() and other.samefile(path))):
            raise ValueError(f"{root}: {other} and {path} are the same case; keep one of them")
    cases = []
    for number in {number for _, number in found}:
        labels = found.get(("segmentation", number))
        image = found.get(("volume", number))
        if image is None:
            assert labels is not None
            image = labels.with_name(labels.name.lower().replace("segmentation", "volume"))
        cases.append(Case(f"volume-{number}", image, labels))
    return Dataset(root.name, root, tuple(cases), SCHEME, left_out=tuple(left_out)).checked()
