"""DeepLesion's table of lesions, `DL_info.csv`: one row a lesion on its key slice.

Detections on DeepLesion's key slices as a CSV file: `File_name,x1,y1,x2,y2,score`.

DeepLesion as NIH publishes it: `DL_info.csv`, and `Images_png/<patient>_<study>_<series>/<slice>.png`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from volattn.datasets.case import Case, Dataset, LabelScheme, make_dataset
from volattn.datasets.issues import Issue
from volattn.datasets.key_slice import KeySlice
from volattn.io.csv_rows import Row, read_rows
from volattn.io.files import write_text
from volattn.io.names import count_of, shown
from volattn.structures.geometry import Geometry

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

COLUMNS = (
    "File_name",
    "Patient_index",
    "Study_index",
    "Series_ID",
    "Key_slice_index",
    "Measurement_coordinates",
    "Bounding_boxes",
    "Lesion_diameters_Pixel_",
    "Normalized_lesion_location",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Slice_range",
    "Spacing_mm_px_",
    "Image_size",
    "DICOM_windows",
    "Patient_gender",
    "Patient_age",
    "Train_Val_Test",
)
"""As NIH publishes the table."""

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
        pixel_mm: Width and height of a pixel; None without the column.
        image_size: Columns and rows of the key slice; None without the column.
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
    pixel_mm: tuple[float, float] | None = None
    image_size: tuple[int, int] | None = None

    def cells(self) -> dict[str, str]:
        """Column -> text as the table has it, of the columns that are known here."""
        study, series = (self.file_name.split("_") + ["", ""])[1:3]
        types = {name: number for number, name in LESION_TYPES.items()}
        cells = {
            "File_name": self.file_name,
            "Patient_index": self.patient,
            "Study_index": study.lstrip("0"),
            "Series_ID": series.lstrip("0"),
            "Bounding_boxes": _joined(self.box),
            "Coarse_lesion_type": str(types.get(self.lesion_type or "", -1)),
            "Possibly_noisy": str(int(self.noisy)),
            "Train_Val_Test": str(PARTS.index(self.part) + 1),
        }
        if self.key_slice is not None:
            cells["Key_slice_index"] = str(self.key_slice)
        if self.slice_range is not None:
            cells["Slice_range"] = _joined(self.slice_range)
        if self.image_size is not None:
            cells["Image_size"] = _joined(self.image_size)
        if self.pixel_mm is not None and self.slice_interval_mm is not None:
            cells["Spacing_mm_px_"] = _joined((*self.pixel_mm, self.slice_interval_mm))
            if self.diameters_mm is not None:
                cells["Lesion_diameters_Pixel_"] = _joined(
                    [diameter / self.pixel_mm[0] for diameter in self.diameters_mm]
                )
        return cells


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


def read_dl_info(path: Path | str, *, fail_fast: bool = False, also: Sequence[str] = ()) -> DLInfo:
    """Reads `DL_info.csv`.

    File_name, Bounding_boxes, Possibly_noisy and Train_Val_Test must be there; what the other columns say is
    None without them, and further columns are left alone.

    Args:
        path: The file.
        fail_fast: Whether the first bad row is an error.
        also: Further columns that must be there.

    Raises:
        ValueError: The file cannot be read, lacks a column, has no lesion, a row without a file name, or
            (with `fail_fast`) any bad row.
    """
    lesions: list[KeyLesion] = []
    faults: dict[str, str] = {}
    for row in read_rows(path, (*_NEEDED, *also)):
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
    if spacing is not None:
        try:
            Geometry.aligned((1, 1, 1), (spacing[2], spacing[1], spacing[0]))
        except ValueError as error:
            raise row.error(f"{error}", "correct Spacing_mm_px_") from None
    diameters = None
    if spacing is not None and "Lesion_diameters_Pixel_" in columns:
        # In-plane pixels are square throughout the release.
        short, long = sorted(row.numbers_in("Lesion_diameters_Pixel_", 2))
        diameters = (long * spacing[0], short * spacing[0])
    slice_range = row.numbers_in("Slice_range", 2) if "Slice_range" in columns else None
    image_size = row.numbers_in("Image_size", 2) if "Image_size" in columns else None
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
        pixel_mm=None if spacing is None else (spacing[0], spacing[1]),
        image_size=None if image_size is None else (int(image_size[0]), int(image_size[1])),
    )


def write_dl_info(path: Path | str, rows: Iterable[Mapping[str, str]]) -> None:
    """Writes a table, atomically; columns that no row knows are left out.

    Args:
        path: A `.csv` file.
        rows: Column -> text, as `KeyLesion.cells` gives it.
    """
    rows = list(rows)
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _joined(numbers: Sequence[float]) -> str:
    """Numbers in full precision, parted by commas."""
    return ", ".join(repr(number).removesuffix(".0") for number in numbers)


DETECTION_COLUMNS = ("File_name", "x1", "y1", "x2", "y2", "score")


@dataclass(frozen=True)
class KeyDetection:
    """A box on a key slice.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the key slice, both ends inclusive, as DL_info has them.
        score: Any finite number; higher is more certain.
    """

    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class KeyDetections:
    """The detections of a file.

    Attributes:
        images: Key slice -> its detections, in the file's order; slices without any are missing.
        faults: Key slices that cannot be used, each with the first fault of its rows; they are not in `images`.
    """

    images: dict[str, list[KeyDetection]]
    faults: dict[str, str]


def read_detections(path: Path | str, known: Collection[str], *, fail_fast: bool = False) -> KeyDetections:
    """Reads detections.

    Args:
        path: The file.
        known: The key slices that there are.
        fail_fast: Whether the first bad row is an error.

    Raises:
        ValueError: The file cannot be read or lacks a column, none of its file names is known, or (with
            `fail_fast`) any bad row.
    """
    images: dict[str, list[KeyDetection]] = {}
    faults: dict[str, str] = {}
    for row in read_rows(path, DETECTION_COLUMNS):
        name = row.text("File_name")
        try:
            if name not in known:
                raise row.error(
                    f"File_name {shown(name)} is not in the reference", "write it as DL_info.csv does, or leave it out"
                )
            *corners, score = row.numbers(DETECTION_COLUMNS[1:])
            images.setdefault(name, []).append(KeyDetection(row.box(corners), score))
        except ValueError as error:
            if fail_fast:
                raise
            faults.setdefault(name, str(error))
    if faults and not images:
        raise ValueError(next(iter(faults.values())))
    return KeyDetections({name: found for name, found in images.items() if name not in faults}, faults)


def write_detections(path: Path | str, detections: Iterable[tuple[str, KeyDetection]]) -> None:
    """Writes detections, atomically; numbers in full precision.

    Args:
        path: A `.csv` file.
        detections: (key slice, detection) in the order of the rows.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DETECTION_COLUMNS)
    writer.writerows((name, *one.box, one.score) for name, one in detections)
    write_text(path, text.getvalue())


TABLE, IMAGES = "DL_info.csv", "Images_png"
SCHEME = LabelScheme(lesion_values=(1,))
_GEOMETRY_COLUMNS = ("Key_slice_index", "Slice_range", "Spacing_mm_px_", "Image_size")
_NAME = re.compile(r"(.+)_(\d+)\.png")


def has_deeplesion(root: Path) -> bool:
    """Whether the folder holds DeepLesion's table."""
    return (root / TABLE).is_file()


def open_deeplesion(root: Path, keep_noisy: bool = False) -> Dataset:
    """Opens a folder in DeepLesion's layout; a case is a key slice with the slices around it that were published.

    A row that cannot be used costs its key slice: a lesion that nothing marks would be taught to be none.

    Args:
        root: The folder.
        keep_noisy: Whether rows marked Possibly_noisy count.

    Raises:
        ValueError: There are no images, the table cannot be read or lacks a column, or no row of it can be used.
    """
    table = root / TABLE
    if not (root / IMAGES).is_dir():
        raise ValueError(
            f"{root}: has {TABLE} and no folder {IMAGES}; unpack NIH's archives of images there, or correct the path"
        )
    info = read_dl_info(table, also=_GEOMETRY_COLUMNS)
    found = [
        Issue(Path(name).stem, table, "error", message.removeprefix(f"{table}: "))
        for name, message in info.faults.items()
    ]
    noisy = sum(lesion.noisy for lesion in info.lesions)
    if noisy:
        found.append(_noisy_rows(table, noisy, len(info.lesions) - noisy, keep_noisy))
    by_slice: dict[str, list[KeyLesion]] = defaultdict(list)
    for lesion in info.lesions:
        if keep_noisy or not lesion.noisy:
            by_slice[lesion.file_name].append(lesion)
    cases = []
    for name, lesions in by_slice.items():
        try:
            cases.append(_case(root, name, lesions))
        except ValueError as error:
            found.append(Issue(Path(name).stem, table, "error", str(error)))
    if not cases and found:
        raise ValueError(f"{found[0].file}: {found[0].message}")
    return make_dataset(root.name, root, cases, SCHEME, found=found)


def _noisy_rows(table: Path, noisy: int, others: int, kept: bool) -> Issue:
    if kept:
        message = (
            f"takes {count_of(noisy + others, 'row')}, {noisy} of them marked Possibly_noisy; "
            "leave out --keep-noisy to train and score as published code does"
        )
    else:
        message = (
            f"takes {count_of(others, 'row')} and leaves out {noisy} marked Possibly_noisy, as published code does; "
            "--keep-noisy takes all"
        )
    return Issue("", table, "note", message)


def _case(root: Path, file_name: str, lesions: Sequence[KeyLesion]) -> Case:
    """The case of the rows of one key slice; errors do not name the table."""
    first = lesions[0]
    match = _NAME.fullmatch(file_name)
    if match is None:
        raise ValueError(f"row {first.row}: File_name {file_name!r} names no slice; write it like 000001_01_01_109.png")
    scan, number = match[1], int(match[2])
    for lesion in lesions:
        if lesion.key_slice != number:
            raise ValueError(
                f"row {lesion.row}: Key_slice_index is {lesion.key_slice} where {file_name} is slice {number}; "
                "correct one of them"
            )
        for what in ("slice_range", "pixel_mm", "slice_interval_mm", "image_size", "part", "patient"):
            if getattr(lesion, what) != getattr(first, what):
                raise ValueError(
                    f"row {lesion.row}: says {getattr(lesion, what)} for the {what} of {file_name} where row "
                    f"{first.row} says {getattr(first, what)}; make them agree"
                )
    assert first.slice_range is not None
    assert first.image_size is not None
    assert first.pixel_mm is not None
    assert first.slice_interval_mm is not None
    width, height = first.image_size
    pixel_width, pixel_height = first.pixel_mm
    folder = root / IMAGES / scan
    key_slice = KeySlice(
        folder=folder,
        number=number,
        first=first.slice_range[0],
        last=first.slice_range[1],
        shape=(height, width),
        spacing=(first.slice_interval_mm, pixel_height, pixel_width),
        boxes=tuple(half_open(lesion.box) for lesion in lesions),
        long_axes_mm=tuple(_long_axes(lesions)),
        table=root / TABLE,
        rows=tuple(lesion.row for lesion in lesions),
    )
    return Case(file_name.removesuffix(".png"), folder, None, key_slice, first.patient, first.part)


def half_open(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """A box of the table, which counts pixels from 1 and includes both ends, in ours: half-open, from 0."""
    x1, y1, x2, y2 = box
    return x1 - 1, y1 - 1, x2, y2


def as_published(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """A box of ours as the table has them: the way back from `half_open`."""
    x0, y0, x1, y1 = box
    return x0 + 1, y0 + 1, x1, y1


def _long_axes(lesions: Iterable[KeyLesion]) -> list[float]:
    return [lesion.diameters_mm[0] for lesion in lesions if lesion.diameters_mm is not None]
