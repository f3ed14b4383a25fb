"""A cell: one row of a table with one seed, trained and scored; killed at any moment it goes on where it was."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ConfigDict, Field, model_validator

from volattn import checkpoints
from volattn.config import Config
from volattn.inference.predict import find_device
from volattn.io.files import read_json, write_json
from volattn.io.output import sweep
from volattn.models.bag_backbone import BagBackbone
from volattn.models.cost import measure
from volattn.preprocessing.store import Store
from volattn.provenance import commit, versions
from volattn.scoring.cases import CaseScore
from volattn.scoring.pool import ScoredImage
from volattn.scoring.score_files import Image, ReferenceLesion
from volattn.studies.definition import Kind
from volattn.studies.scoring import HeldOut
from volattn.studies.stores import TEST, cases_of, check_unseen
from volattn.training.folder import read_metrics
from volattn.training.recipe import load_recipe
from volattn.training.run import train
from volattn.training.validate import CaseResult, examine

Progress = Callable[[str, int, int], None]

RESULT, FAILED, RUN, TESTED, PEAK = "cell.json", "failed.json", "run", "test", "peak.json"


class _Part(Config):
    model_config = ConfigDict(extra="ignore")


@dataclass(frozen=True)
class Cell:
    """One row with one seed.

    Attributes:
        row: The row's key.
        seed: Of the training.
        folder: The cell's own.
        recipe: File of the row's recipe.
        store: Folder of the store, whose parts are the study's split.
        kind: What is scored.
    """

    row: str
    seed: int
    folder: Path
    recipe: Path
    store: Path
    kind: Kind

    @property
    def name(self) -> str:
        """How it is called."""
        return f"{self.row} seed {self.seed}"

    def command(self, weights: str) -> str:
        """What trains the same weights, given in the study's folder.

        Args:
            weights: Of the recipe.
        """
        study = self.folder.parents[2]
        recipe, store, run = (str(path.relative_to(study)) for path in (self.recipe, self.store, self.folder / RUN))
        words = ["volattn", "train", recipe, "--data", store, "-o", run, "--set", f"seed={self.seed}"]
        if Path(weights).is_relative_to(study):
            words += ["--weights", str(Path(weights).relative_to(study))]
        return shlex.join(words)

    @property
    def result(self) -> dict[str, Any] | None:
        """What it came to; None before it is finished."""
        path = self.folder / RESULT
        return _read(path, _Result) if path.is_file() else None

    @property
    def failure(self) -> str | None:
        """Why it failed the last time; None if it did not."""
        path = self.folder / FAILED
        return _read(path, _Failed)["reason"] if path.is_file() else None

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        """The other way round."""
        paths = {key: Path(values[key]) for key in ("folder", "recipe", "store")}
        return cls(**{**values, **paths})


class _Overlap(_Part):
    dice: float


class _MaskScores(_Part):
    organ: _Overlap | None
    lesion: _Overlap
    reference_lesions: list[ReferenceLesion]
    false_positives: int


class _Tested(_Part):
    """A held-out case: label maps or boxes."""

    name: str
    patient: str
    score: _MaskScores | None = None
    images: list[Image] | None = None
    seconds: float = 0.0
    entropies: dict[str, float]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.score is None) == (self.images is None):
            raise ValueError("needs either score or images")
        return self


class _Result(_Part):
    """`cell.json`."""

    row: str
    seed: int
    kind: Kind
    command: str
    steps: int
    best_step: int
    targets: int
    parameters: int
    flops: int
    train_seconds: float
    test_seconds: float
    peak_bytes: int | None
    threshold: float
    validation: dict[str, float]
    versions: dict[str, str]
    commit: str | None
    cases: list[_Tested] = Field(min_length=1)


class _Failed(_Part):
    reason: str


class _Peak(_Part):
    bytes: int = Field(ge=0)


def _read(path: Path, model: type[_Part]) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path)
    try:
        model.parse(content, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; delete the file, and it is made again") from None
    return content


def run_cell(cell: Cell, *, cpu: bool = False, alone: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Trains a cell and scores its held-out cases.

    Training resumes from its last saved state, scored cases are kept, and the result is written last.

    Args:
        cell: The cell.
        cpu: Leaves a GPU alone.
        alone: Whether nothing else ran in this process, so that its peak of memory is the cell's.
        progress: Called with ("train", steps, steps) and so on.

    Returns:
        What is written to `cell.json`.

    Raises:
        ValueError: See `train`.
    """
    recipe = load_recipe(cell.recipe).model_copy(update={"seed": cell.seed})
    store = Store.open(cell.store)
    check_unseen(recipe.weights, store)
    (cell.folder / FAILED).unlink(missing_ok=True)
    sweep(cell.folder, below=True)
    trained = train(recipe, cell.store, cell.folder / RUN, resume=True, cpu=cpu, progress=progress)
    device = find_device("cpu" if cpu else "auto")
    tested = _test(cell, store, device, recipe.validation.batch, progress)
    cost = measure(recipe.model, store.classes, recipe.plan.size, memory=False)
    steps = [row for row in read_metrics(cell.folder / RUN) if "loss" in row]
    content = {
        "row": cell.row,
        "seed": cell.seed,
        "kind": cell.kind,
        "command": cell.command(recipe.weights),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "targets": sum(row["targets"] for row in steps),
        "parameters": cost.parameters,
        "flops": cost.flops,
        "train_seconds": round(sum(row["seconds"] for row in steps), 1),
        "test_seconds": round(sum(case["seconds"] for case in tested), 1),
        "peak_bytes": _peak(cell.folder / PEAK, device, alone),
        "threshold": trained.validation.threshold,
        "validation": trained.validation.scores,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
        "cases": [{key: value for key, value in case.items() if key != "seconds"} for case in tested],
    }
    write_json(cell.folder / RESULT, content)
    return content


def note_failure(cell: Cell, reason: str) -> None:
    """Writes down why a cell failed."""
    write_json(cell.folder / FAILED, {"row": cell.row, "seed": cell.seed, "reason": reason})


def _test(
    cell: Cell, store: Store, device: torch.device, batch: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """The scores of every held-out case; those that are there are kept."""
    names = cases_of(store.parts, TEST)
    done = {name: path for name in names if (path := cell.folder / TESTED / f"{name}.json").is_file()}
    if len(done) < len(names):
        model, folder = checkpoints.load_folder(cell.folder / RUN)
        model.to(device)
        measured = HeldOut(cell.kind, folder)
        for name in names:
            if name not in done:
                done[name] = _test_one(cell, store, model, measured, name, device, batch)
            if progress is not None:
                progress("test", len(done), len(names))
    return [_read(done[name], _Tested) for name in names]


def _test_one(
    cell: Cell, store: Store, model: BagBackbone, measured: HeldOut, name: str, device: torch.device, batch: int
) -> Path:
    began = time.monotonic()
    examined = examine(measured, model, store, name, device, batch=batch)
    path = cell.folder / TESTED / f"{name}.json"
    content = {
        "name": name,
        "patient": (store.patients or {}).get(name, name),
        "seconds": round(time.monotonic() - began, 3),
        "entropies": examined.entropies,
        **_scores(examined),
    }
    write_json(path, content)
    return path


def _scores(examined: CaseResult) -> dict[str, Any]:
    if isinstance(examined.finding, CaseScore):
        return {"score": examined.finding.as_json()}
    images: list[ScoredImage] = sorted(examined.finding, key=lambda image: image.name)
    return {"images": [image.as_json() for image in images]}


def _peak(path: Path, device: torch.device, alone: bool) -> int | None:
    """The most memory that any session of a cell held, bytes; None where it cannot be told from other cells'."""
    if device.type == "cuda":
        now = torch.cuda.max_memory_allocated(device)
    elif alone and find_spec("resource") is not None:
        import resource  # not on Windows

        # Linux counts KiB, macOS bytes.
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    else:
        return None
    before = _read(path, _Peak)["bytes"] if path.is_file() else 0
    write_json(path, {"bytes": max(now, before)})
    return max(now, before)
