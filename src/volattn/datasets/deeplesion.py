"""DeepLesion as NIH publishes it: `DL_info.csv`, and `Images_png/<patient>_<study>_<series>/<slice>.png`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from volattn.datasets.case import Case, Dataset, LabelScheme, make_dataset
from volattn.datasets.dl_info import KeyLesion, read_dl_info
from volattn.datasets.finding import Finding
from volattn.datasets.key_slice import KeySlice
from volattn.io.names import count_of

TABLE, IMAGES = "DL_info.csv", "Images_png"
SCHEME = LabelScheme(lesion_values=(1,))
_NEEDED = ("Key_slice_index", "Slice_range", "Spacing_mm_px_", "Image_size")
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
    info = read_dl_info(table, also=_NEEDED)
    found = [
        Finding(Path(name).stem, table, "error", message.removeprefix(f"{table}: "))
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
            found.append(Finding(Path(name).stem, table, "error", str(error)))
    if not cases and found:
        raise ValueError(f"{found[0].file}: {found[0].message}")
    return make_dataset(root.name, root, cases, SCHEME, found=found)


def _noisy_rows(table: Path, noisy: int, others: int, kept: bool) -> Finding:
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
    return Finding("", table, "note", message)


def _case(root: Path, file_name: str, lesions: Sequence[KeyLesion]) -> Case:
    """The case of the rows of one key slice; errors do not name the table."""
    first = lesions[0]
    match = _NAME.fullmatch(file_name)
    if match is None:
        raise ValueError(
            f"row {first.row}: File_name {file_name!r} names no slice; write it like 000001_01_01_109.png"
        )
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
