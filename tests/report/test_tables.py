"""Text and HTML say the same."""

from __future__ import annotations

from html.parser import HTMLParser

from volattn.report.pages import Column, Table

TABLE = Table(
    "Some <numbers>",
    (Column("Name"), Column("Dice", ".3f"), Column("Found"), Column("ml", ".1f")),
    (("volume-1 & co", 0.5, "1 of 3", 10.25), ("volume-10", None, "0 of 0", 1234.0)),
    (("Mean of 2", 0.5, "1 of 3", 622.1),),
)


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.scopes: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if tag == "th":
            self.scopes.append(dict(attrs).get("scope"))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1].append(data)


def test_text_is_aligned_and_rounded() -> None:
    assert TABLE.text() == (
        "Some <numbers>\n"
        "\n"
        "Name            Dice  Found       ml\n"
        "-------------  -----  ------  ------\n"
        "volume-1 & co  0.500  1 of 3    10.2\n"
        "volume-10          -  0 of 0  1234.0\n"
        "-------------  -----  ------  ------\n"
        "Mean of 2      0.500  1 of 3   622.1\n"
    )


def test_html_has_the_cells_of_the_text() -> None:
    cells = _Cells()
    cells.feed(TABLE.html())
    assert cells.rows == [
        ["Name", "Dice", "Found", "ml"],
        ["volume-1 & co", "0.500", "1 of 3", "10.2"],
        ["volume-10", "-", "0 of 0", "1234.0"],
        ["Mean of 2", "0.500", "1 of 3", "622.1"],
    ]
    assert cells.scopes == ["col"] * 4 + ["row"] * 3
    assert "<numbers>" not in TABLE.html()


def test_a_table_without_rows_is_still_a_table() -> None:
    empty = Table("Nothing", (Column("Name"), Column("Dice")), ())
    assert empty.text() == "Nothing\n\nName  Dice\n----  ----\n"
    assert "<tbody>" in empty.html()
