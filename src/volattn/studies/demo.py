"""The demo: phantoms, a short training, predictions of unseen cases, their scores, and a page that shows them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from volattn import checkpoints
from volattn.checkpoints import ModelFolder
from volattn.config import Config
from volattn.datasets.case import Case, Dataset
from volattn.datasets.open import open_dataset
from volattn.datasets.phantom.write import write_phantoms
from volattn.evaluation.cases import CaseScore, score_case
from volattn.evaluation.folders import score_folder
from volattn.evaluation.summary import Summary, summarise
from volattn.inference.predict import load
from volattn.inference.results import Files, predict_files
from volattn.io.atomic import write_json
from volattn.io.nifti import read_labels
from volattn.preprocessing.prepare import prepare_dataset
from volattn.provenance import commit, versions
from volattn.studies.ceiling import perfect_labels
from volattn.training.recipe import Recipe, load_recipe
from volattn.training.run import train

Progress = Callable[[str, int, int], None]
Announce = Callable[[str], None]

WEIGHTS = "demo"
MANIFEST = "demo.json"

LESION_BAR = 0.45
"""Mean lesion Dice per case that weights trained on two CPU cores must reach; a GPU's would have to reach 0.60."""
LIVER_BAR = 0.93
"""Mean liver Dice per case."""


class DemoConfig(Config):
    """The size of the demo; the values here take a few minutes on two cores.

    Attributes:
        seed: Of the phantoms and of the training.
        training: Phantoms that are trained on, some of which are kept for validation.
        unseen: Phantoms that are predicted and scored.
        size: Rows and columns of their slices.
        steps: Of training.
        lr: Its learning rate.
    """

    seed: int = Field(7, ge=0)
    training: int = Field(6, ge=2)
    unseen: int = Field(4, ge=1)
    size: int = Field(512, ge=64)
    steps: int = Field(60, ge=1)
    lr: float = Field(1e-4, gt=0)


@dataclass(frozen=True)
class Bar:
    """A score and what it must reach.

    Attributes:
        name: Of the score.
        value: The score.
        least: What it must reach.
        kept: What the reference masks themselves keep of it at the model's resolution.
    """

    name: str
    value: float
    least: float
    kept: float

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.least

    @property
    def verdict(self) -> str:
        """In words."""
        return f"bar {self.least:.2f}: {'met' if self.met else 'MISSED'}"


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to.

    Attributes:
        folder: Where everything is.
        cases: Scores of the unseen phantoms.
        kept: Scores of the reference masks themselves at the model's resolution, in the same order.
        summary: Of `cases`.
        kept_summary: Of `kept`.
        failed: One line for each phantom that could not be predicted or scored.
        seconds: By stage, over all runs in this folder.
        losses: Of the training's steps.
    """

    folder: Path
    cases: tuple[CaseScore, ...]
    kept: tuple[CaseScore, ...]
    summary: Summary
    kept_summary: Summary
    failed: tuple[str, ...]
    seconds: dict[str, float]
    losses: tuple[float, ...]

    @property
    def bars(self) -> tuple[Bar, Bar]:
        """The scores that the demo is held against."""
        found, kept = self.summary, self.kept_summary
        assert found.organ is not None and kept.organ is not None, "phantoms have livers"
        return (
            Bar("Lesion Dice per case", found.lesion.dice_per_case, LESION_BAR, kept.lesion.dice_per_case),
            Bar("Liver Dice per case", found.organ.dice_per_case, LIVER_BAR, kept.organ.dice_per_case),
        )

    def picture(self, case: CaseScore) -> Path:
        """The picture that prediction drew of a case."""
        return Files.of(self.folder / "predictions", case.name).picture


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
        ValueError: The folder holds something else or a demo with other settings, the phantoms of this seed are
            those that the shipped weights learned from, or no case could be predicted.
    """
    config = config or DemoConfig()
    out = Path(out)
    say = announce or (lambda text: None)
    folder = checkpoints.read_folder(WEIGHTS)
    log = _Log.claim(out, {**config.model_dump(), "weights": checkpoints.fingerprint(WEIGHTS)})

    count = config.training + config.unseen
    with log.stage("phantoms"):
        say(f"1/5  Making {count} phantoms: synthetic abdominal CT, no patients")
        write_phantoms(
            out / "phantoms", count, config.seed, size=config.size, workers=workers, progress=progress
        )
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
        say(f"3/5  Training for {config.steps} steps, from the weights that come with the package")
        train(
            _recipe(config, folder), prepared.store.path, out / "run", resume=True, progress=progress, announce=say
        )
    with log.stage("predict"):
        say(f"4/5  Predicting {config.unseen} phantoms that the model has never seen")
        outcomes = predict_files(
            load(out / "run"),
            [case.image for case in unseen.cases],
            out / "predictions",
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
        kept = tuple(_kept(by_name[score.name], dataset, folder) for score in scores.cases)

    result = DemoResult(
        folder=out,
        cases=scores.cases,
        kept=kept,
        summary=summarise(scores.cases),
        kept_summary=summarise(kept),
        failed=(*(one.message for one in outcomes if one.error is not None), *scores.failed),
        seconds=log.seconds,
        losses=_losses(out / "run"),
    )
    log.finish(result)
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
        "validation.fraction": 1 / 3,
        "validation.cases": 2,
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
                    f"{case.image}: the shipped weights were trained on this phantom, so that seed {seed} tests "
                    f"nothing; give another seed"
                )


def _kept(case: Case, dataset: Dataset, folder: ModelFolder) -> CaseScore:
    """What the reference itself keeps at the model's resolution."""
    assert case.labels is not None
    labels = read_labels(case.labels)
    canonical = labels.canonical()
    return score_case(
        case.name,
        dataset.scheme.normalise(canonical.array),
        perfect_labels(labels, dataset.scheme, folder.plan, folder.model),
        canonical.geometry,
    )


def _losses(run: Path) -> tuple[float, ...]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return tuple(row["loss"] for row in rows if "loss" in row)


class _Log:
    """The manifest: whose folder it is, how long each stage took, what came of it."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @classmethod
    def claim(cls, out: Path, settings: dict[str, Any]) -> _Log:
        """Makes the folder ours, or sees that it is."""
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out}: is a file; give a folder for the demo")
        path = out / MANIFEST
        if not path.is_file():
            if out.is_dir() and any(out.iterdir()):
                raise ValueError(f"{out}: is not empty and holds no demo; give another folder")
            log = cls(path, {"settings": settings, "seconds": {}})
            log.write()
            return log
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            before, _ = content["settings"], content["seconds"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: is not a demo's manifest ({error}); delete the folder") from None
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            raise ValueError(
                f"{out}: holds a demo with another {changed[0]} ({before.get(changed[0])}, now "
                f"{settings[changed[0]]}); give another folder or delete this one"
            )
        return cls(path, content)

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, over all runs in this folder."""
        return self.content["seconds"]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Notes how long a stage takes, also one that is interrupted."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 1)
            self.write()

    def finish(self, result: DemoResult) -> None:
        """Adds the scores."""
        self.content["scores"] = {
            "summary": result.summary.as_json(),
            "cases": [case.as_json() for case in result.cases],
            "reference_at_model_resolution": result.kept_summary.as_json(),
            "bars": [
                {"name": bar.name, "value": bar.value, "least": bar.least, "met": bar.met} for bar in result.bars
            ],
            "failed": list(result.failed),
        }
        self.content["versions"] = versions()
        self.content["commit"] = commit()
        self.write()

    def write(self) -> None:
        """Writes the manifest."""
        write_json(self.path, self.content)
