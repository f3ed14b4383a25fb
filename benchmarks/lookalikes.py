"""Whether a model tells lesions from look-alikes, on phantoms that it has not seen.

    python benchmarks/lookalikes.py none=RUN va=RUN --cases 12 --seed 4001 -o out

A phantom's distractors look like its lesions in every single slice; only their course through the slices gives them
away (`phantom_hardness.py`). Here a model is asked on the slice that shows most of each finding: its score is the
mean, over the finding's pixels, of the highest score among the lesion detections that cover them. Over all findings:

* the area under the ROC curve of lesions against distractors, 0.5 for a model that cannot tell them apart;
* how many of either are called lesions at the model's own threshold, by kind of distractor.

Intervals are by bootstrap over phantoms. Differences from the first model use the same samples for both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from volattn.inference.predict import Predictor, load
from volattn.inference.reader import SliceReader
from volattn.inference.stitch import score_maps
from volattn.io.files import write_json, write_text
from volattn.phantoms import Phantom, make_phantom
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Table, span
from volattn.scoring.statistics import described, percentile_interval, resamples
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

DISTRACTORS = ("vessel", "duct", "partial volume")


@dataclass(frozen=True)
class Asked:
    """A finding, and what a model says of it.

    Attributes:
        case: Its phantom.
        kind: "lesion" or what the distractor stands for.
        diameter: Of its cross-section, mm.
        score: That it is a lesion.
    """

    case: int
    kind: str
    diameter: float
    score: float


def best_slices(phantom: Phantom, reader: SliceReader) -> dict[int, int]:
    """The prepared slice that shows most of each finding, by its number; without those that no such slice shows."""
    drawn = (phantom.numbers[reader.nearest(z)] for z in range(reader.depth))
    pixels = np.stack([np.bincount(one.ravel(), minlength=len(phantom.findings) + 1)[1:] for one in drawn])
    return {number: int(column.argmax()) for number, column in enumerate(pixels.T) if column.any()}


def ask(predictor: Predictor, phantom: Phantom, case: int) -> list[Asked]:
    """What a model says of each finding that a prepared slice shows."""
    volume = Volume(phantom.image, Geometry.aligned(phantom.image.shape, phantom.spacing), f"phantom {case}")
    reader = SliceReader(volume, predictor.folder.plan)
    best = best_slices(phantom, reader)
    classes = len(predictor.folder.classes)
    found = []
    for z, detections in predictor.detect(reader, sorted(set(best.values()))):
        lesion = score_maps(detections, phantom.image.shape[1:], predictor.folder.plan.size, classes)[-1]
        for number, place in best.items():
            if place == z:
                own = phantom.numbers[reader.nearest(z)] == number + 1
                finding = phantom.findings[number]
                found.append(Asked(case, finding.kind, finding.diameter, float(lesion[own].mean())))
    return found


def area(found: Sequence[Asked], weights: NDArray[np.float64]) -> float:
    """Under the ROC curve of lesions against distractors, each phantom weighed; NaN without one of the two."""
    is_lesion = [one.kind == "lesion" for one in found]
    drawn = weights[[one.case for one in found]]
    if len(set(np.array(is_lesion)[drawn > 0])) < 2:
        return float("nan")
    return float(roc_auc_score(is_lesion, [one.score for one in found], sample_weight=drawn))


def called(found: Sequence[Asked], kind: str, threshold: float) -> tuple[int, int]:
    """How many findings of a kind reach the threshold, and how many there are."""
    scores = [one.score for one in found if one.kind == kind]
    return sum(score >= threshold for score in scores), len(scores)


def measure(models: dict[str, Predictor], options: argparse.Namespace) -> dict[str, Any]:
    """Asks every model about the same phantoms."""
    found: dict[str, list[Asked]] = {name: [] for name in models}
    for case in range(options.cases):
        phantom = make_phantom(options.seed, case, options.size)
        for name, predictor in models.items():
            found[name] += ask(predictor, phantom, case)
        print(f"phantom {case + 1} of {options.cases}", file=sys.stderr, flush=True)
    everyone = np.ones(options.cases)
    samples = list(resamples(options.cases, options.seed))
    areas = {name: np.array([area(rows, weights) for weights in samples]) for name, rows in found.items()}
    first = next(iter(models))
    results = {}
    for name, predictor in models.items():
        rows = found[name]
        threshold = predictor.folder.threshold
        results[name] = {
            "model": predictor.fingerprint,
            "auc": area(rows, everyone),
            "auc_interval": percentile_interval(areas[name]).tolist(),
            "auc_gain": area(rows, everyone) - area(found[first], everyone),
            "auc_gain_interval": percentile_interval(areas[name] - areas[first]).tolist(),
            "threshold": threshold,
            "called_lesions": {kind: called(rows, kind, threshold) for kind in ("lesion", *DISTRACTORS)},
        }
    return {
        "settings": {key: getattr(options, key) for key in ("cases", "seed", "size")},
        "intervals": described(options.seed, "phantoms"),
        "results": results,
    }


def table(results: dict[str, Any]) -> Table:
    """A row a model."""
    kinds = ("lesion", *DISTRACTORS)
    columns = [Column("Model"), Column("AUC", ".3f"), Column("95 %"), Column("Gain", "+.3f"), Column("95 %")]
    columns += [Column(f"Called: {kind}") for kind in kinds]
    rows = []
    for name, one in results.items():
        counts = [f"{share} of {of}" for share, of in (one["called_lesions"][kind] for kind in kinds)]
        gain = span(one["auc_gain_interval"], "+.3f")
        rows.append((name, one["auc"], span(one["auc_interval"], ".3f"), one["auc_gain"], gain, *counts))
    title = "Lesions against look-alikes, on the slice that shows most of each; what is called a lesion"
    return Table(title, tuple(columns), tuple(rows))


def asked_for(doc: str | None, name: str) -> tuple[argparse.Namespace, dict[str, Predictor]]:
    """The command line of a benchmark that holds models with masks against unseen phantoms, and the models by name.

    Args:
        doc: What the benchmark does.
        name: Of its result.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=RUN", help="run folders of models with masks")
    parser.add_argument("--cases", type=int, default=12, help="phantoms (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=4001, help="theirs; no model has seen it (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True, help=f"for {name}.json and {name}.md")
    options = parser.parse_args()
    named = [model.partition("=") for model in options.models]
    if not all(separator for _, separator, _ in named):
        parser.error("name each model: NAME=RUN")
    return options, {name: load(run) for name, _, run in named}


def written(out: Path, name: str, content: dict[str, Any], text: str) -> None:
    """Writes a result as JSON and as Markdown, and prints it."""
    write_json(out / f"{name}.json", content | {"versions": versions(), "commit": commit()})
    write_text(out / f"{name}.md", f"```\n{text.rstrip()}\n```\n")
    print(text)


def main() -> None:
    """Asks, and writes what was said."""
    options, models = asked_for(__doc__, "lookalikes")
    content = measure(models, options)
    written(options.out, "lookalikes", content, table(content["results"]).text())


if __name__ == "__main__":
    main()
