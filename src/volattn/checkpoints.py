"""Model folders: `config.json`, `model.safetensors` and, for the record, `provenance.json`; nothing pickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from volattn.config import Config
from volattn.io.files import atomic_path, read_json, write_text
from volattn.io.names import shown
from volattn.models.bag_backbone import BagBackbone
from volattn.models.registry import AnyModel, build_model
from volattn.models.segmenters.cascade import CascadeConfig, Refinement
from volattn.models.weights import check_finite, read_tensors
from volattn.preprocessing.plan import Plan
from volattn.provenance import Provenance

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROVENANCE = "provenance.json"
DEMO = Path(__file__).parent / "weights" / "demo"


class ModelFolder(Config):
    """All that prediction needs beside the weights.

    Attributes:
        model: The network.
        plan: How a volume is prepared: the same in training and prediction.
        classes: Names of the detector's classes; the lesion is the last, the organ, if any, the first.
        threshold: Lesion detections below this score are dropped (chosen on the validation cases).
        single_organ: Whether only the organ's largest connected part is kept, and lesions in it (chosen there too).
        phantoms_only: Whether it was trained on phantoms, and so is not for patients.
        provenance: Where the weights come from; None if the folder does not say. It has a file of its own.
    """

    model: AnyModel
    plan: Plan
    classes: tuple[str, ...] = Field(min_length=1, max_length=2)
    threshold: float = Field(ge=0, le=1)
    single_organ: bool = False
    phantoms_only: bool = False
    provenance: Provenance | None = Field(default=None, exclude=True)

    @property
    def warning(self) -> str | None:
        """What whoever uses the model must know."""
        return "this model was trained on phantoms only: it is not for patients" if self.phantoms_only else None

    def refined(self, refinement: Refinement) -> Self:
        """The same model, but for how its probabilities are refined in prediction; a ValueError if it cannot be.

        "crf" has the values that it was trained with, if there are any.
        """
        if not isinstance(self.model, CascadeConfig):
            raise ValueError(f"{self.model.name} has no refinement; leave out --refine, which is for cascade")
        return self.model_copy(update={"model": self.model.refined(refinement)})


def save_folder(path: Path | str, model: BagBackbone, folder: ModelFolder) -> None:
    """Writes the weights, their provenance and then the configuration, each atomically; makes the folder."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    save_weights(path / WEIGHTS, model)
    if folder.provenance is not None:
        write_text(path / PROVENANCE, folder.provenance.text("json"))
    write_text(path / CONFIG, folder.text("json"))


def save_weights(path: Path | str, model: BagBackbone) -> None:
    """Writes a state dict as safetensors, atomically."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(save(state))  # safetensors' own `save_file` makes files that nobody else can read


def load_weights_file(path: Path | str, model: BagBackbone) -> None:
    """Reads a state dict into a model of the same make.

    Raises:
        ValueError: The file is missing, is no safetensors file, or is of another network.
    """
    state = read_tensors(path)
    _check_fits(path, state, model)
    model.load_state_dict(state)


def _check_fits(path: Path | str, state: Mapping[str, Tensor], model: BagBackbone) -> None:
    own = model.state_dict()
    for name in dict.fromkeys([*own, *state]):
        theirs, ours = (
            None if tensor is None else f"{_number(tensor)} {tuple(tensor.shape)}"
            for tensor in (state.get(name), own.get(name))
        )
        if theirs != ours:
            raise ValueError(
                f"{path}: does not fit its configuration (has {theirs or 'nothing'} as {shown(name)}, not "
                f"{ours or 'nothing'}); both files must be of one run"
            )
    check_finite(path, state)


def _number(tensor: Tensor) -> str:
    """The kind of a tensor's numbers: weights may be kept in less precision than they are computed with."""
    return "float" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")


def resolve(source: Path | str) -> Path:
    """The folder that a name means: "demo" is the one shipped with the package, anything else a path.

    Raises:
        ValueError: It is not a model folder.
    """
    path = DEMO if str(source) == "demo" else Path(source)
    if not path.is_dir():
        raise ValueError(f"{path}: no such model folder; give a run folder of `volattn train`, or demo")
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).exists()]
    if missing:
        raise ValueError(
            f"{path}: is not a model folder ({' and '.join(missing)} missing); "
            f"a run folder becomes one at its first validation"
        )
    return path


def read_folder(source: Path | str) -> ModelFolder:
    """The configuration and the provenance, if it is there, without the weights.

    Raises:
        ValueError: It is not a model folder or its configuration does not fit.
    """
    path = resolve(source)
    values = read_json(path / CONFIG)
    if isinstance(values, dict) and "training" in values:
        raise ValueError(f"{path}: was made by volattn 0.1; train it again")
    folder = ModelFolder.parse(values, str(path / CONFIG))
    if not (path / PROVENANCE).is_file():
        return folder
    return folder.model_copy(update={"provenance": Provenance.read(path / PROVENANCE)})


def load_folder(source: Path | str, refinement: Refinement | None = None) -> tuple[BagBackbone, ModelFolder]:
    """The model, on the CPU in evaluation mode, and its configuration.

    Raises:
        ValueError: It is not a model folder, a file in it cannot be read, or it cannot be refined.
    """
    path = resolve(source)
    folder = read_folder(path)
    if refinement is not None:
        folder = folder.refined(refinement)
    weights = read_tensors(path / WEIGHTS)
    # Without memory first: a configuration can ask for any, and weights that fit it say how much there is to need.
    with torch.device("meta"):
        _check_fits(path / WEIGHTS, weights, build_model(folder.model, folder.classes))
    model = build_model(folder.model, folder.classes)
    model.load_state_dict(weights)
    return model.eval(), folder


def fingerprint(source: Path | str) -> str:
    """SHA-256 over the configuration and the weights of a model folder."""
    path = resolve(source)
    return hashlib.sha256((path / CONFIG).read_bytes() + (path / WEIGHTS).read_bytes()).hexdigest()
