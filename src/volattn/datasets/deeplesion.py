"""DeepLesion as NIH publishes it: `DL_info.csv`, and `Images_png/<patient>_<study>_<series>/<slice>.png`.

Detections on its key slices are CSV too: `File_name,x1,y1,x2,y2,score`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from volattn.datasets.case import USUAL, Case, Dataset, LabelScheme, Reading
from volattn.datasets.issues import Issue
from volattn.datasets.key_slice import KeySlice
from volattn.io.csv_rows import Row, read_rows
from volattn.io.files import write_text
from volattn.io.names import count_of, shown
from volattn.structures.geometry import Geometry

Parsed = TypeVar("Parsed")
Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)
"""Train_Val_Test counts them from 1."""

LESION_TYPES = dict(
    enumerate(("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis"), start=1)
)
"""Coarse_lesion_type; -1, all of the training subset, is unknown."""

COLUMNS = (
    *("File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index", "Measurement_coordinates"),
    *("Bounding_boxes", "Lesion_diameters_Pixel_", "Normalized_lesion_location", "Coarse_lesion_type"),
    *("Possibly_noisy", "Slice_range", "Spacing_mm_px_", "Image_size", "DICOM_windows", "Patient_gender"),
    *("Patient_age", "Train_Val_Test"),
)
"""As NIH publishes the table."""

_NEEDED = ("File_name", "Bounding_boxes", "Possibly_noisy", "Train_Val_Test")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class KeyLesion:
    """A row of the table; values of columns that are missing are None.

    Attributes:
        row: Its number in the file, the header being row 1.
        file_name: The key slice, e.g. `000001_01_01_109.png`.
        patient: Patient_index; without that column the start of the file name.
        box: (x1, y1, x2, y2) in pixels of the key slice, both ends inclusive.
        diameters_mm: Long and short diameter.
        slice_range: First and last slice that the release has around it.
        pixel_mm: Width and height.
        image_size: Columns and rows.
    """

    row: int
    file_name: str
    patient: str
    box: Box
    subset: Subset
    noisy: bool
    lesion_type: str | None
    diameters_mm: tuple[float, float] | None
    slice_interval_mm: float | None
    key_slice: int | None
    slice_range: tuple[int, int] | None
    pixel_mm: tuple[float, float] | None = None
    image_size: tuple[int, int] | None = None

    def cells(self) -> dict[str, str]:
        """Column -> text as in the table, of the columns with a value."""
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
            "Train_Val_Test": str(SUBSETS.index(self.subset) + 1),
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
                cells["Lesion_diameters_Pixel_"] = _joined([mm / self.pixel_mm[0] for mm in self.diameters_mm])
        return cells


@dataclass(frozen=True)
class DLInfo:
    """The lesions in the file's order; and the key slices that cannot be used, with the first fault of their rows."""

    lesions: tuple[KeyLesion, ...]
    faults: dict[str, str]


def read_dl_info(path: Path | str, *, fail_fast: bool = False, also: Sequence[str] = ()) -> DLInfo:
    """Reads `DL_info.csv`, which must have the columns `_NEEDED` and those in `also`.

    Raises:
        ValueError: The file cannot be read, lacks a column, has no lesion, a row without a file name, or
            (with `fail_fast`) any bad row.
    """
    lesions, faults = _read(path, (*_NEEDED, *also), _lesion, fail_fast)
    if not (lesions or faults):
        raise ValueError(f"{path}: has no rows; give DeepLesion's DL_info.csv")
    return DLInfo(tuple(lesions), faults)


def _read(
    path: Path | str, columns: Sequence[str], parse: Callable[[Row, str], Parsed], fail_fast: bool
) -> tuple[list[Parsed], dict[str, str]]:
    """The rows of the key slices without a fault, and for the others the first fault of their rows."""
    parsed: list[tuple[str, Parsed]] = []
    faults: dict[str, str] = {}
    for row in read_rows(path, columns):
        name = row.text("File_name")
        try:
            parsed.append((name, parse(row, name)))
        except ValueError as error:
            if fail_fast:
                raise
            faults.setdefault(name, str(error))
    if faults and not parsed:
        raise ValueError(next(iter(faults.values())))
    return [one for name, one in parsed if name not in faults], faults


def _lesion(row: Row, name: str) -> KeyLesion:
    def pair(column: str) -> tuple[int, int] | None:
        if column not in row.columns:
            return None
        first, second = row.numbers_in(column, 2)
        return int(first), int(second)

    lesion_type = None
    if "Coarse_lesion_type" in row.columns:
        lesion_type = LESION_TYPES.get(row.whole_in("Coarse_lesion_type", (-1, *LESION_TYPES)))
    pixel, interval, diameters = None, None, None
    if "Spacing_mm_px_" in row.columns:
        x, y, z = row.numbers_in("Spacing_mm_px_", 3)
        try:
            Geometry.aligned((1, 1, 1), (z, y, x))
        except ValueError as error:
            raise row.error(f"{error}", "correct Spacing_mm_px_") from None
        pixel, interval = (x, y), z
        if "Lesion_diameters_Pixel_" in row.columns:
            # In-plane pixels are square throughout the release.
            short, long = sorted(row.numbers_in("Lesion_diameters_Pixel_", 2))
            diameters = (long * x, short * x)
    return KeyLesion(
        row=row.number,
        file_name=name,
        patient=row.text("Patient_index") if "Patient_index" in row.columns else name.split("_")[0],
        box=row.box(row.numbers_in("Bounding_boxes", 4)),
        subset=SUBSETS[row.whole_in("Train_Val_Test", (1, 2, 3)) - 1],
        noisy=bool(row.whole_in("Possibly_noisy", (0, 1))),
        lesion_type=lesion_type,
        diameters_mm=diameters,
        slice_interval_mm=interval,
        key_slice=int(row.number_in("Key_slice_index")) if "Key_slice_index" in row.columns else None,
        slice_range=pair("Slice_range"),
        pixel_mm=pixel,
        image_size=pair("Image_size"),
    )


def write_dl_info(path: Path | str, rows: Iterable[Mapping[str, str]]) -> None:
    """Writes a table, atomically; columns that no row has are left out; rows as `KeyLesion.cells`."""
    rows = list(rows)
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _joined(numbers: Sequence[float]) -> str:
    return ", ".join(repr(number).removesuffix(".0") for number in numbers)


DETECTION_COLUMNS = ("File_name", "x1", "y1", "x2", "y2", "score")


@dataclass(frozen=True)
class KeyDetection:
    """A box (x1, y1, x2, y2) in pixels of a key slice, both ends inclusive, as DL_info has them."""

    box: Box
    score: float


@dataclass(frozen=True)
class KeyDetections:
    """Key slice -> its detections in the file's order; and -> the first fault of its rows, if it cannot be used."""

    images: dict[str, list[KeyDetection]]
    faults: dict[str, str]


def read_detections(path: Path | str, key_slices: Collection[str], *, fail_fast: bool = False) -> KeyDetections:
    """Reads detections on some key slices.

    Raises:
        ValueError: The file cannot be read or lacks a column, no row can be used, or (with `fail_fast`) any cannot.
    """

    def parse(row: Row, name: str) -> tuple[str, KeyDetection]:
        if name not in key_slices:
            raise row.error(
                f"File_name {shown(name)} is not in the reference", "write it as DL_info.csv does, or leave it out"
            )
        *corners, score = row.numbers(DETECTION_COLUMNS[1:])
        return name, KeyDetection(row.box(corners), score)

    found, faults = _read(path, DETECTION_COLUMNS, parse, fail_fast)
    images: dict[str, list[KeyDetection]] = defaultdict(list)
    for name, detection in found:
        images[name].append(detection)
    return KeyDetections(dict(images), faults)


def write_detections(path: Path | str, detections: Iterable[tuple[str, KeyDetection]]) -> None:
    """Writes detections with their key slices, atomically and in full precision."""
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
    return (root / TABLE).is_file()


def open_deeplesion(root: Path, reading: Reading = USUAL) -> Dataset:
    """Opens a folder in DeepLesion's layout; a case is a key slice with the slices around it that were published.

    A key slice with a row that cannot be used is left out: a network would learn that its unmarked lesion is none.

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
        message = (
            f"takes {count_of(len(info.lesions), 'row')}, {noisy} of them marked Possibly_noisy; "
            "leave out --keep-noisy to train and score as published code does"
            if reading.keep_noisy
            else f"takes {count_of(len(info.lesions) - noisy, 'row')} and leaves out {noisy} marked Possibly_noisy, "
            "as published code does; --keep-noisy takes all"
        )
        found.append(Issue("", table, "note", message))
    by_slice: dict[str, list[KeyLesion]] = defaultdict(list)
    for lesion in info.lesions:
        if reading.keep_noisy or not lesion.noisy:
            by_slice[lesion.file_name].append(lesion)
    cases = []
    for name, lesions in by_slice.items():
        try:
            cases.append(_case(root, name, lesions))
        except ValueError as error:
            found.append(Issue(Path(name).stem, table, "error", str(error)))
    if not cases and found:
        raise ValueError(f"{found[0].file}: {found[0].message}")
    return Dataset(root.name, root, tuple(cases), SCHEME, found=tuple(found)).checked()


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
        for what in ("slice_range", "pixel_mm", "slice_interval_mm", "image_size", "subset", "patient"):
            if getattr(lesion, what) != getattr(first, what):
                raise ValueError(
                    f"row {lesion.row}: has {getattr(lesion, what)} as {what} of {file_name} where row "
                    f"{first.row} has {getattr(first, what)}; make them agree"
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
        long_axes_mm=tuple(lesion.diameters_mm[0] for lesion in lesions if lesion.diameters_mm),
        table=root / TABLE,
        rows=tuple(lesion.row for lesion in lesions),
    )
    return Case(file_name.removesuffix(".png"), folder, key_slice, first.patient, first.subset)


def half_open(box: Box) -> Box:
    """A box of the table, which counts pixels from 1 and includes both ends, in ours: half-open, from 0."""
    x1, y1, x2, y2 = box
    return x1 - 1, y1 - 1, x2, y2


def as_published(box: Box) -> Box:
    """A box of ours as the table has them: the way back from `half_open`."""
    x0, y0, x1, y1 = box
    return x0 + 1, y0 + 1, x1, y1
