"""The run folder: what a run writes beside its states, and what keeps two runs out of one folder."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict

from volattn.config import Config
from volattn.datasets.splits import Split
from volattn.io.atomic import append_line, write_json, write_text
from volattn.io.files import read_json_lines
from volattn.io.names import shown
from volattn.io.output import sweep
from volattn.provenance import commit, versions
from volattn.training.recipe import Recipe

RECIPE, SPLIT, MANIFEST, METRICS = "recipe.yaml", "split.json", "manifest.json", "metrics.jsonl"
LAST, STATES = "last.safetensors", "resume"


class _Manifest(Config):
    """`manifest.json`: what a run was begun with, and each time it was."""

    seed: int
    fingerprint: str
    processes: int
    sessions: tuple[dict[str, Any], ...]


class _Row(Config):
    """A line of `metrics.jsonl`, of a step (with a loss) or of a validation."""

    model_config = ConfigDict(extra="ignore")
    step: int
    loss: float | None = None
    targets: int = 0
    seconds: float = 0.0


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; one that a kill cut short is left out.

    Raises:
        ValueError: The file cannot be read, or a line is none that a run writes.
    """
    path = run / METRICS
    rows = read_json_lines(path)
    for number, row in enumerate(rows, start=1):
        _Row.parse(row, f"{path}: line {number}")
    return rows


class RunFolder:
    """A folder that one run owns.

    `config.json` and `model.safetensors` (the best weights) make it a model folder, `last.safetensors` holds
    the last weights, `metrics.jsonl` a line for each step and validation, and `resume/` what a killed run
    goes on from.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def claim(
        cls, path: Path, recipe: Recipe, split: Split, fingerprint: str, processes: int, resume: bool
    ) -> Self:
        """Makes a folder for a new run, or finds one that this very run has begun.

        Args:
            path: The folder.
            recipe: The run's.
            split: The run's.
            fingerprint: Of the store.
            processes: That train together.
            resume: Whether the folder may hold the run already.

        Raises:
            ValueError: The folder holds a run and `resume` is false, or it holds another run.
        """
        folder = cls(path)
        begun = (path / MANIFEST).is_file()
        if begun and not resume:
            raise ValueError(
                f"{path}: holds a run already; give --resume to go on with it, or another folder"
            )
        facts = {"seed": recipe.seed, "fingerprint": fingerprint, "processes": processes}
        if begun:
            folder._check_same(recipe, split, facts)
            sweep(path, below=True)
        # First the manifest, which makes the folder ours: whatever follows may be cut short by a kill.
        folder._note_session(facts)
        for name, text in ((RECIPE, recipe.text()), (SPLIT, split.text("json"))):
            if not (path / name).is_file():
                write_text(path / name, text)
        return folder

    def _check_same(self, recipe: Recipe, split: Split, facts: dict[str, Any]) -> None:
        if (self.path / RECIPE).is_file():
            changed = differences(Recipe.read(self.path / RECIPE).model_dump(), recipe.model_dump())
            if changed:
                raise ValueError(
                    f"{self.path}: was begun with another recipe ({changed[0]}); resume it with its own"
                )
        if (self.path / SPLIT).is_file() and Split.read(self.path / SPLIT) != split:
            raise ValueError(
                f"{self.path}: was begun with other cases or another fold; resume it with its own"
            )
        manifest = _Manifest.read(self.path / MANIFEST).model_dump()
        for key, value in facts.items():
            if manifest[key] != value:
                raise ValueError(
                    f"{self.path}: was begun with {key} {shown(manifest[key])}, now it is {value}; "
                    f"resume it as it was, or start another run"
                )

    def _note_session(self, facts: dict[str, Any]) -> None:
        path = self.path / MANIFEST
        begun = _Manifest.read(path).sessions if path.is_file() else ()
        manifest = {**facts, "sessions": list(begun)}
        manifest["sessions"].append(
            {
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": sys.argv,
                "commit": commit(),
                "versions": versions(),
            }
        )
        write_json(path, manifest)

    def forget_after(self, step: int) -> None:
        """Drops the metrics of steps that will be taken again, and a line that a kill cut short."""
        path = self.path / METRICS
        rows = read_metrics(self.path) if path.is_file() else []
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line to the metrics."""
        append_line(self.path / METRICS, json.dumps(row))


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Which values of two nested mappings differ, as "key: old, now new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            found
            for key in keys
            for found in differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
        ]
    return [] if old == new else [f"{place}: {old}, now {new}"]
