"""Tables as plain text and HTML, and pages in one file: no scripts, no fonts, nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Self

from volattn.io.files import write_text
from volattn.io.output import SIGNATURE

Cell = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A column: its head, and the format specification of its numbers; text is left as it is, None is a dash."""

    title: str
    format: str = ""

    def text(self, cell: Cell) -> str:
        return "-" if cell is None else cell if isinstance(cell, str) else format(cell, self.format)


def span(ends: Sequence[float] | None, form: str) -> str | None:
    """An interval in words, its ends written by a format specification; None where there is none."""
    return None if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first column names the row, and `foot` has means or totals of the others."""

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
        body, foot = ("\n".join(map(row, self._written(rows))) for rows in (self.rows, self.foot))
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
        return [index > 0 and not any(isinstance(cell, str) for cell in column) for index, column in enumerate(cells)]


_PNG = b"\x89PNG\r\n\x1a\n"

_STYLE = Path(__file__).with_name("page.css")


@dataclass
class Page:
    """A page that is built from top to bottom and written once; all text is escaped."""

    title: str
    language: str = "en"
    _parts: list[str] = field(default_factory=list, init=False, repr=False)
    _footer: str = field(default="", init=False, repr=False)

    def lead(self, text: str) -> Self:
        return self._add(f'<p class="lead">{escape(text)}</p>')

    def notice(self, text: str) -> Self:
        """A paragraph that must not be overlooked."""
        return self._add(f'<p class="notice" role="note">{escape(text)}</p>')

    def section(self, title: str) -> Self:
        return self._add(f"<h2>{escape(title)}</h2>")

    def paragraph(self, text: str) -> Self:
        return self._add(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> Self:
        return self._add(f"<pre><code>{escape(text)}</code></pre>")

    def table(self, table: Table) -> Self:
        return self._add(table.html())

    def results(self, results: list[Result]) -> Self:
        return self._add(f'<ul class="results">{"".join(result.html() for result in results)}</ul>')

    def figure(self, png: bytes, alt: str, caption: str = "") -> Self:
        """A picture, carried in the page itself; `alt` describes it for those who cannot see it.

        Raises:
            ValueError: It is no PNG.
        """
        if not png.startswith(_PNG):
            raise ValueError(f"the picture {alt!r} is no PNG file; make it one first")
        data = base64.b64encode(png).decode("ascii")
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return self._add(f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">{below}</figure>')

    def footer(self, text: str) -> Self:
        """Small print at the end of the page."""
        self._footer = f"<footer>{escape(text)}</footer>\n"
        return self

    def html(self) -> str:
        body = "\n".join(self._parts)
        return (
            f'<!doctype html>\n<html lang="{escape(self.language)}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="generator" content="{SIGNATURE}">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
            f"<h1>{escape(self.title)}</h1>\n{body}\n{self._footer}</main>\n</body>\n</html>\n"
        )

    def write(self, path: Path | str) -> Path:
        """Writes the page, atomically, and gives its path."""
        path = Path(path)
        write_text(path, self.html())
        return path

    def _add(self, part: str) -> Self:
        self._parts.append(part)
        return self


@dataclass(frozen=True)
class Result:
    """A number in large type.

    Attributes:
        beside: A remark: its interval, or the bar that it must reach.
        met: Whether the bar is met; None if there is none.
    """

    name: str
    value: str
    beside: str = ""
    met: bool | None = None

    @classmethod
    def measured(cls, name: str, value: float | None, ends: Sequence[float] | None, form: str = ".3f") -> Self:
        """A value with its interval."""
        beside = "no interval" if ends is None else f"95 %: {span(ends, form)}"
        return cls(name, "-" if value is None else format(value, form), beside)

    def html(self) -> str:
        """One item of a list; whether the bar is met is also in the text, not in colour alone."""
        mark = "" if self.met is None else (" met" if self.met else " missed")
        beside = f'<span class="beside">{escape(self.beside)}</span>' if self.beside else ""
        return (
            f'<li><span class="name">{escape(self.name)}</span>'
            f'<span class="value{mark}">{escape(self.value)}</span>{beside}</li>'
        )
