"""Rows of a CSV file, with errors that name the file, the row and the column."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from volattn.io.files import read_text
from volattn.io.names import shown


@dataclass(frozen=True)
class Row:
    """One row: its file, its number as a spreadsheet counts it (the header is row 1), column -> index, and cells.

    Its methods raise a ValueError with file, row and column where a cell does not hold what is asked for.
    """

    path: Path
    number: int
    columns: Mapping[str, int]
    cells: Sequence[str]

    def error(self, fault: str, way_out: str) -> ValueError:
        return ValueError(f"{self.path}: row {self.number}: {fault}; {way_out}")

    def text(self, column: str) -> str:
        """The text in a column, which must not be empty."""
        index = self.columns[column]
        text = self.cells[index].strip() if index < len(self.cells) else ""
        if not text:
            raise self.error(f"{column} is empty", "fill it or leave the row out")
        return text

    def number_in(self, column: str) -> float:
        return self._number(column, self.text(column))

    def numbers(self, columns: Sequence[str]) -> list[float]:
        try:
            found = [float(self.cells[self.columns[column]]) for column in columns]
        except (ValueError, IndexError):
            found = [math.nan]
        if all(map(math.isfinite, found)):
            return found
        return [self.number_in(column) for column in columns]  # One by one, to say which it is.

    def numbers_in(self, column: str, count: int) -> tuple[float, ...]:
        """`count` finite numbers, separated by commas."""
        cells = self.text(column).split(",")
        if len(cells) != count:
            raise self.error(f"{column} is {shown(self.text(column))}", f"give {count} numbers, separated by commas")
        return tuple(self._number(column, part.strip()) for part in cells)

    def whole_in(self, column: str, allowed: Sequence[int]) -> int:
        value = self.number_in(column)
        if value not in allowed:
            raise self.error(f"{column} is {shown(self.text(column))}", f"give one of {', '.join(map(str, allowed))}")
        return int(value)

    def box(self, values: Sequence[float]) -> tuple[float, float, float, float]:
        """Four numbers as a box (x1, y1, x2, y2)."""
        x1, y1, x2, y2 = values
        if x2 < x1 or y2 < y1:
            shown = ", ".join(f"{value:g}" for value in values)
            raise self.error(f"the box {shown} has its corners reversed", "give x1 <= x2 and y1 <= y2")
        return x1, y1, x2, y2

    def _number(self, column: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise self.error(f"{column} is {shown(text)}", "give a number") from None
        if not math.isfinite(value):
            raise self.error(f"{column} is {shown(text)}", "give a finite number")
        return value


def read_rows(path: Path | str, needed: Sequence[str]) -> Iterator[Row]:
    """Reads a CSV file in UTF-8 with a header row by row; rows without anything in them are skipped.

    Raises:
        ValueError: The file is no CSV, is empty, or lacks one of the columns `needed`.
    """
    path = Path(path)
    text = read_text(path)
    if "\0" in text:
        raise ValueError(f"{path}: holds null characters; save it as CSV in UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in needed if name not in header]
        if not any(header):
            raise ValueError(f"{path}: is empty; its first row must name the columns {', '.join(needed)}")
        if missing:
            raise ValueError(
                f"{path}: row 1: has no column {', '.join(missing)}; the columns {', '.join(needed)} are needed"
            )
        twice = [name for name in needed if header.count(name) > 1]
        if twice:
            raise ValueError(f"{path}: row 1: has the column {twice[0]} twice; keep one")
        columns = {name: index for index, name in enumerate(header)}
        for number, cells in enumerate(reader, start=2):
            if any(map(str.strip, cells)):
                yield Row(path, number, columns, cells)
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: cannot be read ({error}); save it as CSV again") from None
