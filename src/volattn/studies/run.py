"""A study from its data to its table: what is there is kept, what is missing is run, what failed is shown."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from volattn import checkpoints
from volattn.io.files import write_text
from volattn.io.output import LOCK, claim_folder
from volattn.preprocessing.store import Store
from volattn.studies.cell import Cell, note_failure
from volattn.studies.definition import METRICS, Options, Resolved, Study, resolve
from volattn.studies.page import write_study
from volattn.studies.runners import Progress, Runner, Share
from volattn.studies.stages import StageLog
from volattn.studies.stores import SplitConfig, check_unseen, choose_store, is_run, share_start, split_store, write_view
from volattn.studies.table import StudyRow, StudyTable, Unfinished
from volattn.training.folder import differences
from volattn.training.recipe import Recipe

MANIFEST, START = "study.json", "start.safetensors"
_TABLE_LOCK = f"{LOCK}-table"
_LINKS = "data/*/cases"


@dataclass(frozen=True)
class StudyOutcome:
    """How far a study has come.

    Attributes:
        table: `table.md`.
        cells: In all, of the rows that can be trained and of those that cannot.
        failed: The reason by cell.
        unfinished: Cells that others are to run.
    """

    table: Path
    cells: int
    failed: dict[str, str]
    unfinished: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a study's files are.

    Attributes:
        out: The study's folder.
    """

    out: Path

    @property
    def cells(self) -> Path:
        """A folder a row, in it one a seed."""
        return self.out / "cells"

    def recipe(self, row: str) -> Path:
        """A row's recipe, whole."""
        return self.out / "recipes" / f"{row}.yaml"

    def store(self, number: int) -> Path:
        """A store with the study's split."""
        return self.out / "data" / str(number)

    def seeds(self, asked: Sequence[int]) -> tuple[int, ...]:
        """The seeds that are asked for, and those that are there already."""
        there = (re.fullmatch(r"seed-(\d+)", path.name) for path in self.cells.glob("*/seed-*"))
        return tuple(sorted({*asked, *(int(match[1]) for match in there if match)}))


def run_study(
    name: str,
    study: Study,
    data: Sequence[Path],
    out: Path,
    runner: Runner,
    *,
    seeds: Sequence[int] = (0,),
    options: Options | None = None,
    split: SplitConfig | None = None,
    resume: bool = False,
    share: Share | None = None,
    source: str | None = None,
    progress: Progress | None = None,
) -> StudyOutcome:
    """Runs what is missing of a study and writes its table, anew after each cell.

    Args:
        name: The study's.
        study: What is compared.
        data: Stores; several where rows are prepared differently.
        out: The study's folder.
        runner: Where cells run.
        seeds: Of the training: a cell for each row and seed. Those of earlier runs stay in the table.
        options: What the user changes.
        split: How cases are dealt out.
        resume: Goes on with the study in the folder.
        share: Which cells are run here.
        source: The study's file, if it is none of the package.
        progress: Told what is done.

    Raises:
        ValueError: The folder holds something else, the study with other settings, or (without `resume`) this one; a
            store or a setting does not fit.
    """
    options, split, share = options or Options(), split or SplitConfig(), share or Share()
    # The processes of `torchrun` share the folder; a second study would have processes of the same ranks.
    lock = f"{LOCK}{f'-{share.rank}' if share.rank else ''}"
    with claim_folder(out, marker=MANIFEST, what="study", lock=lock, links=_LINKS):
        return _run(name, study, data, out, runner, seeds, options, split, resume, share, source, progress)


def _run(
    name: str,
    study: Study,
    data: Sequence[Path],
    out: Path,
    runner: Runner,
    seeds: Sequence[int],
    options: Options,
    split: SplitConfig,
    resume: bool,
    share: Share,
    source: str | None,
    progress: Progress | None,
) -> StudyOutcome:
    place = Place(out)
    rows: Sequence[Resolved] = resolve(study, options)
    stores = [Store.open(path) for path in data]
    _claim(place, name, study, options, split, stores, resume or share.rank > 0)
    views = [write_view(store, split_store(store, split), place.store(number)) for number, store in enumerate(stores)]
    if options.weights is not None and is_run(options.weights):
        for view in views:
            check_unseen(options.weights, view)
        rows = share_start(rows, options.weights, views[0].classes, out / START)
    table = _Table(place, name, study, _command(source or name, data, options, split), seeds=place.seeds(seeds))
    cells: list[Cell] = []
    for resolved in rows:
        stored, reason = _prepare_row(place, resolved, views)
        for seed in table.seeds:
            cell = table.add(resolved.row.key, seed, stored)
            if stored is None:
                cell.folder.mkdir(parents=True, exist_ok=True)
                note_failure(cell, reason)
            elif seed in seeds and cell.result is None:
                cells.append(cell)
    # Seed by seed: a table with all rows and one seed says more than one with one row and all seeds.
    cells.sort(key=lambda cell: seeds.index(cell.seed))
    table.write()
    runner(share.of_cells(cells), lambda cell: table.write(), progress or _silent)
    return table.outcome(seeds)


def _command(study: str, data: Sequence[Path], options: Options, split: SplitConfig) -> str:
    """What gives this study, but for its seeds and its folder."""
    words = ["volattn", "study", study]
    for path in data:
        words += ["--data", str(path)]
    for option, value in (("--recipe", options.recipe), ("--weights", options.weights)):
        words += [] if value is None else [option, value]
    default = SplitConfig()
    for setting in options.settings:
        words += ["--set", setting]
    for option, share, usual in (
        ("--split-seed", split.seed, default.seed),
        ("--test", split.test, default.test),
        ("--validation", split.validation, default.validation),
    ):
        words += [] if share == usual else [option, str(share)]
    return shlex.join(words)


def _silent(what: str, done: int, total: int) -> None:
    pass


def _claim(
    place: Place, name: str, study: Study, options: Options, split: SplitConfig, stores: Sequence[Store], resume: bool
) -> None:
    path = place.out / MANIFEST
    if path.is_file() and not resume:
        raise ValueError(
            f"{place.out}: holds a study already; give --resume to go on with it or to add seeds, or another folder"
        )
    weights = options.weights
    if weights is not None and is_run(weights):
        weights = f"{weights} ({checkpoints.fingerprint(weights)[:12]})"
    settings: dict[str, Any] = {
        "study": name,
        "definition": hashlib.sha256(study.text().encode()).hexdigest()[:12],
        "recipe": options.recipe,
        "weights": weights,
        "settings": list(options.settings),
        "split": split.model_dump(),
        "data": [store.fingerprint[:12] for store in stores],
    }
    StageLog.claim(path, "study", settings)


def _prepare_row(place: Place, resolved: Resolved, views: Sequence[Store]) -> tuple[Store | None, str]:
    """The row's store, its recipe being written; or why there is none.

    Raises:
        ValueError: The row was begun with another recipe.
    """
    recipe, path = resolved.recipe, place.recipe(resolved.row.key)
    if recipe is None:
        return None, resolved.reason
    if path.is_file():
        changed = differences(Recipe.read(path).model_dump(mode="json"), recipe.model_dump(mode="json"))
        if changed:
            raise ValueError(
                f"{place.out}: row {resolved.row.key} was begun with another recipe ({changed[0]}); give another folder"
            )
    else:
        write_text(path, recipe.text())
    try:
        return choose_store(views, recipe.plan, path), ""
    except ValueError as error:
        return None, str(error)


class _Table:
    """The cells of a study, and the table that is written of them."""

    def __init__(self, place: Place, name: str, study: Study, command: str, seeds: tuple[int, ...]) -> None:
        self.place, self.name, self.study, self.command, self.seeds = place, name, study, command, seeds
        self.cells: dict[str, list[Cell]] = {row.key: [] for row in study.runnable}

    def add(self, row: str, seed: int, store: Store | None) -> Cell:
        """One more cell; without a store it cannot be run."""
        cell = Cell(
            row,
            seed,
            self.place.cells / row / f"seed-{seed}",
            self.place.recipe(row),
            self.place.store(0) if store is None else store.path,
            self.study.kind,
        )
        self.cells[row].append(cell)
        return cell

    def write(self) -> None:
        """Writes the table of what is there now."""
        # Of two processes of one study the last to write has seen all.
        with FileLock(self.place.out / _TABLE_LOCK):
            write_study(self.place.out, self._content())

    def outcome(self, seeds: Sequence[int]) -> StudyOutcome:
        """How far it is."""
        cells = [cell for row in self.cells.values() for cell in row if cell.seed in seeds]
        left = [cell for cell in cells if cell.result is None]
        failed = {cell.name: reason for cell in left if (reason := cell.failure) is not None}
        unfinished = tuple(cell.name for cell in left if cell.name not in failed)
        return StudyOutcome(self.place.out / "table.md", len(cells), failed, unfinished)

    def _content(self) -> StudyTable:
        study = self.study
        known = METRICS[study.kind]
        rows = []
        for row in study.rows:
            cells = self.cells.get(row.key, [])
            results: Mapping[int, dict[str, Any]] = {
                cell.seed: result for cell in cells if (result := cell.result) is not None
            }
            rows.append(
                StudyRow(
                    key=row.key,
                    title=row.title,
                    paper=row.paper,
                    baseline=None if row.published else study.baseline_of(row),
                    results=results,
                    unfinished=tuple(Unfinished(cell.seed, cell.failure) for cell in cells if cell.seed not in results),
                    published=row.published,
                )
            )
        return StudyTable(
            name=self.name,
            title=study.title,
            question=study.question,
            paper=study.paper,
            kind=study.kind,
            metrics={name: known[name] for name in study.metrics},
            rows=tuple(rows),
            notes=study.notes,
            command=self.command,
            seeds=self.seeds,
        )
