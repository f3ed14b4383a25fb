"""DeepLesion's table of lesions, `DL_info.csv`: one row a lesion on its key slice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from volattn.datasets.csv_rows import Row, read_rows

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
"""Train_Val_Test counts them from 1."""

LESION_TYPES = {
    1: "bone",
    2: "abdomen",
    3: "mediastinum",
    4: "liver",
    5: "lung",
    6: "kidney",
    7: "soft tissue",
    8: "pelvis",
}
"""Coarse_lesion_type; -1, all of the training part, is unknown."""

_NEEDED = ("File_name", "Bounding_boxes", "Possibly_noisy", "Train_Val_Test")


@dataclass(frozen=True)
class KeyLesion:
    """A lesion as its row has it.

    Attributes:
        row: Its row in the file, the header being row 1.
        file_name: The key slice, e.g. `000001_01_01_109.png`.
        patient: Patient_index; without that column what the file name begins with.
        box: (x1, y1, x2, y2) in pixels of the key slice, both ends inclusive.
        part: Of the official split.
        noisy: Possibly_noisy.
        lesion_type: Its name in `LESION_TYPES`; None if unknown.
        diameters_mm: Long and short diameter; None without the columns.
        slice_interval_mm: Distance between slices; None without the column.
        key_slice: Key_slice_index; None without the column.
        slice_range: First and last slice that the release has around it; None without the column.
    """

    row: int
    file_name: str
    patient: str
    box: tuple[float, float, float, float]
    part: Part
    noisy: bool
    lesion_type: str | None
    diameters_mm: tuple[float, float] | None
    slice_interval_mm: float | None
    key_slice: int | None
    slice_range: tuple[int, int] | None


@dataclass(frozen=True)
class DLInfo:
    """The table.

    Attributes:
        lesions: In the file's order.
        faults: Key slices that cannot be used, each with the first fault of its rows. None of their lesions is
            in `lesions`.
    """

    lesions: tuple[KeyLesion, ...]
    faults: dict[str, str]


def read_dl_info(path: Path | str, *, fail_fast: bool = False) -> DLInfo:
    """Reads `DL_info.csv`.

    File_name, Bounding_boxes, Possibly_noisy and Train_Val_Test must be there; what the other columns say is
    None without them, and further columns are left alone.

    Args:
        path: The file.
        fail_fast: Whether the first bad row is an error.

    Raises:
        ValueError: The file cannot be read, lacks a column, has no lesion, a row without a file name, or
            (with `fail_fast`) any bad row.
    """
    lesions: list[KeyLesion] = []
    faults: dict[str, str] = {}
    for row in read_rows(path, _NEEDED):
        name = row.text("File_name")
        try:
            lesions.append(_lesion(row, name))
        except ValueError as error:
            if fail_fast:
                raise
            faults.setdefault(name, str(error))
    if not lesions:
        first = next(iter(faults.values()), f"{path}: has no rows; give DeepLesion's DL_info.csv")
        raise ValueError(first)
    return DLInfo(tuple(lesion for lesion in lesions if lesion.file_name not in faults), faults)


def _lesion(row: Row, name: str) -> KeyLesion:
    columns = row.columns
    lesion_type = None
    if "Coarse_lesion_type" in columns:
        lesion_type = LESION_TYPES.get(row.whole_in("Coarse_lesion_type", (-1, *LESION_TYPES)))
    spacing = row.numbers_in("Spacing_mm_px_", 3) if "Spacing_mm_px_" in columns else None
    diameters = None
    if spacing is not None and "Lesion_diameters_Pixel_" in columns:
        # In-plane pixels are square throughout the release.
        short, long = sorted(row.numbers_in("Lesion_diameters_Pixel_", 2))
        diameters = (long * spacing[0], short * spacing[0])
    slice_range = row.numbers_in("Slice_range", 2) if "Slice_range" in columns else None
    return KeyLesion(
        row=row.number,
        file_name=name,
        patient=row.text("Patient_index") if "Patient_index" in columns else name.split("_")[0],
        box=row.box(row.numbers_in("Bounding_boxes", 4)),
        part=PARTS[row.whole_in("Train_Val_Test", (1, 2, 3)) - 1],
        noisy=bool(row.whole_in("Possibly_noisy", (0, 1))),
        lesion_type=lesion_type,
        diameters_mm=diameters,
        slice_interval_mm=None if spacing is None else spacing[2],
        key_slice=int(row.number_in("Key_slice_index")) if "Key_slice_index" in columns else None,
        slice_range=None if slice_range is None else (int(slice_range[0]), int(slice_range[1])),
    )
