"""From which a killed run goes on: tensors in safetensors, the rest in JSON, and one of them always whole."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save
from torch.optim import Optimizer

from volattn.checkpoints import WEIGHTS, load_weights_file, save_weights
from volattn.config import Config
from volattn.io.atomic import atomic_path, write_json, write_text
from volattn.io.files import read_text
from volattn.io.names import shown
from volattn.models.bag_backbone import BagBackbone
from volattn.models.weights import check_finite, read_tensors

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
