"""The run folder: its files, the check that it belongs to a run, and the state from which a killed run is resumed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from safetensors.torch import save
from torch.optim import Optimizer

from volattn.checkpoints import WEIGHTS, load_weights_file, save_weights
from volattn.config import Config
from volattn.datasets.splits import Split
from volattn.io.files import append_line, atomic_path, read_json, read_json_lines, read_text, write_json, write_text
from volattn.io.names import shown
from volattn.io.output import claim_folder, sweep
from volattn.models.bag_backbone import BagBackbone
from volattn.models.weights import check_finite, read_tensors
from volattn.provenance import commit, versions
from volattn.training.recipe import Recipe
from volattn.training.validate import Validation

RECIPE, SPLIT, MANIFEST, METRICS = "recipe.yaml", "split.json", "manifest.json", "metrics.jsonl"
LAST, STATES = "last.safetensors", "resume"
_FORMAT = 2


class _Manifest(Config):
    """`manifest.json`: the settings of a run besides its recipe and split, and each session of it."""

    format: Literal[2]
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
    """The lines of a run's metrics, without a last one that a kill cut short.

    Raises:
        ValueError: The file cannot be read, or has a line that a run does not write.
    """
    path = run / METRICS
    rows = read_json_lines(path)
    for number, row in enumerate(rows, start=1):
        _Row.parse(row, f"{path}: line {number}")
    return rows


def saved_recipe(run: Path) -> Recipe | None:
    """The recipe of the run in a folder; None if it holds none."""
    if (run / MANIFEST).is_file():
        _read_manifest(run)
    return Recipe.read(run / RECIPE) if (run / RECIPE).is_file() else None


def _read_manifest(run: Path) -> _Manifest:
    values = read_json(run / MANIFEST)
    if isinstance(values, dict) and "sessions" in values and "format" not in values:
        raise ValueError(f"{run}: was made by volattn 0.1; train it again in another folder")
    return _Manifest.parse(values, str(run / MANIFEST))


@contextmanager
def claim_run(
    path: Path, recipe: Recipe, split: Split, fingerprint: str, processes: int, *, resume: bool
) -> Iterator[None]:
    """Keeps a folder to one run while the block lasts, a new one or the one that is in it already.

    `config.json` and `model.safetensors` (the best weights) make it a model folder, `last.safetensors` holds the last
    weights, `metrics.jsonl` a line for each step and validation, and `resume/` the state of `save_state`.

    Args:
        fingerprint: Of the store.
        processes: Training together.
        resume: Whether the folder may hold the run already.

    Raises:
        ValueError: The folder holds something else, another run, or a run while `resume` is false.
    """
    settings = {"format": _FORMAT, "seed": recipe.seed, "fingerprint": fingerprint, "processes": processes}
    with claim_folder(path, marker=MANIFEST, what="run"):
        sessions: tuple[dict[str, Any], ...] = ()
        if (path / MANIFEST).is_file():
            if not resume:
                raise ValueError(f"{path}: holds a run already; give --resume to continue it, or another folder")
            manifest = _read_manifest(path)
            _check_same(path, recipe, split, manifest.model_dump(), settings)
            sessions = manifest.sessions
            sweep(path, below=True)
        session = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "commit": commit(),
            "versions": versions(),
        }
        # The manifest first, which marks the folder as a run's: a kill may come at any time after it.
        write_json(path / MANIFEST, {**settings, "sessions": [*sessions, session]})
        for name, text in ((RECIPE, recipe.text()), (SPLIT, split.text("json"))):
            if not (path / name).is_file():
                write_text(path / name, text)
        yield


def _check_same(path: Path, recipe: Recipe, split: Split, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    if (path / RECIPE).is_file():
        changed = differences(Recipe.read(path / RECIPE).model_dump(), recipe.model_dump())
        if changed:
            raise ValueError(f"{path}: was started with another recipe ({changed[0]}); resume it with its own")
    if (path / SPLIT).is_file() and Split.read(path / SPLIT) != split:
        raise ValueError(f"{path}: was started with other cases or another fold; resume it with its own")
    for key, value in settings.items():
        if saved[key] != value:
            raise ValueError(
                f"{path}: was started with {key} {shown(saved[key])}, now it is {value}; "
                f"resume it with the same, or start another run"
            )


def drop_metrics_after(run: Path, step: int) -> None:
    """Removes the metrics of steps that will be taken again, and a line that a kill cut short."""
    rows = read_metrics(run) if (run / METRICS).is_file() else []
    write_text(run / METRICS, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))


def append_metrics(run: Path, row: dict[str, Any]) -> None:
    append_line(run / METRICS, json.dumps(row))


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """The values that differ between two nested mappings, as "key: old, now new"."""
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


class RunState(Config):
    """`state.json`: how far a run has come, besides its tensors.

    Attributes:
        step: Steps taken, and so the number of the next.
        best: The validation of the best weights; None before the first.
        seconds: Spent on training so far.
        scaler: State of fp16's gradient scaling; None without.
        optimiser: What the optimiser keeps besides tensors, by parameter number and name; `save_state` fills it in.
    """

    step: int = Field(default=0, ge=0)
    best: Validation | None = None
    seconds: float = Field(default=0.0, ge=0)
    scaler: dict[str, Any] | None = None
    optimiser: dict[str, Any] = {}


def save_state(folder: Path, model: BagBackbone, optimiser: Optimizer, state: RunState) -> None:
    """Writes a new state, points to it, and removes the old one: at any time the pointer names a complete one."""
    name = _name(state.step)
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    save_weights(place / WEIGHTS, model)
    tensors, values = _split(optimiser)
    with atomic_path(place / _OPTIMISER) as temporary:
        temporary.write_bytes(save(tensors))  # `save_file` does not report a full disk.
    write_json(place / _NUMBERS, {**state.model_dump(), "optimiser": values})
    write_text(folder / _POINTER, name + "\n")
    remove_other_states(folder, state.step)


def remove_other_states(folder: Path, step: int) -> None:
    """Removes the states of all steps but one, and what a kill left of one; the folder need not be there."""
    for other in folder.iterdir() if folder.is_dir() else ():
        if other.is_dir() and other.name != _name(step):
            shutil.rmtree(other)


def _name(step: int) -> str:
    return f"{step:09d}"


def has_state(folder: Path) -> bool:
    """Whether there is a state to resume from."""
    return (folder / _POINTER).is_file()


def load_state(folder: Path, model: BagBackbone, optimiser: Optimizer) -> RunState:
    """Reads the last saved state into a model and an optimiser of the same kind.

    Raises:
        ValueError: The state is damaged or of another network.
    """
    name = read_text(folder / _POINTER, 100).strip()
    place = folder / name
    try:
        if not re.fullmatch(r"\d{9,}", name):
            raise ValueError(f"{folder / _POINTER}: names {shown(name)}, which is not a state")
        load_weights_file(place / WEIGHTS, model)
        state = RunState.read(place / _NUMBERS)
        if state.step != int(name):
            raise ValueError(f"{place / _NUMBERS}: is of step {state.step}")
        tensors = read_tensors(place / _OPTIMISER)
        check_finite(place / _OPTIMISER, tensors)
        of_parameters = _join({**tensors, **state.optimiser}, optimiser, place / _OPTIMISER)
    except ValueError as error:
        raise ValueError(f"{error}; it cannot be read as a training state, start the run again") from None
    optimiser.load_state_dict({"state": of_parameters, "param_groups": optimiser.state_dict()["param_groups"]})
    return state


def _join(values: dict[str, Any], optimiser: Optimizer, path: Path) -> dict[int, dict[str, Any]]:
    """The inverse of `_split`, by parameter number."""
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
    """An optimiser's state as tensors and as plain values, without its settings, which are the recipe's."""
    tensors, values = {}, {}
    for number, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().contiguous()
            else:
                values[f"{number}.{name}"] = value
    return tensors, values
