"""Lesions that are boxed on one slice of a CT whose slices are files of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from volattn.io.readers.png import read_slice
from volattn.structures.boxes import Boxes
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume


@dataclass(frozen=True)
class KeySlice:
    """A part of a CT, and the boxes on its key slice.

    Slices are numbered as their files are, from the head to the feet. Arrays run the other way, to the head, as all
    canonical ones do: slice `first` is the array's last.

    Attributes:
        folder: Holds a 16-bit PNG for each slice, `012.png`.
        number: The key slice.
        first: The lowest number of the part.
        last: The highest number of the part.
        shape: Rows and columns.
        spacing: mm (z, y, x).
        boxes: (x0, y0, x1, y1) half-open, in pixels of the key slice, fractional.
        long_axes_mm: Of the lesions in the boxes, in their order.
        table: The file that says so; faults name it.
        rows: The lines of it, from 1, in the boxes' order.
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
        """Z, slices of the part."""
        return self.last - self.first + 1

    @property
    def z(self) -> int:
        """The key slice in the array."""
        return self.last - self.number

    @property
    def files(self) -> tuple[Path, ...]:
        """The slices in the order of the array."""
        return tuple(self.file(number) for number in range(self.last, self.first - 1, -1))

    @property
    def geometry(self) -> Geometry:
        """The canonical grid. Parts of one scan lie where they are to each other; where the patient lies is not known.

        Raises:
            ValueError: See `grid_fault`.
        """
        bottom = -self.last * self.spacing[0]
        return Geometry.aligned((self.depth, *self.shape), self.spacing, (0.0, 0.0, bottom))

    def file(self, number: int) -> Path:
        """The file of a slice."""
        return self.folder / f"{number:03d}.png"

    def as_boxes(self) -> Boxes:
        """The boxes, (n, 4) "xyxy", in pixels of the array's slice `z`."""
        return Boxes(np.array(self.boxes, np.float64).reshape(-1, 4), "xyxy")

    def inside(self) -> tuple[tuple[float, float, float, float], ...]:
        """The boxes cut to the image; one that lies beyond it has no area."""
        return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in self.as_boxes().clip(self.shape).array.tolist())

    def faults(self) -> list[str]:
        """What makes the case unusable before any image is read, one sentence each with what to do."""
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
        """Why the table describes no grid, or none that a CT has, and what to do; None if it does.

        Nothing that grows with the numbers of the table, such as the list of files, may be made before.
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
        """Refuses a case that cannot be used, before any image is read.

        Raises:
            ValueError: Its rows have a fault, or a slice is missing.
        """
        for fault in self.faults():
            raise ValueError(f"{self.table}: {self.at_row(fault)}")
        missing = self.missing()
        if missing is not None:
            raise ValueError(f"{self.folder}: {self.at_row(missing)}")

    @property
    def called(self) -> str:
        """What errors about its images call it."""
        return f"{self.folder}: {self.at_row('')}".removesuffix(": ")

    def at_row(self, message: str) -> str:
        """A fault with the place in the table that it comes from."""
        many = "s" * (len(self.rows) != 1)
        return f"row{many} {', '.join(map(str, self.rows))}: {message}"

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
        """Reads the slices.

        Returns:
            int16 HU, canonical axes.

        Raises:
            ValueError: A slice is missing, cannot be read, or has another size than the table says.
        """
        missing = self.missing()
        if missing is not None:
            raise ValueError(f"{self.folder}: {missing}")
        geometry = self.geometry
        array = np.empty(geometry.shape, np.int16)
        for plane, path in zip(array, self.files, strict=True):
            hu = read_slice(path)
            fault = self.size_fault(hu.shape)
            if fault is not None:
                raise ValueError(f"{path}: {fault}")
            plane[:] = hu
        return Volume(array, geometry, name)

    def size_fault(self, shape: tuple[int, ...]) -> str | None:
        """What is wrong with a slice of another size than the table says, and what to do."""
        if shape == self.shape:
            return None
        return (
            f"is {shape[1]} x {shape[0]} pixels where {self.table.name} says {self.shape[1]} x {self.shape[0]}; "
            "copy it again, or correct Image_size"
        )


def _runs(numbers: Iterable[int]) -> str:
    """Ascending numbers in words: 3-5, 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in runs)
