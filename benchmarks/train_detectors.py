"""Detectors of boxes with volumetric attention, trained and tested on key slices of phantoms.

    python benchmarks/train_detectors.py WORK -o docs/results/detectors

One cohort in DeepLesion's layout, with its own split of patients into train, val and test. Every detector is trained on
train by a recipe of the package, val chooses step and threshold, and the key slices of test are scored as DeepLesion's
are. Killed at any moment and called again it goes on where it was; so does `--only` with another name.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from train_demo_weights import say, tell, train_together

from volattn import checkpoints
from volattn.datasets.open import open_dataset
from volattn.datasets.phantom.write import write_phantoms
from volattn.io.atomic import write_json
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.store import Store
from volattn.provenance import commit, versions
from volattn.reporting.tables import Column, Table
from volattn.studies.stages import StageLog
from volattn.training.recipe import Recipe, load_recipe
from volattn.training.run import choose_measure
from volattn.training.validate import validate

RECIPES = ("tiny-boxes", "tiny-deformable", "tiny-retinanet")
ASKED = 0.5
"""Sensitivity at one false positive an image."""


def main() -> int:
    """Runs the stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder for phantoms, store and runs")
    parser.add_argument("--only", nargs="+", default=RECIPES, choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--cases", type=int, default=420, help="phantoms in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=11, help="theirs and the runs' (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="of each training (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that train together (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the recipes")
    parser.add_argument("-o", "--out", type=Path, help="folder for results.json")
    options = parser.parse_args()
    keys = ("cases", "seed", "size", "steps", "processes", "set")
    log = StageLog.claim(
        options.work / "detectors.json",
        "training of detectors",
        {key: getattr(options, key) for key in keys},
    )
    with log.stage("phantoms"):
        write_phantoms(
            options.work / "phantoms",
            options.cases,
            options.seed,
            size=options.size,
            kind="deeplesion",
            workers=2,
            progress=tell,
        )
    with log.stage("prepare"):
        plan = load_recipe(RECIPES[0]).plan
        dataset = open_dataset(options.work / "phantoms")
        store = prepare_dataset(dataset, plan, options.work / "store", workers=2, progress=tell).store
    results: dict[str, Any] = {}
    for name in options.only:
        folder = options.work / name
        folder.mkdir(exist_ok=True)
        recipe = make_recipe(name, options)
        with log.stage(name):
            train_together(recipe, store.path, folder, options.processes)
        with log.stage(f"{name} on test"):
            results[name] = {**test(folder / "run", store, recipe), "minutes": minutes(folder / "run")}
        say(f"{name}: {results[name]['scores']}")
    say(table(results).text())
    if options.out is not None:
        write_json(options.out / "results.json", manifest(options, store, results))
    return 0 if all(one["scores"]["sensitivity_at_1"] >= ASKED for one in results.values()) else 1


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


def test(run: Path, store: Store, recipe: Recipe) -> dict[str, Any]:
    """Scores the best weights on key slices that neither trained nor chose anything."""
    model, folder = checkpoints.load_folder(run)
    names = [name for name in store.names if store.parts[name] == "test"]
    assert not {*names} & {*folder.training.cases, *folder.training.validation}
    accelerator = Accelerator(cpu=True)
    found = validate(choose_measure(recipe, store), model, store, names, accelerator, progress=tell)
    return {
        "scores": found.scores,
        "key_slices": len(names),
        "lesions": sum(case["lesions"] for case in found.cases.values()),
        "best_step": folder.training.step,
        "parameters": sum(one.numel() for one in model.parameters()),
        "entropies": found.entropies,
        "trained_on": len(folder.training.cases),
    }


def minutes(run: Path) -> float:
    """Of training steps, without validations."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return sum(row.get("seconds", 0) for row in rows) / 60


def table(results: dict[str, Any]) -> Table:
    """One row a detector."""
    rows = tuple(
        (
            name,
            one["parameters"] / 1e6,
            one["minutes"],
            one["best_step"],
            one["scores"]["sensitivity_at_1"],
            one["scores"]["mean_sensitivity"],
            one["scores"]["ap50"],
        )
        for name, one in results.items()
    )
    columns = (
        Column("recipe"),
        Column("weights, M", ".1f"),
        Column("minutes", ".0f"),
        Column("best step", "d"),
        Column("sensitivity at 1", ".3f"),
        Column("mean, 0.5 to 4", ".3f"),
        Column("AP50", ".3f"),
    )
    return Table("Key slices of unseen phantoms; sensitivity at false positives an image", columns, rows)


def manifest(options: argparse.Namespace, store: Store, results: dict[str, Any]) -> dict[str, Any]:
    """What another person needs to get these numbers."""
    command = [f"--{key} {getattr(options, key)}" for key in ("cases", "seed", "size", "steps", "processes")]
    command += [f"--set {setting}" for setting in options.set]
    return {
        "command": f"python benchmarks/train_detectors.py WORK {' '.join(command)}",
        "commit": commit(),
        "versions": versions(),
        "store": store.fingerprint,
        "results": results,
    }


if __name__ == "__main__":
    sys.exit(main())
