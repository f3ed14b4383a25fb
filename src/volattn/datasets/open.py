"""One function opens every data set: the layout is found, not asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from volattn.datasets.case import USUAL, Dataset, Reading
from volattn.datasets.deeplesion import TABLE, has_deeplesion, open_deeplesion
from volattn.datasets.description import DESCRIPTION, open_described
from volattn.datasets.lits import has_lits, open_lits
from volattn.io.readers import refuse_dicom


@dataclass(frozen=True)
class Layout:
    """How the files of a data set are laid out.

    Attributes:
        needs: What a folder in this layout holds, for messages.
        recognises: Whether a folder is in it.
        open: Opens such a folder, as a user wants it to be read.
    """

    needs: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, Reading], Dataset]


LAYOUTS: list[Layout] = [
    Layout("a dataset.json (MSD, nnU-Net)", lambda root: (root / DESCRIPTION).exists(), open_described),
    Layout("DL_info.csv with Images_png (DeepLesion)", has_deeplesion, open_deeplesion),
    Layout("volume-N.nii.gz with segmentation-N.nii.gz (LiTS)", has_lits, lambda root, reading: open_lits(root)),
]
"""The first that recognises a folder opens it. A new layout is one file here and its line in this list."""


def open_dataset(path: Path | str, reading: Reading = USUAL) -> Dataset:
    """Opens a folder in one of `LAYOUTS`. No image is read.

    Raises:
        ValueError: There is no such folder, it is in none of these layouts, or it has no label that `reading` names.
    """
    root = Path(path)
    if root.name in (DESCRIPTION, TABLE) and root.is_file():
        root = root.parent
    if not root.is_dir():
        raise ValueError(f"{root}: is not a folder; give the data set's folder")
    for layout in LAYOUTS:
        if layout.recognises(root):
            dataset = layout.open(root, reading)
            missing = sorted(set(reading.auxiliary) - dataset.scheme.auxiliary.keys())
            if missing:
                raise ValueError(f"{root}: its labels have no names, so that {missing[0]} cannot be auxiliary")
            return dataset
    refuse_dicom(root)
    below = sorted(root.glob(f"*/{DESCRIPTION}"))
    needs = ", or ".join(layout.needs for layout in LAYOUTS)
    way_out = f"give {below[0].parent}" if below else f"it needs {needs}"
    raise ValueError(f"{root}: is not a data set in a known layout; {way_out}")
