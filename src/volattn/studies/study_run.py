"""One row of a table with one seed, trained and tested; after a kill it goes on where it was."""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ConfigDict, Field, model_validator

from volattn import checkpoints
from volattn.config import Config
from volattn.faults import explain
from volattn.inference.predict import find_device
from volattn.io.files import read_json, write_json
from volattn.io.output import sweep
from volattn.models.cost import measure
from volattn.preprocessing.store import Store
from volattn.provenance import commit, versions
from volattn.scoring.cases import CaseScore
from volattn.scoring.lesions import LesionScore
from volattn.scoring.pool import ScoredImage
from volattn.studies.definition import Kind
from volattn.studies.scoring import TestEvaluator
from volattn.studies.stores import TEST, cases_of, check_unseen
from volattn.training.folder import read_metrics
from volattn.training.recipe import load_recipe
from volattn.training.run import train
from volattn.training.validate import evaluate_case
from volattn.workers import Progress, report_progress

RESULT, FAILED, TRAINED, TESTED, PEAK, LOG = "result.json", "failed.json", "train", "test", "peak.json", "log.txt"
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class StudyRun:
    """One row (its key) with one seed: its folder in a study's folder (`runs/ROW/seed-N`), recipe and split store."""

    row: str
    seed: int
    folder: Path
    recipe: Path
    store: Path
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.row} seed {self.seed}"

    def command(self, weights: str) -> str:
        """What trains the same weights (the recipe's: `weights`), given in the study's folder."""
        study = self.folder.parents[2]
        recipe, store, run = (str(path.relative_to(study)) for path in (self.recipe, self.store, self.folder / TRAINED))
        words = ["volattn", "train", recipe, "--data", store, "-o", run, "--set", f"seed={self.seed}"]
        if Path(weights).is_relative_to(study):
            words += ["--weights", str(Path(weights).relative_to(study))]
        return shlex.join(words)

    @property
    def result(self) -> dict[str, Any] | None:
        """Its `result.json`; None before it is finished."""
        path = self.folder / RESULT
        return _read(path, _Result) if path.is_file() else None

    @property
    def failure(self) -> str | None:
        """Why it failed the last time; None if it did not."""
        path = self.folder / FAILED
        return _read(path, _Failed)["reason"] if path.is_file() else None

    def note_failure(self, reason: str) -> None:
        """Writes down why it failed."""
        write_json(self.folder / FAILED, {"row": self.row, "seed": self.seed, "reason": reason})


class _Part(Config):
    model_config = ConfigDict(extra="ignore")


class _Overlap(_Part):
    dice: float


class _MaskScores(_Part):
    organ: _Overlap | None
    lesion: _Overlap
    reference_lesions: list[LesionScore]
    false_positives: int


class _TestedCase(_Part):
    """A test case: label maps have a score, boxes have images."""

    name: str
    patient: str
    score: _MaskScores | None = None
    images: list[ScoredImage] | None = None
    seconds: float = 0.0
    entropies: dict[str, float]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.score is None) == (self.images is None):
            raise ValueError("needs either score or images")
        return self


class _Result(_Part):
    command: str
    targets: int
    parameters: int
    flops: int
    train_seconds: float
    test_seconds: float
    peak_bytes: int | None
    versions: dict[str, str]
    commit: str | None
    cases: list[_TestedCase] = Field(min_length=1)


class _Failed(_Part):
    reason: str


class _Peak(_Part):
    bytes: int = Field(ge=0)


def _read(path: Path, model: type[_Part]) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path)
    try:
        model.parse(content, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; delete the file, and it is written again") from None
    return content


def attempt(run: StudyRun, *, device: str = "auto", threads: int | None = None) -> None:
    """Trains and tests a run; why it failed is noted in its folder, and costs no other run.

    Args:
        device: As in `train`.
        threads: That a process of the run's own may use; None where it shares a process.
    """
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        if threads is not None:
            _prepare_process(run.folder / LOG, threads)
        train_and_test(
            run,
            device=device,
            own_process=threads is not None,
            progress=lambda what, done, total: report_progress(f"{run.name}: {what}", done, total),
        )
    except Exception as error:
        if threads is not None:
            traceback.print_exc()
        run.note_failure(explain(error))


def _prepare_process(log: Path, threads: int) -> None:
    with log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for name in _TORCHRUN:
        os.environ.pop(name, None)
    torch.set_num_threads(threads)


def train_and_test(
    run: StudyRun, *, device: str = "auto", own_process: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Trains a run, scores its test cases, and gives the content of `result.json`, which is written last.

    Training resumes from its last saved state, and scored cases are kept.

    Args:
        own_process: Whether nothing else ran in this process, so that its peak of memory is the run's.

    Raises:
        ValueError: See `train`.
    """
    recipe = load_recipe(run.recipe).model_copy(update={"seed": run.seed})
    store = Store.open(run.store)
    check_unseen(recipe.weights, store)
    (run.folder / FAILED).unlink(missing_ok=True)
    sweep(run.folder, below=True)
    trained = train(recipe, run.store, run.folder / TRAINED, resume=True, device=device, progress=progress)
    place = find_device(device)
    cases = _test(run, store, place, recipe.validation.batch, progress)
    cost = measure(recipe.model, store.classes, recipe.plan.size, memory=False)
    steps = [row for row in read_metrics(run.folder / TRAINED) if "loss" in row]
    content = {
        "row": run.row,
        "seed": run.seed,
        "kind": run.kind,
        "command": run.command(recipe.weights),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "targets": sum(row["targets"] for row in steps),
        "parameters": cost.parameters,
        "flops": cost.flops,
        "train_seconds": round(sum(row["seconds"] for row in steps), 1),
        "test_seconds": round(sum(case["seconds"] for case in cases), 1),
        "peak_bytes": _peak(run.folder / PEAK, place, own_process),
        "threshold": trained.validation.threshold,
        "validation": trained.validation.scores,
        "device": place.type,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
        "cases": [{key: value for key, value in case.items() if key != "seconds"} for case in cases],
    }
    write_json(run.folder / RESULT, content)
    return content


def _test(
    run: StudyRun, store: Store, device: torch.device, batch: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """The scores of every test case; those that are there are kept."""
    paths = {name: run.folder / TESTED / f"{name}.json" for name in cases_of(store.subsets, TEST)}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        model, folder = checkpoints.load_folder(run.folder / TRAINED)
        model.to(device)
        evaluator = TestEvaluator(run.kind, folder)
        for done, name in enumerate(missing, start=len(paths) - len(missing) + 1):
            started = time.monotonic()
            result = evaluate_case(evaluator, model, store, name, device, batch=batch)
            if isinstance(result.stats, CaseScore):
                scores: dict[str, Any] = {"score": result.stats.as_json()}
            else:
                images: list[ScoredImage] = sorted(result.stats, key=lambda image: image.name)
                scores = {"images": [image.as_json() for image in images]}
            content = {
                "name": name,
                "patient": (store.patients or {}).get(name, name),
                "seconds": round(time.monotonic() - started, 3),
                "entropies": result.entropies,
                **scores,
            }
            write_json(paths[name], content)
            if progress is not None:
                progress("test", done, len(paths))
    return [_read(path, _TestedCase) for path in paths.values()]


def _peak(path: Path, device: torch.device, own_process: bool) -> int | None:
    """The most memory that any process of a run held, bytes; None where other runs' cannot be told apart."""
    if device.type == "cuda":
        now = torch.cuda.max_memory_allocated(device)
    elif own_process and find_spec("resource") is not None:
        import resource  # not on Windows

        # Linux counts KiB, macOS bytes.
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    else:
        return None
    peak = max(now, _read(path, _Peak)["bytes"] if path.is_file() else 0)
    write_json(path, {"bytes": peak})
    return peak
