"""Which differences between two evaluations of the same cases are significant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import natural_key
from volattn.scoring.metrics import METRICS, mean_of
from volattn.scoring.pool import FrocSettings, pool_of
from volattn.scoring.score_files import froc_settings
from volattn.scoring.statistics import SIGNIFICANT, holm, is_significant, percentile_interval, resamples, wilcoxon_p
from volattn.scoring.statistics import described as described_bootstrap

_SHOWN = 5


@dataclass(frozen=True)
class Difference:
    """One metric of both evaluations.

    Attributes:
        metric: Its key, nested keys joined by dots.
        interval: Of the difference, by paired bootstrap over patients; None with fewer than two.
        p: Wilcoxon's signed-rank test over patients; None where no patient differs.
        p_holm: Corrected for the number of metrics that were tested; one under two names counts once.
        n: Patients (cases, where no patients are given) that have the metric in both.
    """

    metric: str
    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    n: int

    @property
    def significant(self) -> bool:
        return is_significant(self.interval, self.p_holm)


@dataclass(frozen=True)
class Comparison:
    """All metrics of both evaluations, on `cases` cases; `left_out` are in one of them only."""

    rows: tuple[Difference, ...]
    cases: int
    left_out: int
    seed: int
    organ: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "cases_compared": self.cases,
            "cases_left_out": self.left_out,
            "organ": self.organ,
            "bootstrap": described_bootstrap(self.seed),
            "significant_below": SIGNIFICANT,
            "rows": [asdict(row) | {"significant": row.significant} for row in self.rows],
        }


def compare(a: Mapping[str, Any], b: Mapping[str, Any], *, common: bool = False, seed: int = 0) -> Comparison:
    """Compares two `scores.json`.

    Scores of masks are compared by the mean over cases of every number that both give for a case, and of the metrics
    of `METRICS` beyond them. Those of detections, which make sense over many images only, are compared by the pooled
    metrics; there Wilcoxon's test sees each patient's share of lesions found at the common operating point, and its
    own average precision.

    Args:
        a: As `read_scores` gives it.
        b: Likewise.
        common: Compares the cases that both have, if they do not have the same.

    Raises:
        ValueError: They are of different kinds, settings or references, or have other cases.
    """
    for key in ("kind", "settings"):
        if a.get(key) != b.get(key):
            raise ValueError(
                f"they are of different {key}: {_differing(a.get(key), b.get(key))}; evaluate both in one way"
            )
    first = {case["name"]: case for case in a["cases"]}
    second = {case["name"]: case for case in b["cases"]}
    names = sorted(first.keys() & second.keys(), key=natural_key)
    alone = sorted(first.keys() ^ second.keys(), key=natural_key)
    if alone and not common:
        shown = ", ".join(alone[:_SHOWN]) + (f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else "")
        raise ValueError(f"only one of them has {shown}; evaluate both on the same cases, or say --common")
    if not names:
        raise ValueError("they have no case in common; evaluate both on the same cases")
    cases = [(first[name], second[name]) for name in names]
    patients = _patients(cases)
    settings = froc_settings(a)
    if settings is None:
        rows = _by_case([(_numbers_of(one, a), _numbers_of(other, a)) for one, other in cases], patients, seed)
    else:
        rows = _pooled(cases, settings, seed)
    # A metric under two names, as LiTS's scorer has some, is one test.
    tests = {replace(row, metric=""): row.p for row in rows}
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    rows = [replace(row, p_holm=corrected[replace(row, metric="")]) for row in rows]
    return Comparison(tuple(rows), len(names), len(alone), seed, a.get("organ"))


_Pairs = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]


def _differing(a: Any, b: Any) -> str:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
        return ", ".join(f"{key} {a.get(key)} and {b.get(key)}" for key in keys)
    return f"{a} and {b}"


def _patients(cases: _Pairs) -> NDArray[np.int64]:
    """The patient of each case, by number."""
    names = [case.get("patient", case["name"]) for case, _ in cases]
    for (one, other), name in zip(cases, names, strict=True):
        if other.get("patient", other["name"]) != name:
            raise ValueError(f"case {one['name']} is of another patient in each; evaluate both in one way")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _by_case(
    flat: Sequence[tuple[dict[str, float], dict[str, float]]], patients: NDArray[np.int64], seed: int
) -> list[Difference]:
    metrics = list(dict.fromkeys(key for one, _ in flat for key in one))
    count = int(patients.max()) + 1
    weights = resamples(count, seed)
    rows = []
    for metric in metrics:
        have = [metric in one and metric in other for one, other in flat]
        if not any(have):
            continue
        chosen = np.flatnonzero(have)
        values = np.array([[side[metric] for side in flat[place]] for place in chosen.tolist()])
        change = values[:, 1] - values[:, 0]
        sums = np.bincount(patients[chosen], weights=change, minlength=count)
        sizes = np.bincount(patients[chosen], minlength=count)
        drawn = weights @ sizes
        means = np.divide(weights @ sums, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
        mean_a, mean_b = values.mean(axis=0).tolist()
        rows.append(_difference(metric, mean_a, mean_b, means, sums[sizes > 0] / sizes[sizes > 0]))
    return rows


def _pooled(cases: _Pairs, settings: FrocSettings, seed: int) -> list[Difference]:
    a, b = (pool_of([pair[side] for pair in cases], settings) for side in (0, 1))
    for one, other in zip(a.images, b.images, strict=True):
        if one.lesions != other.lesions or one.labels != other.labels:
            raise ValueError(f"{one.name} has other lesions in each; evaluate both against one reference")
    whole = a.whole()
    values = np.stack([pool.measure(whole)[0] for pool in (a, b)])
    drawn = np.stack(
        [b.measure(whole, weights)[0] - a.measure(whole, weights)[0] for weights in resamples(len(a.patients), seed)]
    )
    changes = b.measure_patients() - a.measure_patients()
    return [
        _difference(name, float(values[0, column]), float(values[1, column]), drawn[:, column], changes[:, column])
        for column, name in enumerate(settings.names)
        if not np.isnan(values[:, column]).any()
    ]


def _difference(
    metric: str, a: float, b: float, drawn: NDArray[np.float64], changes: NDArray[np.float64]
) -> Difference:
    """A row, before correction: the bootstrap's differences, and those of the patients."""
    changes = changes[~np.isnan(changes)]
    interval = None
    if len(changes) > 1:
        low, high = percentile_interval(drawn).tolist()
        interval = None if math.isnan(low) else (low, high)
    return Difference(metric, a, b, b - a, interval, wilcoxon_p(changes), None, len(changes))


def _numbers_of(case: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a case of label maps, and the metrics beyond them."""
    found = dict(_numbers(case))
    if content.get("kind") == "lits":
        means = {key: mean_of(case, metric) for key, metric in METRICS.items() if metric.values and metric.compared}
        found |= {key: value for key, value in means.items() if value is not None}
    return found


def _numbers(case: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a case, nested ones under joined keys; those in lists are left out."""
    for key, value in case.items():
        name = f"{parent}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "patient":
            yield name, float(value)
