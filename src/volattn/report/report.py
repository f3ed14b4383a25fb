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
from volattn.report.tables import comparison_table
from volattn.scoring.metrics import find_metric, title_of
from volattn.scoring.statistics import few_warning

PAGE = "index.html"
SHOWN = 40
"""Most rows that a picture of cases shows."""


@dataclass
class Report(Page):
    """A page whose pictures are also written as PNG files, by name without suffix."""

    pictures: dict[str, bytes] = field(default_factory=dict)

    def picture(self, name: str, png: bytes, alt: str, caption: str) -> Self:
        """Adds a picture to the page and to the files; see `Page.figure`."""
        assert name not in self.pictures
        self.pictures[name] = png
        return self.figure(png, alt, caption)

    def write(self, path: Path | str) -> Path:
        """Writes the pictures and, last, the page into a folder, each atomically, and gives the page's path."""
        pictures = {Path(path, f"{name}.png"): png for name, png in self.pictures.items()}
        check_replaceable(pictures)
        for place, png in pictures.items():
            with atomic_path(place) as temporary:
                temporary.write_bytes(png)
        return super().write(Path(path, PAGE))


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


def comparison_report(content: Mapping[str, Any]) -> Report:
    """The differences of metrics that are shares, with their intervals, and the table of all."""
    from volattn.report.plots import draw_estimates

    report = Report("Differences between two evaluations")
    report.lead(
        f"B is {content['b']}, A is {content['a']}; {count_of(content['cases_compared'], 'case')} that both scored, "
        f"{content['cases_left_out']} left out. {bootstrap_in_words(content, content['cases_compared'], 'case')}"
    )
    drawn = [
        row
        for row in content["rows"]
        if (metric := find_metric(row["metric"])) is not None and (metric.unit, metric.better) == ("share", "higher")
    ]
    # One number under two names is drawn once.
    shown = {(row["a"], row["b"], row["p"]): row for row in reversed(drawn)}
    rows, organ = list(shown.values())[::-1], content.get("organ")
    if rows:
        report.picture(
            "differences",
            draw_estimates(
                [f"{title_of(row['metric'], organ)}{' *' if row['significant'] else ''}" for row in rows],
                [row["difference"] for row in rows],
                [row["interval"] for row in rows],
                axis="B - A (difference of shares; to the right B is better)",
                shares=False,
            ),
            "Differences B - A with their intervals around 0.",
            "Metrics from 0 to 1 where more is better. A star marks a significant difference: its interval excludes 0 "
            "and Wilcoxon's p, corrected by Holm for all rows of the table, is below 0.05.",
        )
    report.section("All metrics")
    report.table(comparison_table(content))
    add_footer(report, content)
    return report


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
    failed = [f"{name}: {reason}" for name, reason in content["failed"].items()]
    if failed:
        more = f" And {len(failed) - SHOWN} more." if len(failed) > SHOWN else ""
        page.notice(f"Not scored, and in none of these numbers ({len(failed)}): {'; '.join(failed[:SHOWN])}.{more}")


def add_footer(page: Page, content: Mapping[str, Any]) -> None:
    """The versions that the scores depend on."""
    libraries = ", ".join(f"{name} {version}" for name, version in content.get("versions", {}).items())
    source = content.get("commit")
    page.footer(f"Scored with {libraries}{f', commit {source}' if source else ''}. Not for clinical use.")
