"""The run folder: what a run writes beside its states, and what keeps two runs out of one folder.

From which a killed run goes on: tensors in safetensors, the rest in JSON, and one of them always whole.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ConfigDict, Field
from safetensors.torch import save
from torch.optim import Optimizer

from volattn.checkpoints import WEIGHTS, load_weights_file, save_weights
from volattn.config import Config
from volattn.datasets.splits import Split
from volattn.io.files import append_line, atomic_path, read_json_lines, read_text, write_json, write_text
from volattn.io.names import shown
from volattn.io.output import sweep
from volattn.models.bag_backbone import BagBackbone
from volattn.models.weights import check_finite, read_tensors
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
    def claim(cls, path: Path, recipe: Recipe, split: Split, fingerprint: str, processes: int, resume: bool) -> Self:
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
            raise ValueError(f"{path}: holds a run already; give --resume to go on with it, or another folder")
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
                raise ValueError(f"{self.path}: was begun with another recipe ({changed[0]}); resume it with its own")
        if (self.path / SPLIT).is_file() and Split.read(self.path / SPLIT) != split:
            raise ValueError(f"{self.path}: was begun with other cases or another fold; resume it with its own")
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


_POINTER = "latest"
_OPTIMISER = "optimiser.safetensors"
_NUMBERS = "state.json"


@dataclass
class Progress:
    """How far a run has come, beside its tensors.

    Attributes:
        step: Steps taken, and so the number of the next.
        best: The validation that chose the best weights, as plain values; None before the first.
        seconds: Spent on training so far.
        scaler: Of fp16's gradient scaling; None without.
        optimiser: What the optimiser keeps beside tensors, by parameter number and name.
    """

    step: int = 0
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    scaler: dict[str, Any] | None = None
    optimiser: dict[str, Any] = field(default_factory=dict)


class _Best(Config):
    """`Validation`, and the step behind it."""

    step: int = Field(ge=0)
    scores: dict[str, float]
    threshold: float
    cases: dict[str, dict[str, float | None]]
    entropies: dict[str, float]
    single_organ: bool


class _State(Config):
    """`Progress`, as it is written."""

    step: int = Field(ge=0)
    best: _Best | None
    seconds: float = Field(ge=0)
    scaler: dict[str, Any] | None
    optimiser: dict[str, Any]


def save_state(folder: Path, model: BagBackbone, optimiser: Optimizer, progress: Progress) -> None:
    """Writes a new state beside the old one, points to it, and removes the old one.

    Whatever the moment of a kill, the pointer names a whole state.

    Args:
        folder: The states' own; made if it is not there.
        model: Its weights.
        optimiser: Its momenta.
        progress: The rest. Its `optimiser` is filled in here.
    """
    name = _name(progress.step)
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    save_weights(place / WEIGHTS, model)
    tensors, progress.optimiser = _split(optimiser)
    with atomic_path(place / _OPTIMISER) as temporary:
        temporary.write_bytes(save(tensors))  # `save_file` does not say that a disk is full.
    write_json(place / _NUMBERS, asdict(progress))
    write_text(folder / _POINTER, name + "\n")
    remove_other_states(folder, progress.step)


def remove_other_states(folder: Path, step: int) -> None:
    """Removes the states of all steps but one: older ones, and what a kill left of one or of its removal.

    Args:
        folder: The states' own; need not be there.
        step: Whose state stays.
    """
    for other in folder.iterdir() if folder.is_dir() else ():
        if other.is_dir() and other.name != _name(step):
            shutil.rmtree(other)


def _name(step: int) -> str:
    return f"{step:09d}"


def has_state(folder: Path) -> bool:
    """Whether there is a state to go on from."""
    return (folder / _POINTER).is_file()


def load_state(folder: Path, model: BagBackbone, optimiser: Optimizer) -> Progress:
    """Puts the last saved state into a model and an optimiser of the same make.

    Raises:
        ValueError: The state is damaged or of another network.
    """
    name = read_text(folder / _POINTER, 100).strip()
    place = folder / name
    try:
        if not re.fullmatch(r"\d{9,}", name):
            raise ValueError(f"{folder / _POINTER}: names {shown(name)}, which is no state")
        load_weights_file(place / WEIGHTS, model)
        found = _State.read(place / _NUMBERS)
        tensors = read_tensors(place / _OPTIMISER)
        check_finite(place / _OPTIMISER, tensors)
        state = _joined({**tensors, **found.optimiser}, optimiser, place / _OPTIMISER)
    except ValueError as error:
        raise ValueError(f"{error}; it cannot be read as a training state, start the run again") from None
    progress = Progress(**found.model_dump())
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return progress


def _joined(values: dict[str, Any], optimiser: Optimizer, path: Path) -> dict[int, dict[str, Any]]:
    """What `_split` parted, by parameter number."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in values.items():
        number, _, name = key.partition(".")
        place = int(number) if number.isdecimal() and len(number) < 9 else len(parameters)
        fits = place < len(parameters) and name
        if fits and isinstance(value, torch.Tensor) and value.dim():
            fits = value.shape == parameters[place].shape
        if not fits:
            raise ValueError(f"{path}: {shown(key)} fits no parameter of the network")
        state.setdefault(place, {})[name] = value
    return state


def _split(optimiser: Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors and as values that JSON can say; the settings are the recipe's."""
    tensors, values = {}, {}
    for number, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().contiguous()
            else:
                values[f"{number}.{name}"] = value
    return tensors, values
