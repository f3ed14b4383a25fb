"""What the cells of a study say together: means over seeds, intervals over seeds and patients, paired tests.

A study's table: its rows, what there is of them, and the numbers that come of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volattn.scoring.comparison import SIGNIFICANT, compare
from volattn.scoring.deeplesion import MEASURES
from volattn.scoring.lesions import SIZES
from volattn.scoring.pool import Pool, ScoredImage
from volattn.scoring.statistics import holm, percentile_interval, resamples, student_quantiles

Kind = Literal["masks", "boxes"]
Interval = tuple[float, float] | None

COUNTS = ("false_positives_per_case",)
"""Measures that are no shares, and are not shown in percent."""

BOOTSTRAP_SEED = 0
_SEEDS_SEED = 1
"""Apart from that of the patients: one more training changes nothing about which of them are drawn."""


@dataclass(frozen=True)
class Estimate:
    """A number over all seeds.

    Attributes:
        value: The mean over the seeds; None where there is nothing to measure.
        interval: 95 %, over patients (bootstrap) and trainings (Student's t); None with fewer than two patients.
        by_seed: Of each seed.
    """

    value: float | None
    interval: Interval
    by_seed: dict[int, float | None]


@dataclass(frozen=True)
class Contrast:
    """A row against its baseline, on the seeds that both have.

    Attributes:
        value: Row - baseline.
        interval: Of that, the same patients drawn for both; the trainings are paired by their seeds.
        p: Wilcoxon's signed-rank test over patients, see `volattn.scoring.comparison`.
        seeds: How many both have.
    """

    value: float | None
    interval: Interval
    p: float | None
    seeds: int


class Sample:
    """The held-out cases of one cell, ready to be measured for any weights of the patients.

    Args:
        kind: What was scored.
        cases: As the cell wrote them.
        metrics: Names of what is measured.
    """

    def __init__(self, kind: Kind, cases: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> None:
        self.kind, self.cases, self.metrics = kind, cases, tuple(metrics)
        self.patients = tuple(sorted({case["patient"] for case in cases}))

    @cached_property
    def drawn(self) -> NDArray[np.float64]:
        """(B, V) the measures of bootstrap samples; the same patients in the same order for every cell."""
        return self._measure(np.stack(list(resamples(len(self.patients), BOOTSTRAP_SEED))))

    @cached_property
    def whole(self) -> NDArray[np.float64]:
        """(V,) the measures, every patient once."""
        return self._measure(np.ones((1, len(self.patients))))[0]

    def _measure(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.kind == "boxes":
            return self._pooled(weights)
        above, below = self._shares
        drawn = weights @ below
        return np.divide(weights @ above, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)

    def _pooled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        pool = Pool((ScoredImage.from_json(image) for case in self.cases for image in case["images"]), MEASURES)
        # The pool has its patients in another order.
        order = [self.patients.index(patient) for patient in pool.patients]
        columns = [MEASURES.names.index(name) for name in self.metrics]
        whole = pool.whole()
        return np.stack([pool.measure(whole, row[order])[0][columns] for row in weights])

    @cached_property
    def _shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(P, V) each: every measure of masks is a sum over patients by another sum."""
        above = np.zeros((len(self.patients), len(self.metrics)))
        below = np.zeros_like(above)
        for case in self.cases:
            place = self.patients.index(case["patient"])
            for column, name in enumerate(self.metrics):
                values = values_of(case["score"], name)
                above[place, column] += sum(values)
                below[place, column] += len(values)
        return above, below

    def compared(self, seed: int | None = None) -> list[dict[str, Any]]:
        """The cases as `compare` takes them; of one seed of several their names say which."""
        if self.kind == "boxes":
            images = [image for case in self.cases for image in case["images"]]
            return [image | {"name": f"{image['name']} seed {seed}"} for image in images]
        return [
            {"name": case["name"], "patient": case["patient"]}
            | {name: float(np.mean(values)) for name in self.metrics if (values := values_of(case["score"], name))}
            for case in self.cases
        ]


def values_of(score: Mapping[str, Any], metric: str) -> list[float]:
    """What one case adds to the mean that a measure of masks is.

    Args:
        score: `CaseScore.as_json`.
        metric: Its name.
    """
    lesions = score["reference_lesions"]
    by_name: dict[str, list[float]] = {
        "dice_per_case": [score["lesion"]["dice"]],
        "organ_dice_per_case": [] if score["organ"] is None else [score["organ"]["dice"]],
        "recall": [float(lesion["dice"] > 0) for lesion in lesions],
        "false_positives_per_case": [score["false_positives"]],
    }
    for size in SIZES:
        by_name[f"dice_{size}"] = [lesion["dice"] for lesion in lesions if lesion["size"] == size]
    return by_name[metric]


def estimates(samples: Mapping[int, Sample], metrics: Sequence[str]) -> dict[str, Estimate]:
    """Each measure of a row.

    Args:
        samples: By seed.
        metrics: In the samples' order.
    """
    if not samples:
        return {name: Estimate(None, None, {}) for name in metrics}
    whole, drawn = _stacked(samples)
    values, spread = whole.mean(axis=0), _spread(whole, drawn)
    found = {}
    for column, name in enumerate(metrics):
        by_seed = dict(zip(sorted(samples), map(_number, whole[:, column]), strict=True))
        highest = np.inf if name in COUNTS else 1.0
        found[name] = Estimate(_number(values[column]), _interval(spread[:, column], samples, (0.0, highest)), by_seed)
    return found


def contrasts(row: Mapping[int, Sample], baseline: Mapping[int, Sample], metrics: Sequence[str]) -> dict[str, Contrast]:
    """Each measure of a row against its baseline; nothing where they have no seed in common.

    Args:
        row: By seed.
        baseline: By seed.
        metrics: In the samples' order.
    """
    seeds = sorted(row.keys() & baseline.keys())
    if not seeds:
        return {}
    mine, theirs = ({seed: side[seed] for seed in seeds} for side in (row, baseline))
    (a, a_drawn), (b, b_drawn) = _stacked(theirs), _stacked(mine)
    values, spread = (b - a).mean(axis=0), _spread(b - a, b_drawn - a_drawn)
    ps = _p_values(theirs, mine)
    return {
        name: Contrast(_number(values[column]), _interval(spread[:, column], mine), ps.get(name), len(seeds))
        for column, name in enumerate(metrics)
    }


def _stacked(samples: Mapping[int, Sample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(S, V) what each seed scores, and (S, B, V) on samples of patients; the seeds in their order."""
    cells = [samples[seed] for seed in sorted(samples)]
    whole = np.stack([cell.whole for cell in cells])
    if len(cells[0].patients) < 2:  # There is nothing to draw from, and no interval.
        return whole, whole[:, None]
    return whole, np.stack([cell.drawn for cell in cells])


def _spread(whole: NDArray[np.float64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, V) what the mean over the seeds may be: over samples of patients, and over trainings.

    To draw the seeds with replacement, too, would say far too little: of three that happen to agree nothing else can
    be drawn. The mean of S normal trainings lies about theirs as Student's t says.

    Args:
        whole: (S, V) what each seed scores.
        drawn: (S, B, V) that on samples of patients; a measure that a sample does not have (no large lesion drawn) is
            NaN in every seed.
    """
    seeds, count, _ = drawn.shape
    mean: NDArray[np.float64] = drawn.mean(axis=0)
    if seeds == 1:
        return mean
    # Quantiles in random order: the tails of so few degrees of freedom are long, and samples of them would be rough.
    quantiles = student_quantiles(count, seeds - 1)
    errors = whole.std(axis=0, ddof=1) / np.sqrt(seeds)
    return mean + np.random.default_rng(_SEEDS_SEED).permutation(quantiles)[:, None] * errors


def _p_values(a: Mapping[int, Sample], b: Mapping[int, Sample]) -> dict[str, float | None]:
    """By metric, `compare`'s over patients.

    Masks: of each case's mean over the seeds. Boxes: of the detections of all seeds, pooled.
    """
    contents = []
    for samples in (a, b):
        kind = next(iter(samples.values())).kind
        rows = {seed: sample.compared(seed) for seed, sample in samples.items()}
        if kind == "boxes":
            cases = [case for of_seed in rows.values() for case in of_seed]
        else:
            cases = [_mean(list(same)) for same in zip(*rows.values(), strict=True)]
        contents.append({"kind": "deeplesion" if kind == "boxes" else "study", "cases": cases})
    return {row.metric: row.p for row in compare(*contents, seed=BOOTSTRAP_SEED).rows}


def _mean(same: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A case over its seeds."""
    first = same[0]
    return {
        key: value if isinstance(value, str) else float(np.mean([case[key] for case in same]))
        for key, value in first.items()
    }


def _interval(
    drawn: NDArray[np.float64], samples: Mapping[int, Sample], bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Interval:
    if len(next(iter(samples.values())).patients) < 2:
        return None
    low, high = percentile_interval(drawn).clip(*bounds).tolist()
    return None if np.isnan(low) else (low, high)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


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
        row.key: {seed: Sample(table.kind, row.results[seed]["cases"], metrics) for seed in sorted(row.results)}
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
