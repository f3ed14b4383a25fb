"""Whether a network can learn at all: it is trained on one phantom, and scored on it.

    python benchmarks/fit_one_phantom.py WORK --model va_unet

The network is that of the model's recipe for phantoms. Nothing is moved, the phantom chooses the threshold, and the
lesion Dice of the predicted files must reach 0.8. Every step is the command that a user would type. Killed at any
moment and called again it goes on where it was. The result goes into docs/results/fit.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from volattn.datasets.case import LESION
from volattn.datasets.open import open_dataset
from volattn.io.files import write_json, write_text
from volattn.phantoms import make_phantom
from volattn.provenance import commit, versions
from volattn.scoring.cases import score_folder, summarise
from volattn.studies.stages import StageLog
from volattn.training.recipe import Recipe, load_recipe

BAR = 0.80
RECIPES = {
    "unet_2d": "tiny-unet",
    "va_unet": "tiny-va-unet",
    "unet_3d": "tiny-unet-3d",
    "h_dense_unet": "tiny-h-dense-unet",
    "residual_unet_25d": "tiny-residual-unet",
    "cascade": "tiny-cascade",
    "mask_rcnn": "tiny",
}


def main() -> int:
    """Runs the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for phantom, store, run and prediction; one a model")
    parser.add_argument("--model", choices=RECIPES, required=True)
    parser.add_argument("--steps", type=int, default=800, help="of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=5, help="the phantom's (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels of its side (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the recipe")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/results/fit"))
    options = parser.parse_args()
    if not (make_phantom(options.seed, 0, options.size).labels == LESION).any():
        parser.error(f"the phantom of seed {options.seed} at {options.size} px has no lesion to learn; give another")
    settings = {key: getattr(options, key) for key in ("model", "steps", "seed", "size", "set")}
    work = options.work
    log = StageLog.claim(work / "fit.json", "fit of one phantom", settings)
    recipe = make_recipe(options)
    write_text(work / "recipe.yaml", recipe.text())
    phantom, store, run, found = (work / name for name in ("phantom", "store", "run", "prediction"))
    with log.stage("phantom"):
        volattn("phantom", "-o", phantom, "--cases", 1, "--seed", options.seed, "--size", options.size)
    with log.stage("prepare"):
        volattn("prepare", phantom, "-o", store, "--recipe", work / "recipe.yaml")
    with log.stage("train"):
        volattn("train", work / "recipe.yaml", "--data", store, "-o", run, "--resume")
    with log.stage("predict"):
        volattn("predict", "-m", run, "-i", phantom, "-o", found, "--resume")
    with log.stage("score"):
        dice = summarise(score_folder(open_dataset(phantom), found).cases).lesion.dice_per_case
    log.finish({"lesion_dice": dice})
    result = {
        "lesion_dice": round(dice, 4),
        "asked": BAR,
        **settings,
        "seconds": log.seconds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "versions": versions(),
        "commit": commit(),
    }
    write_json(options.out / f"{options.model}.json", result)
    print(f"{options.model}: lesion Dice {dice:.3f} after {options.steps} steps (asked {BAR})")
    return 0 if dice >= BAR else 1


def make_recipe(options: argparse.Namespace) -> Recipe:
    """The model's recipe for phantoms, on a single case that trains and chooses the threshold."""
    recipe = load_recipe(RECIPES[options.model]).model_copy(update={"augment": None})
    return recipe.updated(
        [
            f"schedule.length={options.steps}",
            f"validation.every={max(1, options.steps // 4)}",
            "validation.fraction=0",
            *options.set,
        ]
    )


def volattn(*arguments: object) -> None:
    """Runs a command."""
    print("$ volattn", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "volattn", *map(str, arguments)], check=True)


if __name__ == "__main__":
    sys.exit(main())
