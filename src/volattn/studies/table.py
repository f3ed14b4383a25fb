"""The numbers of a study's table: means over seeds, intervals over seeds and patients, paired tests of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.scoring.comparison import compare
from volattn.scoring.deeplesion import FROC
from volattn.scoring.metrics import METRICS, mean_of, sums_of
from volattn.scoring.pool import Pool, ScoredImage
from volattn.scoring.statistics import holm, is_significant, percentile_interval, resamples, student_quantiles
from volattn.studies.definition import Kind, Row, Study

Interval = tuple[float, float] | None

BOOTSTRAP_SEED = 0
_SEEDS_SEED = 1
"""Another one than the patients': which of them are drawn does not depend on the number of trainings."""


@dataclass(frozen=True)
class Estimate:
    """The mean over all seeds with its 95 % interval, and each seed's number; None where there is nothing to measure.

    The interval is over patients (bootstrap) and trainings (Student's t); there is none with fewer than two patients.
    """

    value: float | None
    interval: Interval
    by_seed: dict[int, float | None]


@dataclass(frozen=True)
class Contrast:
    """A row against its baseline: the same patients are drawn for both, and trainings are paired by their seeds.

    `p` is of Wilcoxon's signed-rank test over patients, see `volattn.scoring.comparison`.
    """

    difference: float | None
    interval: Interval
    p: float | None
    seeds: int


class Sample:
    """The held-out cases of one run, as it wrote them, ready to be measured for any weights of the patients."""

    def __init__(self, kind: Kind, cases: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> None:
        self.kind, self.cases, self.metrics = kind, cases, tuple(metrics)
        self.patients = tuple(sorted({case["patient"] for case in cases}))

    @cached_property
    def drawn(self) -> NDArray[np.float64]:
        """(B, V) the metrics of bootstrap samples; the same patients in the same order for every run."""
        return self._measure(resamples(len(self.patients), BOOTSTRAP_SEED))

    @cached_property
    def whole(self) -> NDArray[np.float64]:
        """(V,) the metrics, every patient once."""
        return self._measure(np.ones((1, len(self.patients))))[0]

    def _measure(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.kind == "boxes":
            return self._pooled(weights)
        above, below = self._shares
        drawn = weights @ below
        return np.divide(weights @ above, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)

    def _pooled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        pool = Pool((ScoredImage.from_json(image) for case in self.cases for image in case["images"]), FROC)
        # The pool has its patients in another order.
        order = [self.patients.index(patient) for patient in pool.patients]
        columns = [FROC.names.index(name) for name in self.metrics]
        whole = pool.whole()
        return np.stack([pool.measure(whole, row[order])[0][columns] for row in weights])

    @cached_property
    def _shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(P, V) each: every metric of masks is a sum over patients by another sum."""
        of_patient = np.array([[case["patient"] == patient for case in self.cases] for patient in self.patients])
        above, below = sums_of([case["score"] for case in self.cases], self.metrics)
        return of_patient @ above, of_patient @ below

    def compared(self, seed: int | None = None) -> list[dict[str, Any]]:
        """The cases as `compare` takes them; those of boxes have the seed in their names."""
        if self.kind == "boxes":
            images = [image for case in self.cases for image in case["images"]]
            return [image | {"name": f"{image['name']} seed {seed}"} for image in images]
        return [
            {"name": case["name"], "patient": case["patient"]}
            | {key: value for key in self.metrics if (value := mean_of(case["score"], METRICS[key])) is not None}
            for case in self.cases
        ]


def estimates(samples: Mapping[int, Sample], metrics: Sequence[str]) -> dict[str, Estimate]:
    """Each metric of a row, from its samples by seed; the metrics are in the samples' order."""
    if not samples:
        return {name: Estimate(None, None, {}) for name in metrics}
    whole, drawn = _stacked(samples)
    values, spread = whole.mean(axis=0), _spread(whole, drawn)
    found = {}
    for column, name in enumerate(metrics):
        by_seed = dict(zip(sorted(samples), map(_number, whole[:, column]), strict=True))
        interval = _interval(spread[:, column], samples, (0.0, METRICS[name].highest))
        found[name] = Estimate(_number(values[column]), interval, by_seed)
    return found


def contrasts(row: Mapping[int, Sample], baseline: Mapping[int, Sample], metrics: Sequence[str]) -> dict[str, Contrast]:
    """Each metric of a row against its baseline, both by seed; nothing where they have no seed in common."""
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
    """(S, V) the metrics of each seed, and (S, B, V) those of bootstrap samples of patients."""
    runs = [samples[seed] for seed in sorted(samples)]
    whole = np.stack([run.whole for run in runs])
    if len(runs[0].patients) < 2:  # There is nothing to draw from, and no interval.
        return whole, whole[:, None]
    return whole, np.stack([run.drawn for run in runs])


def _spread(whole: NDArray[np.float64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, V) the distribution of the mean over the seeds, over samples of patients and over trainings.

    Seeds drawn with replacement would give intervals that are far too narrow: of three that happen to agree nothing
    else can be drawn. The mean of S normal trainings is distributed about theirs as Student's t.

    Args:
        whole: (S, V) the metrics of each seed.
        drawn: (S, B, V) those of samples of patients; a metric that a sample does not have (no large lesion drawn) is
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
    """`compare`'s p over patients, by metric.

    Masks: of each case's mean over the seeds. Boxes: of the detections of all seeds, pooled.
    """
    contents = []
    for samples in (a, b):
        by_seed = [sample.compared(seed) for seed, sample in samples.items()]
        boxes = next(iter(samples.values())).kind == "boxes"
        cases = list(chain(*by_seed)) if boxes else [_mean(same) for same in zip(*by_seed, strict=True)]
        contents.append({"kind": "deeplesion" if boxes else "study", "cases": cases})
    return {row.metric: row.p for row in compare(*contents, seed=BOOTSTRAP_SEED).rows}


def _mean(same: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A case over its seeds."""
    return {
        key: value if isinstance(value, str) else float(np.mean([case[key] for case in same]))
        for key, value in same[0].items()
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
class StudyRow:
    """A row and the results of its runs.

    Attributes:
        results: `result.json` by seed.
        unfinished: The other runs by seed: why they failed, None if they were not run to their end.
    """

    row: Row
    results: Mapping[int, Mapping[str, Any]]
    unfinished: Mapping[int, str | None]

    @property
    def state(self) -> str:
        """In words."""
        if self.row.published:
            return "quoted"
        done, failed = len(self.results), sum(reason is not None for reason in self.unfinished.values())
        words = [f"{done} of {done + len(self.unfinished)}"]
        words += [f"{failed} failed"] if failed else []
        words += ["unfinished"] if len(self.unfinished) > failed else []
        return ", ".join(words)


@dataclass(frozen=True)
class StudyTable:
    """A study as it is written.

    Attributes:
        command: Runs this study, but for its seeds and its folder.
        seeds: Those of all runs so far.
    """

    name: str
    study: Study
    rows: tuple[StudyRow, ...]
    command: str
    seeds: tuple[int, ...]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """Of all runs."""
        return [result for row in self.rows for result in row.results.values()]


@dataclass(frozen=True)
class Found:
    """A row's numbers.

    Attributes:
        baseline: Key of the row that it is tested against.
        against: By metric, against its baseline; empty for the baseline and where there is nothing to compare.
        corrected: Their p, corrected by Holm for the table's number of tests.
    """

    runs: StudyRow
    baseline: str | None
    values: dict[str, Estimate]
    against: dict[str, Contrast]
    corrected: dict[str, float | None]

    @property
    def row(self) -> Row:
        return self.runs.row

    def significant(self, metric: str) -> bool:
        """Whether the interval of a difference excludes 0 and its corrected p is below 0.05."""
        return is_significant(self.against[metric].interval, self.corrected.get(metric))

    @property
    def cost(self) -> dict[str, float | None]:
        """Means over the seeds; the last three depend on the machine, and differ from run to run."""
        return {
            "targets": self._mean("targets"),
            "gflops": self._mean("flops", 1e9),
            "parameters_m": self._mean("parameters", 1e6),
            "train_minutes": self._mean("train_seconds", 60),
            "test_minutes": self._mean("test_seconds", 60),
            "peak_mib": self._mean("peak_bytes", 2**20),
        }

    def _mean(self, key: str, unit: float = 1.0) -> float | None:
        values = [result[key] for result in self.runs.results.values() if result[key] is not None]
        return sum(values) / len(values) / unit if values else None


def evaluate(table: StudyTable) -> list[Found]:
    """The numbers of every row."""
    metrics = table.study.metrics
    samples = {
        runs.row.key: {seed: Sample(table.study.kind, found["cases"], metrics) for seed, found in runs.results.items()}
        for runs in table.rows
    }
    baselines = {runs.row.key: table.study.baseline_of(runs.row) for runs in table.rows}
    against = {
        key: {} if baseline is None else contrasts(samples[key], samples[baseline], metrics)
        for key, baseline in baselines.items()
    }
    tests = [(key, metric) for key, found in against.items() for metric in found]
    corrected = dict(zip(tests, holm([against[key][metric].p for key, metric in tests]), strict=True))
    rows = []
    for runs in table.rows:
        key = runs.row.key
        ps = {metric: corrected[key, metric] for metric in against[key]}
        rows.append(Found(runs, baselines[key], estimates(samples[key], metrics), against[key], ps))
    return rows
