"""Makes the weights that come with the package: phantoms, training, a test on unseen phantoms, a model card.

    python benchmarks/train_demo_weights.py work/demo-weights

The recipe is `demo` as shipped; what the options change is written on the card. After a kill the same command goes
on where it was. The weights are stored, and tested, in half precision; only when
everything is done are `config.json`, `model.safetensors` and `CARD.md` written into the package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from volattn import checkpoints
from volattn.datasets.open import open_dataset
from volattn.inference.predict import load
from volattn.inference.results import predict_files
from volattn.io.files import atomic_path, write_text
from volattn.models.config import DetectorConfig
from volattn.models.registry import build_model
from volattn.phantoms.write import write_phantoms
from volattn.preprocessing.prepare import prepare_dataset
from volattn.report.tables import case_table, size_table
from volattn.scoring.cases import Summary, score_folder, summarise
from volattn.studies.manifest import StudyManifest, claim_study
from volattn.studies.scoring import upper_bound
from volattn.training.recipe import Recipe, load_recipe

LARGEST = 16e6
"""Bytes that the weights may take in the package."""
BYTES_PER_WEIGHT = 2


@dataclass(frozen=True)
class Tested:
    """Scores on unseen phantoms.

    Attributes:
        summary: Over the cases.
        tables: Case by case and by size, as text.
        upper_bound: Mean lesion Dice per case of the reference masks themselves at the model's resolution.
    """

    summary: Summary
    tables: str
    upper_bound: float


def main() -> int:
    """Runs the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for phantoms, store, run and predictions")
    parser.add_argument("--cases", type=int, default=40, help="phantoms to train on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="theirs and the run's (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=6000, help="of training (default: %(default)s)")
    parser.add_argument("--unseen", type=int, default=10, help="phantoms to test on (default: %(default)s)")
    parser.add_argument("--unseen-seed", type=int, default=1001, help="theirs (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=512, help="pixels of a training phantom's side (default: %(default)s)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the recipe")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and prepare (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="that train together (default: %(default)s)")
    parser.add_argument(
        "-o", "--out", type=Path, default=checkpoints.DEMO, help="model folder (default: the package's)"
    )
    options = parser.parse_args()
    if options.seed == options.unseen_seed:
        parser.error("--seed and --unseen-seed must differ: the test phantoms must be unseen")
    recipe = make_recipe(options)
    check_size(recipe)
    keys = ("cases", "seed", "steps", "unseen", "unseen_seed", "size", "set", "processes")
    settings = {key: getattr(options, key) for key in keys}
    with claim_study(options.work / "weights.json", "training of the demo weights", settings, resume=True) as manifest:
        run(options, recipe, manifest)
    return 0


def run(options: argparse.Namespace, recipe: Recipe, manifest: StudyManifest) -> None:
    """Trains, tests and publishes."""
    phantoms, workers = options.work / "phantoms", options.workers
    with manifest.stage("phantoms"):
        write_phantoms(phantoms, options.cases, options.seed, size=options.size, workers=workers, progress=show)
    with manifest.stage("prepare"):
        dataset = open_dataset(phantoms)
        store = prepare_dataset(dataset, recipe.plan, options.work / "store", workers=workers, progress=show).store
    with manifest.stage("train"):
        train_together(recipe, store.path, options.work, options.processes)
    with manifest.stage("test"):
        small = options.work / "model"
        store_half(options.work / "run", small)
        tested = test(options, small)
    publish(small, options.out, card(options, recipe, tested))
    manifest.finish({"summary": tested.summary.as_json()})
    say(f"{tested.tables}\n{options.out}: written")


def make_recipe(options: argparse.Namespace) -> Recipe:
    """`demo`, as long as was asked for."""
    settings = [
        f"schedule.length={options.steps}",
        f"validation.every={max(1, options.steps // 8)}",
        f"seed={options.seed}",
        *options.set,
    ]
    return load_recipe("demo").updated(settings)


def check_size(recipe: Recipe) -> None:
    """Refuses a network that the package cannot take, before hours go into it."""
    weights = sum(one.numel() for one in build_model(recipe.model, ("liver", "lesion")).state_dict().values())
    if weights * BYTES_PER_WEIGHT > LARGEST:
        raise ValueError(
            f"the network has {weights / 1e6:.1f} million weights, {weights * BYTES_PER_WEIGHT / 1e6:.1f} MB "
            f"in half precision, and the package takes {LARGEST / 1e6:g} MB; narrow it with "
            f"--set model.backbone.width=..."
        )


def train_together(recipe: Recipe, store: Path, work: Path, processes: int) -> None:
    """Trains in so many processes, as torchrun starts them."""
    written = work / "recipe.yaml"
    write_text(written, recipe.text())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "volattn", "train", str(written), "--data", str(store), "-o", str(work / "run")]
    subprocess.run([*command, "--resume"], check=True)


def store_half(run: Path, out: Path) -> None:
    """The run's best weights in half precision; they are loaded into float32."""
    model, folder = checkpoints.load_folder(run)
    checkpoints.save_folder(out, model.half(), folder)


def test(options: argparse.Namespace, model: Path) -> Tested:
    """Predicts and scores phantoms of another seed."""
    predictor = load(model)
    unseen, predictions = options.work / "unseen", options.work / "predictions"
    # Numbered beyond the training phantoms: two cases of one name would only confuse.
    write_phantoms(
        unseen, options.unseen, options.unseen_seed, first=options.cases, workers=options.workers, progress=show
    )
    dataset = open_dataset(unseen)
    outcomes = predict_files(predictor, [unseen], predictions, reference=unseen, resume=True, progress=show)
    failed = [outcome.message for outcome in outcomes if outcome.error is not None]
    scores = score_folder(dataset, predictions, progress=show)
    if failed or scores.failed:
        raise ValueError("; ".join([*failed, *scores.failed]))
    bounds = [
        upper_bound(case, dataset.scheme, predictor.folder.plan, predictor.folder.model) for case in dataset.cases
    ]
    summary = summarise(scores.cases)
    rows = [case.as_json() for case in scores.cases]
    tables = (
        case_table(rows, organ="liver", upper_bounds=[case.lesion.dice for case in bounds]),
        size_table(summary.as_json()),
    )
    return Tested(summary, "\n".join(table.text() for table in tables), summarise(bounds).lesion.dice_per_case)


def publish(model: Path, out: Path, card: str) -> None:
    """Copies the tested model folder to where it is shipped, with its card."""
    for name in (checkpoints.WEIGHTS, checkpoints.PROVENANCE, checkpoints.CONFIG):
        with atomic_path(out / name) as temporary:
            shutil.copyfile(model / name, temporary)
    write_text(out / "CARD.md", card)


def card(options: argparse.Namespace, recipe: Recipe, tested: Tested) -> str:
    """The model card."""
    folder = checkpoints.read_folder(options.work / "model")
    megabytes = (options.work / "model" / checkpoints.WEIGHTS).stat().st_size / 1e6
    assert isinstance(folder.model, DetectorConfig)
    training, backbone, summary = folder.provenance, folder.model.backbone, tested.summary
    assert training is not None
    assert summary.organ is not None, "phantoms have livers"
    settings = " ".join(f"--set {setting}" for setting in options.set)
    command = (
        f"python benchmarks/train_demo_weights.py WORK --cases {options.cases} --seed {options.seed} "
        f"--steps {options.steps} --unseen {options.unseen} --unseen-seed {options.unseen_seed} "
        f"--size {options.size} --processes {options.processes} {settings}"
    ).rstrip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores, no GPU"
    libraries = ", ".join(f"{name} {version}" for name, version in training.versions.items())
    rows = map(json.loads, (options.work / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    hours = sum(row.get("seconds", 0) for row in rows) / 3600
    return f"""# Demo weights

A small VA Mask R-CNN that finds the liver and lesions in it: {backbone.name} of width {backbone.width},
{megabytes:.1f} MB (half precision), bags of {folder.model.bag}, {folder.plan.size} x {folder.plan.size}
pixels, slices {folder.plan.z_spacing} mm apart. `volattn demo` starts from it, and `-m demo` names it in every verb.

**It was trained on phantoms only: images made by a program, not patients.** It is there so that everything
can be tried without data. It is not fit for any use on people.

| | |
|---|---|
| command | `{command}` |
| recipe | `{training.recipe}`, seed {training.seed}; step {training.step} of {recipe.schedule.length} |
| data | {len(training.cases)} phantoms to train on, {len(training.validation)} to choose step and threshold |
| operating threshold | {folder.threshold:.2f} |
| organ | {"its largest connected part" if folder.single_organ else "all its parts"} |
| commit | {training.commit or "not under version control"} |
| machine | {platform.machine()}, {device}, {options.processes} training processes; {hours:.1f} h of steps |
| versions | {libraries} |
| store | `{training.fingerprint}` |
| licence | Apache-2.0, as the code |

## Scores

On {summary.cases} phantoms of seed {options.unseen_seed}, none of which was trained on or validated on:

- lesion Dice per case **{summary.lesion.dice_per_case:.3f}** (upper bound at this resolution:
  {tested.upper_bound:.3f});
- liver Dice per case **{summary.organ.dice_per_case:.3f}**;
- {summary.all_sizes.found} of {summary.all_sizes.lesions} lesions found, with
  {summary.false_positives_per_case:.1f} false positives per case.

```
{tested.tables.rstrip()}
```
"""


def say(text: str) -> None:
    """Prints at once, also into a file."""
    print(text, flush=True)


_printed: dict[str, int] = {}


def show(what: str, done: int, total: int) -> None:
    """Prints a line for every twentieth of the way."""
    part = 20 * done // max(1, total)
    if _printed.get(what) != part:
        _printed[what] = part
        say(f"{what}: {done} of {total}")


if __name__ == "__main__":
    sys.exit(main())
