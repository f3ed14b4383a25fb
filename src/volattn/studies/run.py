"""A study from its data to its table: finished runs are kept, missing ones are trained, failed ones are listed."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from volattn import checkpoints
from volattn.io.files import write_text
from volattn.io.output import LOCK
from volattn.preprocessing.store import Store
from volattn.studies.definition import Overrides, RowRecipe, Study, resolve
from volattn.studies.executor import Executor
from volattn.studies.manifest import claim_study
from volattn.studies.page import write_study
from volattn.studies.stores import SplitConfig, check_unseen, choose_store, is_run, share_start, split_store, write_view
from volattn.studies.study_run import StudyRun
from volattn.studies.table import StudyRow, StudyTable
from volattn.training.folder import differences
from volattn.training.recipe import Recipe
from volattn.workers import Progress

MANIFEST = "study.json"
_LINKS = "data/*/cases"


@dataclass(frozen=True)
class StudyOutcome:
    """How far a study has come: `table.md`, how many runs it has, why some failed, and which other processes train."""

    table: Path
    runs: int
    failed: dict[str, str]
    unfinished: tuple[str, ...]


def run_study(
    name: str,
    study: Study,
    data: Sequence[Path],
    out: Path,
    executor: Executor,
    *,
    seeds: Sequence[int] = (0,),
    overrides: Overrides | None = None,
    split: SplitConfig | None = None,
    resume: bool = False,
    source: str | None = None,
    progress: Progress | None = None,
) -> StudyOutcome:
    """Trains and tests what is missing of a study, and writes its table again after each run.

    Args:
        data: Stores; several where rows are prepared differently.
        seeds: Of the training: a run for each row and seed. Those of earlier calls stay in the table.
        resume: Whether the folder may hold this study already.
        source: The study's file, if it is none of the package.
        progress: Called with what is being done, how much of it is done and how much there is.

    Raises:
        ValueError: The folder holds something else, the study with other settings, or (without `resume`) this one; a
            store or a setting does not fit.
    """
    overrides, split = overrides or Overrides(), split or SplitConfig()
    rows: Sequence[RowRecipe] = resolve(study, overrides)
    stores = [Store.open(path) for path in data]
    # The processes of `torchrun` share the folder; a second study would have processes of the same ranks.
    rank = executor.shard.rank
    with claim_study(
        out / MANIFEST,
        "study",
        _settings(name, study, overrides, split, stores),
        resume=resume or rank > 0,
        lock=f"{LOCK}-{rank}" if rank else LOCK,
        links=_LINKS,
    ):
        views = [
            write_view(store, split_store(store, split), out / "data" / str(number))
            for number, store in enumerate(stores)
        ]
        if overrides.weights is not None and is_run(overrides.weights):
            for view in views:
                check_unseen(overrides.weights, view)
            rows = share_start(rows, overrides.weights, views[0].classes, out / "start.safetensors")
        table = _Table(out, name, study, _command(source or name, data, overrides, split), _with_earlier(seeds, out))
        missing: list[StudyRun] = []
        for row in rows:
            recipe = out / "recipes" / f"{row.row.key}.yaml"
            store, reason = _prepare_row(out, row, recipe, views)
            for seed in table.seeds:
                run = table.add(row.row.key, seed, recipe, (store or views[0]).path)
                if store is None:
                    run.note_failure(reason)
                elif seed in seeds and run.result is None:
                    missing.append(run)
        # Seed by seed: a table with all rows and one seed says more than one with one row and all seeds.
        missing.sort(key=lambda run: seeds.index(run.seed))
        table.write()
        for _ in executor.run(missing, progress):
            table.write()
        return table.outcome(seeds)


def _with_earlier(seeds: Sequence[int], out: Path) -> tuple[int, ...]:
    """The seeds that are asked for, and those of earlier calls."""
    found = (re.fullmatch(r"seed-(\d+)", path.name) for path in out.glob("runs/*/seed-*"))
    return tuple(sorted({*seeds, *(int(match[1]) for match in found if match)}))


def _settings(
    name: str, study: Study, overrides: Overrides, split: SplitConfig, stores: Sequence[Store]
) -> dict[str, Any]:
    """What decides the results, but for the seeds."""
    weights = overrides.weights
    if weights is not None and is_run(weights):
        weights = f"{weights} ({checkpoints.fingerprint(weights)[:12]})"
    return {
        "study": name,
        "definition": hashlib.sha256(study.text().encode()).hexdigest()[:12],
        "recipe": overrides.recipe,
        "weights": weights,
        "settings": list(overrides.settings),
        "split": split.model_dump(),
        "data": [store.fingerprint[:12] for store in stores],
    }


def _command(study: str, data: Sequence[Path], overrides: Overrides, split: SplitConfig) -> str:
    """What runs this study, but for its seeds and its folder."""
    words = ["volattn", "study", study]
    for path in data:
        words += ["--data", str(path)]
    for option, value in (("--recipe", overrides.recipe), ("--weights", overrides.weights)):
        words += [] if value is None else [option, value]
    for setting in overrides.settings:
        words += ["--set", setting]
    default = SplitConfig()
    for option, key in (("--split-seed", "seed"), ("--test", "test"), ("--validation", "validation")):
        value = getattr(split, key)
        words += [] if value == getattr(default, key) else [option, str(value)]
    return shlex.join(words)


def _prepare_row(out: Path, row: RowRecipe, path: Path, views: Sequence[Store]) -> tuple[Store | None, str]:
    """Writes a row's recipe and gives its store, or why there is none.

    Raises:
        ValueError: The row was started with another recipe.
    """
    recipe = row.recipe
    if recipe is None:
        return None, row.reason
    if path.is_file():
        changed = differences(Recipe.read(path).model_dump(mode="json"), recipe.model_dump(mode="json"))
        if changed:
            raise ValueError(
                f"{out}: row {row.row.key} was started with another recipe ({changed[0]}); give another folder"
            )
    else:
        write_text(path, recipe.text())
    try:
        return choose_store(views, recipe.plan, path), ""
    except ValueError as error:
        return None, str(error)


class _Table:
    """The runs of a study, and the table that is written of them."""

    def __init__(self, out: Path, name: str, study: Study, command: str, seeds: tuple[int, ...]) -> None:
        self.out, self.name, self.study, self.command, self.seeds = out, name, study, command, seeds
        self.runs: dict[str, list[StudyRun]] = {row.key: [] for row in study.rows}

    def add(self, row: str, seed: int, recipe: Path, store: Path) -> StudyRun:
        run = StudyRun(row, seed, self.out / "runs" / row / f"seed-{seed}", recipe, store, self.study.kind)
        self.runs[row].append(run)
        return run

    def write(self) -> None:
        """Writes the table of the results so far."""
        # Of two processes of one study the last to write has seen all.
        with FileLock(self.out / f"{LOCK}-table"):
            rows = []
            for row in self.study.rows:
                results = {run.seed: result for run in self.runs[row.key] if (result := run.result) is not None}
                unfinished = {run.seed: run.failure for run in self.runs[row.key] if run.seed not in results}
                rows.append(StudyRow(row, results, unfinished))
            write_study(self.out, StudyTable(self.name, self.study, tuple(rows), self.command, self.seeds))

    def outcome(self, seeds: Sequence[int]) -> StudyOutcome:
        runs = [run for row in self.runs.values() for run in row if run.seed in seeds]
        left = [run for run in runs if run.result is None]
        failed = {run.name: reason for run in left if (reason := run.failure) is not None}
        unfinished = tuple(run.name for run in left if run.name not in failed)
        return StudyOutcome(self.out / "table.md", len(runs), failed, unfinished)
