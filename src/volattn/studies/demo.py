"""The demo: phantoms, a short training, predictions of unseen cases, their scores, a page of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from volattn import checkpoints
from volattn.checkpoints import ModelFolder
from volattn.config import Config
from volattn.datasets.case import Dataset
from volattn.datasets.open import open_dataset
from volattn.inference.predict import load
from volattn.inference.results import Files, predict_files
from volattn.io.names import count_of
from volattn.io.output import claim_folder
from volattn.phantoms.write import write_phantoms
from volattn.preprocessing.prepare import prepare_dataset
from volattn.scoring.cases import score_folder, summarise
from volattn.studies.demo_report import DemoResult, build_page
from volattn.studies.scoring import score_perfect
from volattn.studies.stages import StageLog
from volattn.training.folder import read_metrics
from volattn.training.recipe import Recipe, load_recipe
from volattn.training.run import train

Progress = Callable[[str, int, int], None]
Announce = Callable[[str], None]

WEIGHTS = "demo"
MANIFEST = "demo.json"


class DemoConfig(Config):
    """The size of the demo; the values here take a few minutes on two cores.

    Attributes:
        seed: Of the phantoms and of the training.
        training: Phantoms to train on; a quarter of them, at least one, is kept for validation.
        unseen: Phantoms that are predicted and scored.
        size: Rows and columns of their slices.
        steps: Of training.
        lr: Its learning rate. The weights were trained until it had come to nothing: 1e-4 costs lesion Dice on phantoms
            of another seed (0.548 to 0.542).
    """

    seed: int = Field(7, ge=0)
    training: int = Field(4, ge=2)
    unseen: int = Field(8, ge=1)
    size: int = Field(512, ge=64)
    steps: int = Field(50, ge=1)
    lr: float = Field(2e-5, gt=0)


def run_demo(
    out: Path | str,
    *,
    config: DemoConfig | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    announce: Announce | None = None,
) -> DemoResult:
    """Runs the demo from end to end; killed at any moment and called again it goes on where it was.

    Args:
        out: Folder for everything: phantoms, store, run, predictions and the manifest.
        config: Its size.
        workers: Processes that make and prepare phantoms.
        progress: Called with what is being done, how much of it is done and how much there is.
        announce: Told in words what comes next and what training says of itself.

    Raises:
        ValueError: The folder holds something else or a demo with other settings, the phantoms of this seed
            are those that the shipped weights learned from, or no case could be predicted.
    """
    config = config or DemoConfig()
    out = Path(out)
    say = announce or (lambda text: None)
    folder = checkpoints.read_folder(WEIGHTS)
    settings = {**config.model_dump(), "weights": checkpoints.fingerprint(WEIGHTS)}
    with claim_folder(out, marker=MANIFEST, what="demo"):
        log = StageLog.claim(out / MANIFEST, "demo", settings)
        return _run(out, config, folder, settings, log, workers, progress, say)


def _run(
    out: Path,
    config: DemoConfig,
    folder: ModelFolder,
    settings: dict[str, Any],
    log: StageLog,
    workers: int,
    progress: Progress | None,
    say: Announce,
) -> DemoResult:
    count = config.training + config.unseen
    with log.stage("phantoms"):
        say(f"1/5  Making {count_of(count, 'phantom')}: synthetic abdominal CT, no patients")
        write_phantoms(out / "phantoms", count, config.seed, size=config.size, workers=workers, progress=progress)
        dataset = open_dataset(out / "phantoms")
        _refuse_known(dataset, folder, config.seed)
    training, unseen = (
        replace(dataset, cases=cases)
        for cases in (dataset.cases[: config.training], dataset.cases[config.training : count])
    )

    with log.stage("prepare"):
        say(f"2/5  Preparing {config.training} of them for training")
        prepared = prepare_dataset(training, folder.plan, out / "store", workers=workers, progress=progress)
    with log.stage("train"):
        say(f"3/5  Training for {count_of(config.steps, 'step')}, from the weights that come with the package")
        train(_recipe(config, folder), prepared.store.path, out / "run", resume=True, progress=progress, announce=say)
    with log.stage("predict"):
        say(f"4/5  Predicting {count_of(config.unseen, 'phantom')} that the model has never seen")
        outcomes = predict_files(
            load(out / "run"),
            [case.image for case in unseen.cases],
            out / "predictions",
            # Chosen on more cases than the demo has.
            threshold=folder.threshold,
            reference=out / "phantoms",
            resume=True,
            progress=progress,
        )
    with log.stage("score"):
        say("5/5  Scoring them against their references")
        done = {outcome.name for outcome in outcomes if outcome.error is None}
        predicted = tuple(case for case in unseen.cases if case.name in done)
        scores = score_folder(replace(unseen, cases=predicted), out / "predictions", progress=progress)
        by_name = {case.name: case for case in predicted}
        kept = tuple(
            score_perfect(by_name[score.name], dataset.scheme, folder.plan, folder.model) for score in scores.cases
        )

    result = DemoResult(
        page=out / "index.html",
        cases=scores.cases,
        kept=kept,
        pictures=tuple(Files.of(out / "predictions", case.name, masks=True).picture for case in scores.cases),
        summary=summarise(scores.cases),
        kept_summary=summarise(kept),
        failed=(*(one.message for one in outcomes if one.error is not None), *scores.failed),
        seconds=log.seconds,
        losses=_losses(out / "run"),
        settings=settings,
    )
    build_page(result).write(result.page)
    log.finish(result.as_json())
    return result


def _recipe(config: DemoConfig, folder: ModelFolder) -> Recipe:
    """The recipe of the shipped weights, cut short: enough to see training, too little to forget anything."""
    recipe = load_recipe("tiny").model_copy(
        update={"model": folder.model, "plan": folder.plan, "weights": WEIGHTS, "seed": config.seed}
    )
    settings = {
        "schedule.length": config.steps,
        "schedule.warmup": min(10, config.steps // 4),
        "optimiser.lr": config.lr,
        # One validation, at the end: its time is better spent on steps.
        "validation.every": config.steps,
        "validation.fraction": 0.25,
        "validation.cases": 1,
        "save_every": 20,
    }
    return recipe.updated([f"{key}={value}" for key, value in settings.items()])


def _refuse_known(dataset: Dataset, folder: ModelFolder, seed: int) -> None:
    """A score on phantoms that made the weights would be no test."""
    known = set(folder.training.sources.values())
    for case in dataset.cases:
        with case.image.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() in known:
                raise ValueError(
                    f"{case.image}: the shipped weights were trained on this phantom, so that seed {seed} "
                    f"tests nothing; give another seed"
                )


def _losses(run: Path) -> tuple[float, ...]:
    return tuple(row["loss"] for row in read_metrics(run) if "loss" in row)
