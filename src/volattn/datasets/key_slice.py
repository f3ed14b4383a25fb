"""Lesions that are boxed on one slice of a CT whose slices are files of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volattn.io.readers.png import read_slice
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume


@dataclass(frozen=True)
class KeySlice:
    """A few slices of a CT, and the boxes on one of them, the key slice.

    Slices are numbered as their files are, from the head to the feet. Arrays run the other way, to the head, as all
    canonical ones do: slice `first` is the array's last.

    Attributes:
        folder: Holds a 16-bit PNG for each slice, `012.png`.
        number: The key slice.
        shape: Rows and columns.
        spacing: mm (z, y, x).
        boxes: (x0, y0, x1, y1) half-open, in pixels of the key slice, fractional.
        long_axes_mm: Of the lesions in the boxes, in their order.
        table: The file with all this; faults name it.
        rows: Its lines, from 1, in the boxes' order.
    """

    folder: Path
    number: int
    first: int
    last: int
    shape: tuple[int, int]
    spacing: tuple[float, float, float]
    boxes: tuple[tuple[float, float, float, float], ...]
    long_axes_mm: tuple[float, ...] = ()
    table: Path = field(default=Path(), compare=False)
    rows: tuple[int, ...] = field(default=(), compare=False)

    @property
    def depth(self) -> int:
        return self.last - self.first + 1

    @property
    def z(self) -> int:
        """The key slice in the array."""
        return self.last - self.number

    @property
    def geometry(self) -> Geometry:
        """The canonical grid; slices of one scan share it, though its place in the patient is unknown.

        Raises:
            ValueError: See `grid_fault`.
        """
        bottom = -self.last * self.spacing[0]
        return Geometry.aligned((self.depth, *self.shape), self.spacing, (0.0, 0.0, bottom))

    @property
    def files(self) -> tuple[Path, ...]:
        """In the order of the array."""
        return tuple(self.folder / f"{number:03d}.png" for number in range(self.last, self.first - 1, -1))

    def inside(self) -> tuple[tuple[float, float, float, float], ...]:
        """The boxes cut to the image; one that lies beyond it has no area."""
        height, width = self.shape
        cut = np.clip(np.array(self.boxes, np.float64).reshape(-1, 4), 0, [width, height, width, height])
        return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in cut.tolist())

    def faults(self) -> list[str]:
        """Why the case cannot be used, as far as the table tells: a sentence each with what to do."""
        fault = self.grid_fault()
        if fault is not None:
            return [fault]
        found = []
        if not self.first <= self.number <= self.last:
            found.append(
                f"key slice {self.number} is outside slices {self.first} to {self.last}; correct Key_slice_index or "
                "Slice_range"
            )
        height, width = self.shape
        for x0, y0, x1, y1 in self.boxes:
            shown = f"box x {x0:g} to {x1:g}, y {y0:g} to {y1:g}"
            if not (x0 < x1 and y0 < y1):
                found.append(f"{shown} has its corners reversed; correct Bounding_boxes")
            elif x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                found.append(f"{shown} is outside the image of {width} x {height}; correct Bounding_boxes")
        return found

    def grid_fault(self) -> str | None:
        """Why the table describes no grid that a CT has, and what to do; None if it does.

        To be asked before anything is made that grows with the table's numbers, such as the list of files.
        """
        if self.last < self.first:
            return f"slices {self.first} to {self.last} are none; correct Slice_range"
        if min(self.shape) < 1:
            return f"image size {self.shape[1]} x {self.shape[0]} is none; correct Image_size"
        try:
            assert self.geometry is not None
        except (ValueError, OverflowError) as error:
            return f"{error}; correct Spacing_mm_px_, Slice_range or Image_size"
        return None

    def check(self) -> None:
        """Raises a ValueError if its rows have a fault or a slice is missing, before any image is read."""
        for fault in self.faults():
            raise ValueError(f"{self.table}: {self.at_row(fault)}")
        missing = self.missing()
        if missing is not None:
            raise ValueError(f"{self.folder}: {self.at_row(missing)}")

    @property
    def called(self) -> str:
        """As messages about its images call it."""
        return f"{self.folder}: {self.at_row('')}".removesuffix(": ")

    def at_row(self, message: str) -> str:
        """A message with its place in the table."""
        return f"row{'s' * (len(self.rows) != 1)} {', '.join(map(str, self.rows))}: {message}"

    def missing(self) -> str | None:
        """Which files are not there, and what to do; None if all are."""
        if not self.folder.is_dir():
            return "there is no such folder; unpack the archive that holds it"
        absent = [path for path in self.files if not path.is_file()]
        if not absent:
            return None
        numbers = sorted(int(path.stem) for path in absent)
        return (
            f"slice{'s' * (len(absent) > 1)} {_runs(numbers)} of {self.first} to {self.last} "
            f"{'are' if len(absent) > 1 else 'is'} not there; unpack the archive again"
        )

    def read(self, name: str = "") -> Volume:
        """Reads the slices: int16 HU, canonical axes.

        Raises:
            ValueError: A slice is missing, cannot be read, or has another size than the table says.
        """
        missing = self.missing()
        if missing is not None:
            raise ValueError(f"{self.folder}: {missing}")
        array = np.empty((self.depth, *self.shape), np.int16)
        for plane, path in zip(array, self.files, strict=True):
            plane[:] = self.read_slice(path)
        return Volume(array, self.geometry, name)

    def read_slice(self, path: Path) -> NDArray[np.int16]:
        """(h, w) HU of one of the files.

        Raises:
            ValueError: See `volattn.io.readers.png.read_slice`, or it has another size than the table says.
        """
        hu = read_slice(path)
        if hu.shape != self.shape:
            raise ValueError(
                f"{path}: is {hu.shape[1]} x {hu.shape[0]} pixels where {self.table.name} says {self.shape[1]} x "
                f"{self.shape[0]}; copy it again, or correct Image_size"
            )
        return hu


def _runs(numbers: Sequence[int]) -> str:
    """Ascending numbers in words: 3-5, 9."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in zip(starts, ends, strict=True))
