"""Pretrained weights: ImageNet, COCO, a file, or an earlier run; and packages that only some models are made with."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model_weights
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_Weights,
    FCOS_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)

from volattn.io.files import check_regular
from volattn.io.names import shown
from volattn.models.backbones import load_timm
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import BackboneConfig, EncoderConfig, ModelConfig


def load_extra(name: str, module: str) -> ModuleType:
    """A module of the extra `volattn[segmentation]`, for the model of that name.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name}: is made with {module.partition('.')[0]}, and {error.name} is not installed; "
            "install volattn[segmentation]"
        ) from None


_IMAGENET_EPS = 1e-5
_COCO_EPS = 0.0
_HEADS = r"(roi_heads|detector|position_maps|head|network\.output_block)\."
_PREDICTORS = r"(roi_heads\.(box_predictor|mask_predictor)|detector\.head\.classification_head\.cls_logits)\."
_ATTENTION = r"(attention\.|roi_heads\.\w+_roi_pool\.attention\.)"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
_FIRST = ("backbone.body.conv1.weight", "backbone.body.features.0.weight")
_COCO: dict[str, Any] = {
    "mask_rcnn": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "faster_rcnn": FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "deformable_faster_rcnn": FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "retinanet": RetinaNet_ResNet50_FPN_Weights.COCO_V1,
    "fcos": FCOS_ResNet50_FPN_Weights.COCO_V1,
}


class Loaded(NamedTuple):
    """What became of pretrained weights."""

    copied: tuple[str, ...]
    new: tuple[str, ...]


def match_norm_eps(config: ModelConfig, source: str) -> ModelConfig:
    """The configuration with the norm's epsilon that the weights of `source` were trained with."""
    # torchvision trained its FCOS with the epsilon of ImageNet's weights.
    coco = _IMAGENET_EPS if config.name == "fcos" else _COCO_EPS
    eps = {"imagenet": _IMAGENET_EPS, "coco": coco}.get(source)
    return config if eps is None else config.with_norm_eps(eps)


def load_weights(model: BagBackbone, source: str | Path, *, attention: bool = False) -> Loaded:
    """Copies pretrained weights into a model.

    A classifier's file (ImageNet) gives the body; a detector's (COCO, `.pth`) everything but the class-specific
    predictors; an earlier run (a folder, or `.safetensors`) backbone, pyramid and RPN, the heads being new - unless it
    is of the same classes and the same network, in which case training goes on from all of it. What a head has that
    the model does not (masks, for a model of boxes) is left out. An input of more slices than the file's has the
    file's weights in the middle, and 0 to either side.

    Args:
        source: "none", "imagenet", "coco", a `.safetensors` or `.pth` file, or a model folder with
            `model.safetensors` in it.
        attention: Whether attention weights of an earlier run with other heads are copied too.

    Raises:
        ValueError: The source cannot be had, is not a state dict, or fits no part of the model.
    """
    own = model.state_dict()
    if str(source) == "none":
        return Loaded((), tuple(own))
    state = _read(model.config, source)
    backbone = model.config.backbone if isinstance(model.config, EncoderConfig) else None
    state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    if backbone is not None and backbone.norm == "group" and any(key.endswith("running_mean") for key in state):
        raise ValueError(
            f"{source}: these weights were trained with batch norm; set model.backbone.norm=frozen to use them"
        )
    if "conv1.weight" in state or "features.0.weight" in state:
        classifier = ("fc.", "classifier.")
        state = {f"backbone.body.{k}": tensor for k, tensor in state.items() if not k.startswith(classifier)}
    else:
        state = _current_names(state)
        if not _same_network(state, own):
            heads = _HEADS if _is_run(source) else _PREDICTORS
            dropped = heads if attention else f"{heads}|{_ATTENTION}"
            state = {key: tensor for key, tensor in state.items() if not re.match(dropped, key)}
    state = {key: tensor for key, tensor in state.items() if key in own or not re.match(rf"{_HEADS}|rpn\.", key)}
    state |= {key: _widened(state[key], own[key]) for key in _FIRST if key in state and key in own}
    unknown = sorted(key for key in state if key not in own and not _dropped_stage(key, model.config))
    wrong = sorted(key for key in state if key in own and state[key].shape != own[key].shape)
    copied = {key: tensor for key, tensor in state.items() if key in own and key not in wrong}
    if not copied or unknown or wrong:
        example = shown((unknown or wrong or ["nothing"])[0])
        raise ValueError(
            f"{source}: {len(unknown)} unknown and {len(wrong)} differently shaped tensors (first: {example}); "
            f"the weights are of another network than {model.config.name if backbone is None else backbone.name}"
        )
    check_finite(source, copied)
    model.load_state_dict(copied, strict=False)
    return Loaded(tuple(copied), tuple(key for key in own if key not in copied))


def _read(config: ModelConfig, source: str | Path) -> Mapping[str, Tensor]:
    if str(source) in ("imagenet", "coco"):
        return _download(config, str(source))
    path = Path(source)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.exists():
        raise ValueError(f"{path}: no such file; --weights takes none, imagenet, coco, a file or a run folder")
    return read_tensors(path)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or `.pth` file by their names; nothing else of a `.pth` is unpickled.

    Raises:
        ValueError: The file cannot be read, or holds anything but names with plain tensors.
    """
    path = Path(path)
    check_regular(path)
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            # Mapped, a tensor cannot reach beyond its file; the format before zip knows its sizes itself.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: holds more than tensors and is not opened; save its state dict alone") from None
    except Exception as error:  # A damaged file can make these libraries raise anything.
        raise ValueError(f"{path}: cannot be read as weights ({shown(error)}); copy it again") from None
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError(f"{path}: is not a state dict (a mapping of names to tensors); save one")
    for name, tensor in state.items():
        kind = _odd_kind(tensor)
        if kind:
            raise ValueError(f"{path}: {shown(name)} is {kind} tensor; save it as plain numbers on the CPU")
    return dict(state)


def check_finite(source: Path | str, state: Mapping[str, Tensor]) -> None:
    """Refuses weights with NaN or infinity: every prediction would be empty.

    Raises:
        ValueError: There are some.
    """
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{source}: {shown(name)} holds NaN or infinity; take an earlier state")


def _odd_kind(tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided or tensor.is_nested:
        return "a sparse"
    if tensor.device.type != "cpu":
        return f"a {tensor.device.type}"
    return None if tensor.dtype in _DTYPES else f"a {str(tensor.dtype).removeprefix('torch.')}"


def _download(config: ModelConfig, source: str) -> Mapping[str, Tensor]:
    if not isinstance(config, EncoderConfig):
        raise ValueError(f"--weights {source}: there are none for {config.name}; give none, a file or a run")
    backbone = config.backbone
    timm, single_map = (backbone.timm, backbone.single_map) if isinstance(backbone, BackboneConfig) else (None, False)
    norms = ("none", "frozen") if single_map else ("frozen",)
    if timm is not None and source == "imagenet":
        return _download_timm(config, timm)
    if backbone.width != 64 or backbone.norm not in norms or config.slices < 3:
        raise ValueError(
            f"--weights {source}: needs backbone.width=64, backbone.norm={' or '.join(norms)} and slices=3 or more, "
            f"found {backbone.width}, {backbone.norm} and {config.slices}"
        )
    if source == "coco" and config.name not in _COCO:
        raise ValueError(f"--weights coco: published for {', '.join(_COCO)}; the model is {config.name}")
    if source == "coco":
        if backbone.name != "resnet50":
            raise ValueError(f"--weights coco: published for resnet50 only, the model has {backbone.name}")
        weights = _COCO[config.name]
    else:
        name = "vgg16_bn" if single_map and backbone.norm == "frozen" else backbone.name
        weights = next(w for w in get_model_weights(name) if w.name == "IMAGENET1K_V1")
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"--weights {source}: {weights.url} could not be downloaded ({error}); fetch it where there is a network "
            f"and give its path instead, or train from new weights: "
            f"--weights none --set model.backbone.norm=group --set model.backbone.frozen_stages=0"
        ) from None


def _download_timm(config: EncoderConfig, name: str) -> Mapping[str, Tensor]:
    try:
        network = load_timm(config.backbone.name).create_model(
            name, pretrained=True, features_only=True, in_chans=config.slices
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"--weights imagenet: {config.backbone.name} could not be downloaded ({shown(str(error))}); run it once "
            "where there is a network, or train with --weights none"
        ) from None
    return {f"backbone.body.{key}": tensor for key, tensor in network.state_dict().items()}


def _current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that torchvision gives today to what its published detection files call otherwise."""
    rules = (
        (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
        (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    )
    # FCOS has a norm in its towers and keeps their numbers; RetinaNet's count convolution and ReLU.
    mixed = any(key.endswith("head.regression_head.bbox_ctrness.weight") for key in state)
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"^head\.(?=classification_head|regression_head)", "detector.head.", key)
        tower = re.match(r"^(detector\.head\.\w+\.conv)\.(\d+)\.(weight|bias)$", key)
        if tower and not mixed:
            key = f"{tower[1]}.{int(tower[2]) // 2}.0.{tower[3]}"
        found = re.match(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)$", key)
        if found:
            key = f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}"
        renamed[key] = tensor
    return renamed


def _is_run(source: str | Path) -> bool:
    """Whether the weights are of an earlier run: it writes safetensors, and detectors are published as `.pth`."""
    return Path(source).is_dir() or Path(source).suffix == ".safetensors"


def _widened(weight: Tensor, own: Tensor) -> Tensor:
    """A first convolution for more input channels than it was trained with: its own in the middle, 0 to either side."""
    if weight.dim() != 4 or weight[:, 0].shape != own[:, 0].shape:
        return weight
    more = own.shape[1] - weight.shape[1]
    if more <= 0 or more % 2:
        return weight
    return torch.nn.functional.pad(weight, (0, 0, 0, 0, more // 2, more // 2))


def _same_network(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return state.keys() == own.keys() and all(state[key].shape == own[key].shape for key in own)


def _dropped_stage(key: str, config: ModelConfig) -> bool:
    found = re.match(r"backbone\.body\.layer(\d)\.", key)
    stages = config.backbone.stages if isinstance(config, EncoderConfig) else 0
    return found is not None and int(found[1]) > stages
