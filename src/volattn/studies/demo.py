"""The demo: phantoms, a short training, predictions of unseen phantoms, their scores and a page of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from volattn import checkpoints
from volattn.checkpoints import ModelFolder
from volattn.config import Config
from volattn.datasets.case import Dataset
from volattn.datasets.open import open_dataset
from volattn.inference.predict import load
from volattn.inference.prediction import Files
from volattn.inference.results import predict_files
from volattn.io.files import sha256
from volattn.io.names import count_of
from volattn.phantoms.write import write_phantoms
from volattn.preprocessing.prepare import prepare_dataset
from volattn.scoring.cases import score_folder, summarise
from volattn.studies.demo_report import DemoResult, build_page
from volattn.studies.manifest import StudyManifest, claim_study
from volattn.studies.scoring import upper_bound
from volattn.training.folder import read_metrics
from volattn.training.recipe import Recipe, load_recipe
from volattn.training.run import train
from volattn.workers import Progress

Announce = Callable[[str], None]

WEIGHTS = "demo"
MANIFEST = "demo.json"


class DemoConfig(Config):
    """The size of the demo; the defaults take a few minutes on two cores.

    Attributes:
        seed: Of the phantoms and of the training.
        training: Phantoms to train on; a quarter of them, at least one, is kept for validation.
        unseen: Phantoms that are predicted and scored.
        size: Rows and columns of their slices.
        steps: Of training.
        lr: Learning rate. The weights were trained to its end: 1e-4 costs lesion Dice on phantoms of another seed
            (0.548 to 0.542).
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
    resume: bool = False,
    progress: Progress | None = None,
    announce: Announce | None = None,
) -> DemoResult:
    """Runs the demo from end to end.

    Args:
        out: Folder for everything: phantoms, store, run, predictions and the manifest.
        config: Its size.
        workers: Processes that make and prepare phantoms.
        resume: Whether the folder may hold this demo already, which then goes on where it was stopped.
        progress: Called with what is being done, how much of it is done and how much there is.
        announce: Called with each line for the user.

    Raises:
        ValueError: The folder holds something else, a demo with other settings or (without `resume`) this one, the
            shipped weights were trained on the phantoms of this seed, or no case could be predicted.
    """
    config = config or DemoConfig()
    settings = {**config.model_dump(), "weights": checkpoints.fingerprint(WEIGHTS)}
    with claim_study(Path(out) / MANIFEST, "demo", settings, resume=resume) as manifest:
        return _run(Path(out), config, manifest, workers, progress, announce or (lambda text: None))


def _run(
    out: Path, config: DemoConfig, manifest: StudyManifest, workers: int, progress: Progress | None, say: Announce
) -> DemoResult:
    folder = checkpoints.read_folder(WEIGHTS)
    count = config.training + config.unseen
    with manifest.stage("phantoms"):
        say(f"1/5  Making {count_of(count, 'phantom')}: synthetic abdominal CT, no patients")
        write_phantoms(out / "phantoms", count, config.seed, size=config.size, workers=workers, progress=progress)
        dataset = open_dataset(out / "phantoms")
        _check_unseen(dataset, folder, config.seed)
    training, unseen = (
        replace(dataset, cases=cases)
        for cases in (dataset.cases[: config.training], dataset.cases[config.training : count])
    )

    with manifest.stage("prepare"):
        say(f"2/5  Preparing {config.training} of them for training")
        prepared = prepare_dataset(training, folder.plan, out / "store", workers=workers, progress=progress)
    with manifest.stage("train"):
        say(f"3/5  Training for {count_of(config.steps, 'step')}, from the weights that come with the package")
        train(_recipe(config, folder), prepared.store.path, out / "run", resume=True, progress=progress, announce=say)
    with manifest.stage("predict"):
        say(f"4/5  Predicting {count_of(config.unseen, 'phantom')} that the model has never seen")
        outcomes = predict_files(
            load(out / "run"),
            [case.image for case in unseen.cases],
            out / "predictions",
            # The weights' own threshold: it was chosen on more cases than the demo has.
            threshold=folder.threshold,
            reference=out / "phantoms",
            resume=True,
            progress=progress,
        )
    with manifest.stage("score"):
        say("5/5  Scoring them against their references")
        done = {outcome.name for outcome in outcomes if outcome.error is None}
        predicted = tuple(case for case in unseen.cases if case.name in done)
        scores = score_folder(replace(unseen, cases=predicted), out / "predictions", progress=progress)
        by_name = {case.name: case for case in predicted}
        upper_bounds = tuple(
            upper_bound(by_name[score.name], dataset.scheme, folder.plan, folder.model) for score in scores.cases
        )

    result = DemoResult(
        page=out / "index.html",
        cases=scores.cases,
        upper_bounds=upper_bounds,
        pictures=tuple(Files.of(out / "predictions", case.name, masks=True).picture for case in scores.cases),
        summary=summarise(scores.cases),
        upper_bound=summarise(upper_bounds),
        failed=(*(one.message for one in outcomes if one.error is not None), *scores.failed),
        seconds=manifest.seconds,
        losses=_losses(out / "run"),
        settings=manifest.content["settings"],
    )
    build_page(result).write(result.page)
    manifest.finish(result.as_json())
    return result


def _recipe(config: DemoConfig, folder: ModelFolder) -> Recipe:
    """The recipe of the shipped weights, with a few steps that show training and change little."""
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


def _check_unseen(dataset: Dataset, folder: ModelFolder, seed: int) -> None:
    """Refuses phantoms that the weights were trained on: their scores would be no test."""
    for case in dataset.cases:
        if folder.provenance is not None and folder.provenance.seen(sha256(case.image)) is not None:
            raise ValueError(
                f"{case.image}: the shipped weights were trained on this phantom, so that seed {seed} "
                f"is no test; give another seed"
            )


def _losses(run: Path) -> tuple[float, ...]:
    return tuple(row["loss"] for row in read_metrics(run) if "loss" in row)
