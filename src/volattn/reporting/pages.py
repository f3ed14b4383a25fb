"""A page in one file: no scripts, no fonts, nothing from elsewhere."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Self

from volattn.io.atomic import write_text
from volattn.io.output import SIGNATURE
from volattn.reporting.tables import Table

_PNG = b"\x89PNG\r\n\x1a\n"

_STYLE = Path(__file__).with_name("page.css")


@dataclass
class Page:
    """A page that is built from top to bottom and written once; all text is escaped.

    Attributes:
        title: Head of the page and of the browser's window.
        language: Of the text.
    """

    title: str
    language: str = "en"
    _parts: list[str] = field(default_factory=list, init=False, repr=False)
    _footer: str = field(default="", init=False, repr=False)

    def lead(self, text: str) -> Self:
        """A paragraph that says what the page is about."""
        return self._add(f'<p class="lead">{escape(text)}</p>')

    def notice(self, text: str) -> Self:
        """A paragraph that must not be overlooked."""
        return self._add(f'<p class="notice" role="note">{escape(text)}</p>')

    def section(self, title: str) -> Self:
        """Starts a section."""
        return self._add(f"<h2>{escape(title)}</h2>")

    def paragraph(self, text: str) -> Self:
        """A paragraph."""
        return self._add(f"<p>{escape(text)}</p>")

    def code(self, text: str) -> Self:
        """Commands or their output."""
        return self._add(f"<pre><code>{escape(text)}</code></pre>")

    def table(self, table: Table) -> Self:
        """A table."""
        return self._add(table.html())

    def results(self, results: list[Result]) -> Self:
        """Numbers in large type, beside what they are held against."""
        return self._add(f'<ul class="results">{"".join(result.html() for result in results)}</ul>')

    def figure(self, png: bytes, alt: str, caption: str = "") -> Self:
        """A picture, carried in the page itself.

        Args:
            png: The file's content.
            alt: What it shows, for those who cannot see it.
            caption: Text below it.

        Raises:
            ValueError: It is no PNG.
        """
        if not png.startswith(_PNG):
            raise ValueError(f"the picture {alt!r} is no PNG file; make it one first")
        data = base64.b64encode(png).decode("ascii")
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return self._add(
            f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">{below}</figure>'
        )

    def footer(self, text: str) -> Self:
        """Small print at the end of the page."""
        self._footer = f"<footer>{escape(text)}</footer>\n"
        return self

    def html(self) -> str:
        """The page."""
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
    """A number and what it is held against.

    Attributes:
        name: What was measured.
        value: The result, as it is shown.
        beside: What stands beside it: the bar, a ceiling, a count.
        met: Whether the bar is met; None if there is none.
    """

    name: str
    value: str
    beside: str = ""
    met: bool | None = None

    def html(self) -> str:
        """One item of a list; whether the bar is met is said in words too, not in colour alone."""
        mark = "" if self.met is None else (" met" if self.met else " missed")
        beside = f'<span class="beside">{escape(self.beside)}</span>' if self.beside else ""
        return (
            f'<li><span class="name">{escape(self.name)}</span>'
            f'<span class="value{mark}">{escape(self.value)}</span>{beside}</li>'
        )
