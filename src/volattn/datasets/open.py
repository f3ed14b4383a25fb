"""One door to every data set: the layout is found, not asked for."""

from __future__ import annotations

from pathlib import Path

from volattn.datasets.case import Dataset
from volattn.datasets.description import read_description
from volattn.datasets.lits import has_lits, open_lits
from volattn.datasets.msd import open_msd
from volattn.datasets.nnunet import open_nnunet


def open_dataset(path: Path | str) -> Dataset:
    """Opens a folder in LiTS's, the Decathlon's or nnU-Net's layout. No image is read.

    Args:
        path: The folder; a `dataset.json` in it may be named too.

    Raises:
        ValueError: There is no such folder, or it is in none of the three layouts.
    """
    root = Path(path)
    if root.name == "dataset.json" and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise ValueError(f"{root}: is not a folder; give the data set's folder")
    source = root / "dataset.json"
    if source.exists():
        by_value = all(key.strip().isdecimal() for key in read_description(source)["labels"])
        return open_msd(root) if by_value else open_nnunet(root)
    if has_lits(root):
        return open_lits(root)
    below = sorted(root.glob("*/dataset.json"))
    way_out = (
        f"give {below[0].parent}"
        if below
        else "it needs volume-N.nii.gz with segmentation-N.nii.gz (LiTS), or a dataset.json (MSD, nnU-Net)"
    )
    raise ValueError(f"{root}: is not a data set in a known layout; {way_out}")
