"""One door to every data set: the layout is found, not asked for."""

from __future__ import annotations

from pathlib import Path

from volattn.datasets.case import Dataset
from volattn.datasets.deeplesion import TABLE, has_deeplesion, open_deeplesion
from volattn.datasets.description import DESCRIPTION, open_described
from volattn.datasets.lits import has_lits, open_lits


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
