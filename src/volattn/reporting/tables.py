"""One table, as plain text and as HTML, from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Cell = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its head.
        format: How numbers are written (a format specification); text stands as it is, None as a dash.
    """

    title: str
    format: str = ""

    def text(self, cell: Cell) -> str:
        """The cell as it is read."""
        if cell is None:
            return "-"
        return cell if isinstance(cell, str) else format(cell, self.format)


def span(ends: Sequence[float] | None, form: str) -> str | None:
    """An interval in words, its ends written by a format specification; None where there is none."""
    return None if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first column names the row.

    Attributes:
        caption: What the table shows.
        columns: At least one.
        rows: As many cells each as there are columns.
        foot: Rows that sum up the others (means, totals), set apart below them.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[tuple[Cell, ...], ...] = ()

    def __post_init__(self) -> None:
        assert self.columns
        assert all(len(row) == len(self.columns) for row in (*self.rows, *self.foot))

    def text(self) -> str:
        """The table for a terminal: numbers to the right, names to the left, a rule under the heads."""
        heads = [column.title for column in self.columns]
        body, foot = self._written(self.rows), self._written(self.foot)
        widths = [max(map(len, cells)) for cells in zip(heads, *body, *foot, strict=True)]
        right = self._numeric()

        def line(cells: list[str]) -> str:
            return "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(cells, widths, right, strict=True)
            ).rstrip()

        rule = "  ".join("-" * width for width in widths)
        lines = [self.caption, "", line(heads), rule, *map(line, body)]
        if foot:
            lines += [rule, *map(line, foot)]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """The table as an HTML element, with scopes that a screen reader can follow."""
        right = self._numeric()

        def row(cells: list[str]) -> str:
            first, *others = cells
            parts = [f'<th scope="row">{escape(first)}</th>']
            parts += [
                f"<td{' class=number' if to_right else ''}>{escape(cell)}</td>"
                for cell, to_right in zip(others, right[1:], strict=True)
            ]
            return f"<tr>{''.join(parts)}</tr>"

        heads = "".join(
            f'<th scope="col"{" class=number" if to_right else ""}>{escape(column.title)}</th>'
            for column, to_right in zip(self.columns, right, strict=True)
        )
        body = "\n".join(map(row, self._written(self.rows)))
        foot = "\n".join(map(row, self._written(self.foot)))
        return (
            f'<div class="table"><table>\n<caption>{escape(self.caption)}</caption>\n'
            f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
            + (f"<tfoot>\n{foot}\n</tfoot>\n" if foot else "")
            + "</table></div>\n"
        )

    def _written(self, rows: tuple[tuple[Cell, ...], ...]) -> list[list[str]]:
        return [[column.text(cell) for column, cell in zip(self.columns, row, strict=True)] for row in rows]

    def _numeric(self) -> list[bool]:
        """Columns without text in them are set to the right; the first one names the row."""
        cells = list(zip(*self.rows, *self.foot, strict=True)) or [()] * len(self.columns)
        return [
            index > 0 and not any(isinstance(cell, str) for cell in column)
            for index, column in enumerate(cells)
        ]
