"""The report of scores: a page, and its pictures as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from volattn.io.files import atomic_path
from volattn.io.names import count_of
from volattn.io.output import check_replaceable, claim_folder
from volattn.report.pages import Page
from volattn.scoring.statistics import few_warning

PAGE = "index.html"
SHOWN = 40
"""Most rows that a picture of cases shows."""


@dataclass
class Report:
    """A page, which carries its pictures in itself, and the same pictures as PNG files by name without suffix."""

    page: Page
    pictures: dict[str, bytes] = field(default_factory=dict)

    def figure(self, name: str, png: bytes, alt: str, caption: str) -> Self:
        """Adds a picture to the page and to the files; see `Page.figure`."""
        assert name not in self.pictures
        self.pictures[name] = png
        self.page.figure(png, alt, caption)
        return self

    def write(self, folder: Path | str) -> Path:
        """Writes the pictures and, last, the page into a folder, each atomically, and gives the page's path."""
        folder = Path(folder)
        pictures = {folder / f"{name}.png": png for name, png in self.pictures.items()}
        check_replaceable(pictures)
        for path, png in pictures.items():
            with atomic_path(path) as temporary:
                temporary.write_bytes(png)
        return self.page.write(folder / PAGE)


@contextmanager
def claim_report(folder: Path | None) -> Iterator[None]:
    """Keeps a report's folder to this run, if there is one, before the scoring takes its time.

    Raises:
        ValueError: It is a file, cannot be written, another run writes to it, or its page is not one of this program's.
    """
    if folder is None:
        yield
        return
    with claim_folder(folder):
        check_replaceable([folder / PAGE])
        yield


def build_report(content: Mapping[str, Any]) -> Report:
    """The report of an evaluation.

    Args:
        content: A `scores.json`, as `read_scores` gives it.

    Raises:
        ValueError: Its kind is unknown.
    """
    from volattn.report.detection_report import detection_report
    from volattn.report.lits_report import lits_report

    kind = content.get("kind")
    if kind not in ("lits", "deeplesion", "detection"):
        raise ValueError(f"there is no report for scores of the kind {kind}; give the scores.json of an evaluation")
    return lits_report(content) if kind == "lits" else detection_report(content)


def worst_of(count: int, thing: str) -> str:
    """The part of so many things that a picture shows, in words."""
    counted = count_of(count, thing)
    if count > SHOWN:
        return f"the worst {SHOWN} of {counted}"
    return f"all {counted}" if count > 1 else counted


def bootstrap_in_words(content: Mapping[str, Any], count: int, thing: str) -> str:
    """How the intervals were made, with a warning where there are few of the things that were drawn."""
    made = content["bootstrap"]
    few = few_warning(count, thing)
    return (
        f"Intervals hold {100 * made['level']:g} % of {made['resamples']} bootstrap samples of {made['over']} drawn "
        f"with replacement (seed {made['seed']}){few}{'; with a single one there are none' if count < 2 else ''}."
    )


def add_notices(page: Page, content: Mapping[str, Any]) -> None:
    """Notes, and the cases that failed."""
    for note in content.get("notes", ()):
        page.notice(note)
    failed = content["failed"]
    if failed:
        named = list(failed.items())
        more = f" And {len(named) - SHOWN} more." if len(named) > SHOWN else ""
        page.notice(
            f"Not scored, and in none of these numbers ({len(named)}): "
            + "; ".join(f"{name}: {reason}" for name, reason in named[:SHOWN])
            + "."
            + more
        )


def add_footer(page: Page, content: Mapping[str, Any]) -> None:
    """The versions that the scores depend on."""
    libraries = ", ".join(f"{name} {version}" for name, version in content.get("versions", {}).items())
    source = content.get("commit")
    page.footer(f"Scored with {libraries}{f', commit {source}' if source else ''}. Not for clinical use.")
