"""A study's table: its rows, what there is of them, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volattn.evaluation.comparison import SIGNIFICANT
from volattn.evaluation.statistics import holm
from volattn.reporting.study_statistics import COUNTS, Contrast, Estimate, Kind, Sample, contrasts, estimates


@dataclass(frozen=True)
class Unfinished:
    """A cell without a result.

    Attributes:
        seed: Of the cell.
        reason: Why it failed; None if it has not been tried to its end.
    """

    seed: int
    reason: str | None


@dataclass(frozen=True)
class StudyRow:
    """A row, and what there is of it.

    Attributes:
        key: Its name in folders.
        title: Its name in the table.
        paper: What the paper reports, in percent, by metric.
        baseline: Key of the row that it is tested against.
        results: `cell.json` by seed.
        unfinished: The other cells.
        published: Whether it is only quoted.
    """

    key: str
    title: str
    paper: Mapping[str, float]
    baseline: str | None
    results: Mapping[int, Mapping[str, Any]]
    unfinished: tuple[Unfinished, ...]
    published: bool = False

    @property
    def state(self) -> str:
        """In words."""
        if self.published:
            return "quoted"
        done, failed = len(self.results), sum(one.reason is not None for one in self.unfinished)
        words = [f"{done} of {done + len(self.unfinished)}"]
        words += [f"{failed} failed"] if failed else []
        words += ["unfinished"] if len(self.unfinished) > failed else []
        return ", ".join(words)


@dataclass(frozen=True)
class StudyTable:
    """All that is written of a study.

    Attributes:
        name: The study's.
        title: Of the table.
        question: What it is to tell.
        paper: The paper's table.
        kind: What is scored.
        metrics: Name -> title, the columns.
        rows: In the table's order.
        notes: On the paper's numbers.
        command: What gives this study, but for its seeds and its folder.
        seeds: That were asked for so far.
    """

    name: str
    title: str
    question: str
    paper: str | None
    kind: Kind
    metrics: Mapping[str, str]
    rows: tuple[StudyRow, ...]
    notes: tuple[str, ...]
    command: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """A row's numbers.

    Attributes:
        row: The row.
        values: By metric.
        against: By metric, against its baseline; empty for the baseline and where there is nothing to compare.
        corrected: Their p, corrected by Holm for the table's number of tests.
    """

    row: StudyRow
    values: dict[str, Estimate]
    against: dict[str, Contrast]
    corrected: dict[str, float | None]

    def stands(self, metric: str) -> bool:
        """Whether the interval of a difference excludes 0 and its corrected p is below 0.05."""
        contrast, p = self.against[metric], self.corrected.get(metric)
        if contrast.interval is None or p is None:
            return False
        return not contrast.interval[0] <= 0 <= contrast.interval[1] and p < SIGNIFICANT

    @property
    def cost(self) -> dict[str, float | None]:
        """Means over the seeds; the last three are measured, and differ from run to run."""
        return {
            "targets": self._mean("targets"),
            "gflops": self._mean("flops", 1e9),
            "parameters_m": self._mean("parameters", 1e6),
            "train_minutes": self._mean("train_seconds", 60),
            "test_minutes": self._mean("test_seconds", 60),
            "peak_mib": self._mean("peak_bytes", 2**20),
        }

    def _mean(self, key: str, unit: float = 1.0) -> float | None:
        values = [result[key] for result in self.row.results.values() if result[key] is not None]
        return sum(values) / len(values) / unit if values else None


def evaluate(table: StudyTable) -> list[Found]:
    """The numbers of every row."""
    metrics = tuple(table.metrics)
    samples = {
        row.key: {
            seed: Sample(table.kind, row.results[seed]["cases"], metrics) for seed in sorted(row.results)
        }
        for row in table.rows
    }
    against = {
        row.key: contrasts(samples[row.key], samples[row.baseline], metrics) if row.baseline else {}
        for row in table.rows
    }
    tests = [(row.key, metric) for row in table.rows for metric in against[row.key]]
    corrected = holm([against[key][metric].p for key, metric in tests])
    by_test = dict(zip(tests, corrected, strict=True))
    return [
        Found(
            row,
            estimates(samples[row.key], metrics),
            against[row.key],
            {metric: by_test[row.key, metric] for metric in against[row.key]},
        )
        for row in table.rows
    ]


def shown(metric: str, value: float | None) -> float | None:
    """As tables show it: shares in percent, as the paper does."""
    return value if value is None or metric in COUNTS else 100 * value
