"""Detections on DeepLesion's key slices as a CSV file: `File_name,x1,y1,x2,y2,score`."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from volattn.datasets.csv_rows import read_rows
from volattn.io.atomic import write_text
from volattn.io.names import shown

COLUMNS = ("File_name", "x1", "y1", "x2", "y2", "score")


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
    for row in read_rows(path, COLUMNS):
        name = row.text("File_name")
        try:
            if name not in known:
                raise row.error(
                    f"File_name {shown(name)} is not in the reference",
                    "write it as DL_info.csv does, or leave it out",
                )
            *corners, score = row.numbers(COLUMNS[1:])
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
    writer.writerow(COLUMNS)
    writer.writerows((name, *one.box, one.score) for name, one in detections)
    write_text(path, text.getvalue())
