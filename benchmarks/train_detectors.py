"""Detectors of boxes with volumetric attention, trained and tested on key slices of phantoms.

    python benchmarks/train_detectors.py WORK -o docs/results/detectors

One cohort in DeepLesion's layout, with its own split of patients into train, val and test. Every detector is trained on
train by a recipe of the package, and val chooses step and threshold. The key slices of test are then predicted and
scored as `volattn predict` and `volattn evaluate deeplesion` do it. After a kill the same command goes on
where it was; `--only` trains some of the detectors, and what was trained before in WORK stays in the results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from train_demo_weights import say, show, train_together

from volattn.datasets.case import Dataset
from volattn.datasets.deeplesion import TABLE
from volattn.datasets.open import open_dataset
from volattn.inference.key_slices import predict_key_slices
from volattn.inference.predict import load
from volattn.io.files import write_json, write_text
from volattn.phantoms.write import write_phantoms
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.store import Store
from volattn.provenance import versions
from volattn.report.pages import Column, Table, span
from volattn.scoring.deeplesion import score_deeplesion
from volattn.studies.manifest import StudyManifest, claim_study
from volattn.training.recipe import Recipe, load_recipe

RECIPES = ("tiny-boxes", "tiny-deformable", "tiny-retinanet")
COHORT = ("cases", "seed", "size")
ASKED = 0.5
"""Sensitivity at one false positive an image."""
ASKED_MINUTES = 30


def main() -> int:
    """Runs the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for phantoms, store, runs and predictions")
    parser.add_argument("--only", nargs="+", default=RECIPES, choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--cases", type=int, default=420, help="phantoms in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=11, help="theirs and the runs' (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1200, help="of each training (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that train together (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the recipes")
    parser.add_argument("-o", "--out", type=Path, help="folder for detectors.json and README.md")
    options = parser.parse_args()
    recipes = {name: make_recipe(name, options) for name in options.only}
    settings = {key: getattr(options, key) for key in COHORT}
    with claim_study(options.work / "detectors.json", "training of detectors", settings, resume=True) as manifest:
        return 0 if run(options, recipes, manifest) else 1


def run(options: argparse.Namespace, recipes: dict[str, Recipe], manifest: StudyManifest) -> bool:
    """Trains and tests the detectors; whether all do what was asked."""
    with manifest.stage("phantoms"):
        write_phantoms(
            options.work / "phantoms",
            options.cases,
            options.seed,
            size=options.size,
            kind="deeplesion",
            workers=2,
            progress=show,
        )
    dataset = open_dataset(options.work / "phantoms")
    with manifest.stage("prepare"):
        plan = load_recipe(RECIPES[0]).plan
        store = prepare_dataset(dataset, plan, options.work / "store", workers=2, progress=show).store
    results: dict[str, Any] = dict(manifest.content.get("results", {}))
    for name, recipe in recipes.items():
        if name in results:
            continue
        folder = options.work / name
        folder.mkdir(exist_ok=True)
        with manifest.stage(name):
            train_together(recipe, store.path, folder, options.processes)
        with manifest.stage(f"{name} on test"):
            scores = test(folder, dataset)
        results[name] = {
            **scores,
            **trained(folder / "run"),
            "steps": options.steps,
            "processes": options.processes,
            "set": [setting.replace(str(options.work), "WORK") for setting in options.set],
            "minutes": manifest.seconds[name] / 60,
        }
        manifest.finish({name: results[name] for name in RECIPES if name in results})
    results = manifest.content["results"]
    say(table(results).text())
    if options.out is not None:
        content = {"commands": commands(options, results), "store": store.fingerprint, **manifest.content}
        write_json(options.out / "detectors.json", content)
        write_text(options.out / "README.md", report(options, store, results))
    return all(map(met, results.values()))


def make_recipe(name: str, options: argparse.Namespace) -> Recipe:
    """A shipped recipe, its step shared out among the processes."""
    recipe = load_recipe(name)
    settings = [
        f"schedule.length={options.steps}",
        f"validation.every={max(1, options.steps // 4)}",
        f"seed={options.seed}",
        f"step.slabs={max(1, recipe.step.slabs // options.processes)}",
        *options.set,
    ]
    return recipe.updated(settings)


def test(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Predicts and scores the key slices of the part that neither trained nor chose anything."""
    unseen = dataset.only(("test",))
    predictor = load(folder / "run")
    provenance = predictor.folder.provenance
    assert provenance is not None
    known = {*provenance.cases, *provenance.validation}
    assert not known & {case.name for case in unseen.cases}
    found = predict_key_slices(predictor, unseen, folder / "predictions", resume=True, progress=show)
    if found.failed:
        raise ValueError("; ".join(found.failed.values()))
    scores = score_deeplesion(dataset.root / TABLE, found.csv, subset="test").content
    left_out = ("kind", "settings", "split", "failed", "cases")
    return {key: value for key, value in scores.items() if key not in left_out}


def trained(run: Path) -> dict[str, Any]:
    """What the run itself says."""
    predictor = load(run)
    training = predictor.folder.provenance
    assert training is not None
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    (entropies,) = (row["entropies"] for row in rows if row["step"] == training.step and "entropies" in row)
    sessions = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["sessions"]
    return {
        "commits": sorted({one["commit"] or "unknown" for one in sessions}),
        "parameters": sum(one.numel() for one in predictor.model.parameters()),
        "trained_on": len(training.cases),
        "validated_on": len(training.validation),
        "best_step": training.step,
        "threshold": predictor.folder.threshold,
        "entropies": entropies,
    }


def at_one(scores: dict[str, Any]) -> Any:
    """Of measures or of their intervals."""
    return scores["sensitivity_at_fp_per_image"]["1"]


def met(one: dict[str, Any]) -> bool:
    """Whether a detector does what was asked, in the time that was given."""
    return at_one(one) >= ASKED and one["minutes"] <= ASKED_MINUTES


def table(results: dict[str, Any]) -> Table:
    """One row a detector."""
    rows = tuple(
        (
            name,
            one["parameters"] / 1e6,
            one["minutes"],
            one["steps"],
            one["best_step"],
            at_one(one),
            span(at_one(one["intervals"]), ".3f"),
            one["mean_sensitivity"],
            one["ap50"],
        )
        for name, one in results.items()
    )
    columns = (
        Column("recipe"),
        Column("weights, M", ".1f"),
        Column("minutes", ".0f"),
        Column("steps", "d"),
        Column("best", "d"),
        Column("sensitivity at 1", ".3f"),
        Column("95 %"),
        Column("mean, 0.5 to 4", ".3f"),
        Column("AP50", ".3f"),
    )
    return Table("Key slices of unseen phantoms; sensitivity at false positives an image", columns, rows)


def commands(options: argparse.Namespace, results: dict[str, Any]) -> list[str]:
    """What gives these numbers again, by training."""
    cohort = [f"--{key} {getattr(options, key)}" for key in COHORT]
    found = []
    for name, one in results.items():
        words = [*cohort, f"--steps {one['steps']}", f"--processes {one['processes']}"]
        words += [f"--set {setting}" for setting in one["set"]]
        found.append(f"python benchmarks/train_detectors.py WORK {' '.join(words)} --only {name}")
    return found


def trained_at(results: dict[str, Any]) -> str:
    """The commits that each detector was trained at."""
    return ", ".join(
        f"{name} {' '.join(commit[:12] for commit in found['commits'])}" for name, found in results.items()
    )


def report(options: argparse.Namespace, store: Store, results: dict[str, Any]) -> str:
    """The page beside the numbers."""
    one = next(iter(results.values()))
    missed = [name for name, found in results.items() if not met(found)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"""# Detectors of boxes on key slices of phantoms

{chr(10).join("    " + line for line in commands(options, results))}

{options.cases} phantoms in DeepLesion's layout (`volattn phantom --kind deeplesion`, seed {options.seed},
{options.size} px), split by patient: {one["trained_on"]} key slices to train on, {one["validated_on"]} to choose step
and threshold, {one["images"]} to test on, with {one["lesions"]} lesions of {one["patients"]} patients. Every detector
has volumetric attention over N = 3 and starts from nothing, or from the run that its command names (its backbone,
pyramid and attention; the minutes are then beyond that run's). Asked of each: sensitivity {ASKED} at one false positive
an image, after at most {ASKED_MINUTES} minutes on two cores. The minutes are those of the whole training, start and
validations included; the intervals are by bootstrap over patients.

```
{table(results).text().rstrip()}
```

{f"Missed by {', '.join(missed)}." if missed else "Met by all."}

Machine: {platform.machine()}, {os.cpu_count()} CPU cores, {device}.
Commits of the trainings: {trained_at(results)}; store `{store.fingerprint[:16]}`, {libraries}.
By size and type of the lesions, and all the rest: [detectors.json](detectors.json).
"""


if __name__ == "__main__":
    sys.exit(main())
