"""A page is one file, whatever is put on it."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from volattn.report.pages import Column, Page, Result, Table

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img", "link", "br", "input", "hr"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _page() -> Page:
    return (
        Page("Lesions & <livers>")
        .lead("What it is.")
        .notice("Not a patient.")
        .results([Result("Liver Dice", "0.950", "bar 0.93: met", True), Result("Lesion Dice", "0.2", "missed", False)])
        .section("Pictures")
        .figure(PNG, 'a "slice"', "caption <b>")
        .table(Table("T", (Column("a"),), (("1",),)))
        .code("volattn demo -o <DIR>")
        .paragraph("End.")
        .footer("small print")
    )


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def test_everything_is_inside() -> None:
    reader = _read(_page().html())
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in _page().html()
    assert "@import" not in _page().html()


def test_pictures_survive_and_have_words() -> None:
    [image] = [attributes for tag, attributes in _read(_page().html()).tags if tag == "img"]
    assert image["alt"] == 'a "slice"'
    assert base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) == PNG


def test_text_is_escaped() -> None:
    text = _read(_page().html()).text
    for part in ("Lesions & <livers>", "caption <b>", "volattn demo -o <DIR>"):
        assert part in text


def test_it_has_a_language_one_head_and_a_footer() -> None:
    tags = _read(_page().html()).tags
    assert ("html", {"lang": "en"}) in tags
    assert [tag for tag, _ in tags].count("h1") == 1
    assert [tag for tag, _ in tags].count("footer") == 1


def test_written_whole(tmp_path: Path) -> None:
    path = _page().write(tmp_path / "deep" / "index.html")
    assert path.read_text(encoding="utf-8") == _page().html()
    assert [found.name for found in path.parent.iterdir()] == ["index.html"]


def test_no_png_is_refused() -> None:
    with pytest.raises(ValueError, match="'liver' is no PNG"):
        Page("x").figure(b"GIF89a", "liver")
