"""From which a killed run goes on: tensors in safetensors, the rest in JSON, and one of them always whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from volattn.checkpoints import WEIGHTS, load_weights_file, save_weights
from volattn.io.atomic import atomic_path, write_json, write_text
from volattn.models.bag_backbone import BagBackbone

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


def save_state(folder: Path, model: BagBackbone, optimiser: Optimizer, progress: Progress) -> None:
    """Writes a new state beside the old one, points to it, and removes the old one.

    Whatever the moment of a kill, the pointer names a whole state.

    Args:
        folder: The states' own; made if it is not there.
        model: Its weights.
        optimiser: Its momenta.
        progress: The rest. Its `optimiser` is filled in here.
    """
    name = f"{progress.step:09d}"
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    save_weights(place / WEIGHTS, model)
    tensors, progress.optimiser = _split(optimiser)
    with atomic_path(place / _OPTIMISER) as temporary:
        save_file(tensors, temporary)
    write_json(place / _NUMBERS, asdict(progress))
    write_text(folder / _POINTER, name + "\n")
    for other in folder.iterdir():
        if other.is_dir() and other.name != name:
            shutil.rmtree(other)


def has_state(folder: Path) -> bool:
    """Whether there is a state to go on from."""
    return (folder / _POINTER).is_file()


def load_state(folder: Path, model: BagBackbone, optimiser: Optimizer) -> Progress:
    """Puts the last saved state into a model and an optimiser of the same make.

    Raises:
        ValueError: The state is damaged or of another network.
    """
    place = folder / (folder / _POINTER).read_text(encoding="utf-8").strip()
    load_weights_file(place / WEIGHTS, model)
    try:
        progress = Progress(**json.loads((place / _NUMBERS).read_text(encoding="utf-8")))
        tensors = load_file(place / _OPTIMISER)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{place}: cannot be read as a training state ({error}); start the run again"
        ) from None
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **progress.optimiser}.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return progress


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
