"""LiTS's layout: `volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in one folder or in batches below it.

One door to every data set: the layout is found, not asked for.
"""

from __future__ import annotations

import re
from pathlib import Path

from volattn.datasets.case import Case, Dataset, LabelScheme, make_dataset
from volattn.datasets.deeplesion import TABLE, has_deeplesion, open_deeplesion
from volattn.datasets.description import DESCRIPTION, open_described
from volattn.datasets.issues import LeftOut
from volattn.datasets.listing import list_niftis

SCHEME = LabelScheme(organ_name="liver", organ_values=(1,), lesion_name="lesion", lesion_values=(2,))
_NAME = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?", re.IGNORECASE)


def named_as_lits(path: Path) -> bool:
    """Whether a file is named as LiTS names its files."""
    return _NAME.fullmatch(path.name) is not None


def has_lits(root: Path) -> bool:
    """Whether a file below the folder is named as LiTS names its files."""
    return any(named_as_lits(path) for path in list_niftis(root, below=True).files)


def open_lits(root: Path) -> Dataset:
    """Opens a folder in LiTS's layout; the case of `volume-44.nii.gz` is named `volume-44`.

    Raises:
        ValueError: There are no such files, or one is there twice, e.g. as .nii and as .nii.gz.
    """
    listing = list_niftis(root, below=True)
    left_out = list(listing.left_out)
    found: dict[tuple[str, int], Path] = {}
    for path in listing.files:
        match = _NAME.fullmatch(path.name)
        if not match:
            left_out.append(LeftOut(path, "file that is not named as LiTS names its own"))
            continue
        key = (match[1].lower(), int(match[2]))
        other = found.setdefault(key, path)
        if not _same_file(other, path):
            raise ValueError(f"{root}: {other} and {path} are the same case; keep one of them")
    cases = []
    for number in {number for _, number in found}:
        labels = found.get(("segmentation", number))
        image = found.get(("volume", number))
        if image is None:
            assert labels is not None
            image = labels.with_name(labels.name.lower().replace("segmentation", "volume"))
        cases.append(Case(f"volume-{number}", image, labels))
    return make_dataset(root.name, root, cases, SCHEME, left_out=left_out)


def _same_file(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def open_dataset(path: Path | str, *, keep_noisy: bool = False) -> Dataset:
    """Opens a folder in LiTS's, the Decathlon's, nnU-Net's or DeepLesion's layout. No image is read.

    Args:
        path: The folder; a `dataset.json` or `DL_info.csv` in it may be named too.
        keep_noisy: Whether lesions that the data set itself doubts count (DeepLesion's Possibly_noisy).

    Raises:
        ValueError: There is no such folder, or it is in none of these layouts.
    """
    root = Path(path)
    if root.name in (DESCRIPTION, TABLE) and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise ValueError(f"{root}: is not a folder; give the data set's folder")
    if (root / DESCRIPTION).exists():
        return open_described(root)
    if has_deeplesion(root):
        return open_deeplesion(root, keep_noisy)
    if has_lits(root):
        return open_lits(root)
    below = sorted(root.glob(f"*/{DESCRIPTION}"))
    way_out = (
        f"give {below[0].parent}"
        if below
        else "it needs volume-N.nii.gz with segmentation-N.nii.gz (LiTS), a dataset.json (MSD, nnU-Net), or "
        "DL_info.csv with Images_png (DeepLesion)"
    )
    raise ValueError(f"{root}: is not a data set in a known layout; {way_out}")
