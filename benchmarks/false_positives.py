"""What a model calls lesions in whole phantoms that it has not seen: lesions, look-alikes, or nothing in particular.

    python benchmarks/false_positives.py plain=RUN va=RUN --cases 12 --seed 4001 -o out

`lookalikes.py` asks for scores on single slices. Here a case is predicted as `volattn predict` does, at the model's own
threshold, and every finding of the phantom that a predicted lesion touches is called one. A predicted lesion that
touches no finding stands by itself. Intervals are by bootstrap over phantoms; a model is held against the first one on
the same samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from lookalikes import DISTRACTORS, asked_for, written
from numpy.typing import NDArray

from volattn.inference.predict import Prediction, Predictor
from volattn.phantoms import Phantom, make_phantom
from volattn.report.pages import Column, Table, span
from volattn.scoring.statistics import described, percentile_interval, resamples
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

KINDS = ("lesion", *DISTRACTORS)
COUNTS = (*(f"{what} {kind}" for kind in KINDS for what in ("called", "all")), "elsewhere")
"""What is counted in a phantom."""


def count(phantom: Phantom, prediction: Prediction) -> list[int]:
    """`COUNTS` of one phantom."""
    touched = prediction.lesions > 0
    called = set(np.unique(phantom.numbers[touched]).tolist()) - {0}
    kinds = [finding.kind for finding in phantom.findings]
    counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    for number, kind in enumerate(kinds, start=1):
        counts[f"all {kind}"] += 1
        counts[f"called {kind}"] += number in called
    near = set(np.unique(prediction.lesions[phantom.numbers > 0]).tolist()) - {0}
    counts["elsewhere"] = len(prediction.records) - len(near)
    return [counts[name] for name in COUNTS]


def rates(counts: NDArray[np.int64], weights: NDArray[np.float64]) -> dict[str, float]:
    """Over phantoms, each weighed: what share of lesions and of look-alikes is called a lesion, and what is elsewhere.

    Args:
        counts: (cases, `COUNTS`).
        weights: (cases,).
    """
    total = dict(zip(COUNTS, (weights @ counts).tolist(), strict=True))

    def share(kinds: tuple[str, ...]) -> float:
        of = sum(total[f"all {kind}"] for kind in kinds)
        return sum(total[f"called {kind}"] for kind in kinds) / of if of else float("nan")

    return {
        "lesions": share(KINDS[:1]),
        "look-alikes": share(DISTRACTORS),
        "elsewhere a case": total["elsewhere"] / weights.sum(),
    }


def measure(models: dict[str, Predictor], options: argparse.Namespace) -> dict[str, Any]:
    """Predicts every phantom with every model."""
    found: dict[str, list[list[int]]] = {name: [] for name in models}
    for case in range(options.cases):
        phantom = make_phantom(options.seed, case, options.size)
        volume = Volume(phantom.image, Geometry.aligned(phantom.image.shape, phantom.spacing), f"phantom {case}")
        for name, predictor in models.items():
            found[name].append(count(phantom, predictor.predict(volume)))
        print(f"phantom {case + 1} of {options.cases}", file=sys.stderr, flush=True)
    counts = {name: np.array(rows) for name, rows in found.items()}
    samples = list(resamples(options.cases, options.seed))
    drawn = {name: [rates(rows, weights) for weights in samples] for name, rows in counts.items()}
    first = next(iter(models))
    return {
        "settings": {key: getattr(options, key) for key in ("cases", "seed", "size")},
        "intervals": described(options.seed, "phantoms"),
        "results": {
            name: {
                "model": predictor.fingerprint,
                "threshold": predictor.folder.threshold,
                "counts": dict(zip(COUNTS, counts[name].sum(axis=0).tolist(), strict=True)),
                "rates": {
                    rate: {
                        "value": value,
                        "interval": _interval([one[rate] for one in drawn[name]]),
                        "against_the_first": _interval(
                            [a[rate] - b[rate] for a, b in zip(drawn[name], drawn[first], strict=True)]
                        ),
                    }
                    for rate, value in rates(counts[name], np.ones(options.cases)).items()
                },
            }
            for name, predictor in models.items()
        },
    }


def _interval(values: list[float]) -> list[float]:
    return percentile_interval(np.array(values)).tolist()


def _cells(one: dict[str, Any]) -> Iterator[Any]:
    for rate in one["rates"].values():
        yield rate["value"]
        yield span(rate["against_the_first"], "+.2f")
    for kind in DISTRACTORS:
        yield f"{one['counts'][f'called {kind}']} of {one['counts'][f'all {kind}']}"


def table(results: dict[str, Any]) -> Table:
    """A row a model."""
    columns = [Column("Model")]
    for rate in ("Lesions called", "Look-alikes called", "Elsewhere a case"):
        columns += [Column(rate, ".2f"), Column("Difference, 95 %")]
    columns += [Column(kind) for kind in DISTRACTORS]
    rows = [(name, *_cells(one)) for name, one in results.items()]
    return Table("What is called a lesion in whole phantoms", tuple(columns), tuple(rows))


def main() -> None:
    """Predicts, and writes what was found."""
    options, models = asked_for(__doc__, "false_positives")
    content = measure(models, options)
    written(options.out, "false_positives", content, table(content["results"]).text())


if __name__ == "__main__":
    main()
