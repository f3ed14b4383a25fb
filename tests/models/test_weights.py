"""Pretrained weights, from files with the published names that the tests make themselves."""

from __future__ import annotations

import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_detectors import CLASSES, made, small_config
from torchvision.models import resnet18
from torchvision.models.detection import fcos_resnet50_fpn, maskrcnn_resnet50_fpn, retinanet_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import BackboneConfig, ModelConfig
from volattn.models.detectors.rcnn import MaskRCNNConfig, RPNConfig
from volattn.models.registry import build_model, parse_model
from volattn.models.weights import load_weights, match_norm_eps


def published(name: str = "resnet18", **backbone: object) -> ModelConfig:
    return MaskRCNNConfig(backbone=BackboneConfig(name=name, **backbone))  # type: ignore[arg-type]


def test_imagenet_names_fill_the_body(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = resnet18(weights=None)
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    model = build_model(match_norm_eps(published(), "imagenet"), CLASSES).eval()
    loaded = load_weights(model, tmp_path / "resnet18.pth")
    assert all(key.startswith("backbone.body.") for key in loaded.copied)
    assert not any(key.startswith("backbone.body.") for key in loaded.new)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = image
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(source.eval(), part)(x)
        ours = model.backbone.body(image)["3"]
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


def test_the_frozen_norm_has_the_epsilon_of_its_weights() -> None:
    for source, eps in (("imagenet", 1e-5), ("coco", 0.0)):
        model = build_model(match_norm_eps(published(), source), CLASSES)
        assert {m.eps for m in model.modules() if isinstance(m, FrozenBatchNorm2d)} == {eps}


def test_a_dropped_stage_needs_no_weights(tmp_path: Path) -> None:
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    config = published().model_copy(
        update={
            "backbone": BackboneConfig(name="resnet18", stages=3),
            "rpn": RPNConfig(anchor_sizes=((8.0,), (16.0,), (32.0,), (64.0,))),
        }
    )
    loaded = load_weights(build_model(config, CLASSES), tmp_path / "resnet18.pth")
    assert not any("layer4" in key for key in loaded.copied)


def test_coco_names_fill_all_but_the_predictors(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()
    old = {}
    for key, tensor in state.items():
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for block in ("inner_blocks", "layer_blocks"):
            for level in range(4):
                key = key.replace(f"fpn.{block}.{level}.0.", f"fpn.{block}.{level}.")
        for layer in range(4):
            key = key.replace(f"mask_head.{layer}.0.", f"mask_head.mask_fcn{layer + 1}.")
        old[key] = tensor
    torch.save(old, tmp_path / "coco.pth")
    config = published("resnet50")
    model = build_model(config, CLASSES)
    loaded = load_weights(model, tmp_path / "coco.pth")
    assert all("predictor" in key or key.startswith("attention.") for key in loaded.new)
    own = model.state_dict()
    for key in ("rpn.head.conv.0.0.weight", "roi_heads.mask_head.3.0.weight", "backbone.fpn.inner_blocks.2.0.bias"):
        torch.testing.assert_close(own[key], state[key])


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_a_one_stage_detectors_file_fills_all_but_the_class_scores(name: str, tmp_path: Path) -> None:
    make = {"retinanet": retinanet_resnet50_fpn, "fcos": fcos_resnet50_fpn}[name]
    with torch.device("meta"):
        keys = make(weights=None, weights_backbone=None, num_classes=91).state_dict()
    config = parse_model({"name": name, "attention": {"kind": "none"}})
    model = build_model(config, CLASSES)
    own = {key: torch.rand_like(t) if t.is_floating_point() else t for key, t in model.state_dict().items()}
    published = {key.removeprefix("detector."): tensor for key, tensor in own.items()}
    assert published.keys() == {key for key in keys if not key.endswith("num_batches_tracked")}
    if name == "retinanet":  # in the file towers count convolutions and ReLUs
        for head in ("classification_head", "regression_head"):
            for place in range(4):
                for kind in ("weight", "bias"):
                    tensor = published.pop(f"head.{head}.conv.{place}.0.{kind}")
                    published[f"head.{head}.conv.{2 * place}.{kind}"] = tensor
    scores = "head.classification_head.cls_logits"
    published[f"{scores}.weight"] = torch.zeros(keys[f"{scores}.weight"].shape)
    published[f"{scores}.bias"] = torch.zeros(keys[f"{scores}.bias"].shape)
    torch.save(published, tmp_path / "coco.pth")
    loaded = load_weights(model, tmp_path / "coco.pth")
    assert set(loaded.new) == {f"detector.{scores}.weight", f"detector.{scores}.bias"}
    found = model.state_dict()
    for key in loaded.copied:
        torch.testing.assert_close(found[key], own[key], msg=key)


def test_masks_are_left_out_where_there_are_none(tmp_path: Path) -> None:
    earlier = build_model(small_config(kind="none"), CLASSES)
    torch.save(earlier.state_dict(), tmp_path / "detector.pth")
    model = build_model(small_config(name="faster_rcnn", kind="none"), CLASSES)
    loaded = load_weights(model, tmp_path / "detector.pth")
    assert {key for key in loaded.new if "box_predictor" not in key} == set()
    assert not any("mask" in key for key in loaded.copied)


@pytest.mark.parametrize("name", ["mask_rcnn", "faster_rcnn", "deformable_faster_rcnn", "retinanet"])
def test_a_detector_of_boxes_gives_its_backbone_to_others(name: str, tmp_path: Path) -> None:
    earlier = build_model(small_config(name="faster_rcnn"), ("lesion",))
    save_file(earlier.state_dict(), tmp_path / "model.safetensors")
    model = build_model(small_config(name=name), CLASSES)
    loaded = load_weights(model, tmp_path, attention=True)
    assert all(key.startswith(("roi_heads", "detector")) or ".offset." in key for key in loaded.new)
    assert {key.split(".")[0] for key in loaded.copied} >= {"backbone", "attention"}


@pytest.mark.parametrize("name", ["fcos", "three_dce", "rfcn", "va_unet", "unet_3d", "h_dense_unet", "cascade"])
def test_a_run_of_the_same_make_gives_everything(name: str, tmp_path: Path) -> None:
    earlier = made(small_config(name=name), dtype=torch.float32)
    save_file(earlier.state_dict(), tmp_path / "model.safetensors")
    model = build_model(small_config(name=name), CLASSES)
    assert not load_weights(model, tmp_path).new
    torch.testing.assert_close(dict(model.state_dict()), dict(earlier.state_dict()))


@pytest.mark.parametrize("kind", ["both", "none"])
def test_a_run_of_other_classes_gives_backbone_pyramid_and_rpn(kind: str, tmp_path: Path) -> None:
    """With or without attention of its own: what two runs start from must not differ by anything else."""
    earlier = build_model(small_config(kind=kind), ("lesion",))
    save_file(earlier.state_dict(), tmp_path / "model.safetensors")
    for attention in (False, True):
        model = build_model(small_config(), CLASSES)
        loaded = load_weights(model, tmp_path, attention=attention)
        prefixes = {"backbone", "rpn", *(["attention"] if attention and kind == "both" else [])}
        assert {key.split(".")[0] for key in loaded.copied} == prefixes
        assert {key.split(".")[0] for key in loaded.new} == {"roi_heads", "attention"} - prefixes


@pytest.mark.parametrize("name", ["unet_2d", "va_unet", "unet_3d"])
def test_a_u_nets_run_of_other_classes_gives_all_but_its_last_layer(name: str, tmp_path: Path) -> None:
    earlier = build_model(small_config(name=name), ("lesion",))
    save_file(earlier.state_dict(), tmp_path / "model.safetensors")
    model = build_model(small_config(name=name), CLASSES)
    loaded = load_weights(model, tmp_path, attention=True)
    theirs = earlier.state_dict()
    other = {key for key, tensor in model.state_dict().items() if tensor.shape != theirs[key].shape}
    assert other
    assert set(loaded.new) == other


def test_a_run_of_the_same_network_gives_everything(tmp_path: Path) -> None:
    earlier = made(small_config(), dtype=torch.float32)
    save_file(earlier.state_dict(), tmp_path / "model.safetensors")
    model = build_model(small_config(), CLASSES)
    assert not load_weights(model, tmp_path / "model.safetensors").new
    torch.testing.assert_close(dict(model.state_dict()), dict(earlier.state_dict()))


def test_none_changes_nothing() -> None:
    model = build_model(small_config(), CLASSES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not load_weights(model, "none").copied
    torch.testing.assert_close(dict(model.state_dict()), before)


class Payload:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled_and_every_fault_has_one_line(tmp_path: Path) -> None:
    model = build_model(published(), CLASSES)
    torch.save({"conv1.weight": Payload()}, tmp_path / "evil.pth")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"head.weight": torch.ones(1)}, tmp_path / "other.pth")
    for name, reason in (
        ("evil.pth", "more than tensors"),
        ("empty.safetensors", "cannot be read"),
        ("empty.pth", "cannot be read"),
        ("list.pth", "not a state dict"),
        ("other.pth", "another network"),
        ("missing.pth", "no such file"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            load_weights(model, tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            (path.parent / name).write_bytes(pickle.dumps(1))
            archive.add(path.parent / name, name)


def _declared_larger(path: Path) -> None:
    """The pickle of a `.pth` says that a storage has more numbers than the file."""
    torch.save({"a": torch.ones(200)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record.replace(b"K\xc8", b"J\xff\xff\xff\x7f"))


ODD_WEIGHTS: dict[str, object] = {
    "a scalar of NumPy": {"a": np.float64(1)},
    "an array of NumPy": {"a": np.ones(3)},
    "a number": {"a": 3},
    "nested": {"a": {"b": torch.ones(1)}},
    "numbered": {1: torch.ones(1)},
    "a tensor alone": torch.ones(3),
    "a text": "weights",
    "nothing": {},
    "sparse": {"a": torch.ones(2, 2).to_sparse()},
    "quantised": {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
    "meta": {"a": torch.ones(3, device="meta")},
    "complex": {"a": torch.ones(3, dtype=torch.complex64)},
    "expanded": {"backbone.body.conv1.weight": torch.ones(1).expand(10**6, 10**6)},
    "not finite": {"backbone.body.conv1.weight": torch.full((16, 3, 7, 7), torch.nan)},
    "a model": torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("kind", ODD_WEIGHTS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_weights_are_one_line(tmp_path: Path, kind: str, old: bool) -> None:
    path = tmp_path / "odd.pth"
    torch.save(ODD_WEIGHTS[kind], path, _use_new_zipfile_serialization=not old)
    check_one_line(path)


@pytest.mark.parametrize("make", [_tar, _declared_larger, os.mkfifo, Path.mkdir, Path.touch])
def test_odd_files_are_one_line(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "odd.pth")
    check_one_line(tmp_path / "odd.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99, 0.99999])
def test_a_cut_file_is_one_line(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"odd{ending}"
    state = small_model().state_dict()
    (save_file if ending == ".safetensors" else torch.save)(state, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    check_one_line(path)


@pytest.mark.parametrize(
    "head",
    [
        b"\xff" * 8,
        struct.pack("<Q", 2**40),
        struct.pack("<Q", 2) + b"{}",
        *(
            struct.pack("<Q", len(text)) + text + bytes(16)
            for text in (
                b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
                b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,16]}}',
                b'{"a":{"dtype":"X","shape":[4],"data_offsets":[0,16]}}',
                b'{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}',
            )
        ),
    ],
)
def test_an_odd_safetensors_header_is_one_line(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(head)
    check_one_line(path)


@cache
def small_model() -> BagBackbone:
    return build_model(small_config(), CLASSES)


def check_one_line(path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in small_model().state_dict().items()}
    with pytest.raises(ValueError, match="odd") as caught:
        load_weights(small_model(), path)
    torch.testing.assert_close(dict(small_model().state_dict()), before, rtol=0, atol=0)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_batch_norm_weights_do_not_go_into_group_norm(tmp_path: Path) -> None:
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"norm=frozen"):
        load_weights(build_model(small_config(), CLASSES), tmp_path / "resnet18.pth")


def test_published_weights_need_the_published_network() -> None:
    with pytest.raises(ValueError, match=r"resnet50 only"):
        load_weights(build_model(published(), CLASSES), "coco")
    with pytest.raises(ValueError, match=r"width=64"):
        load_weights(build_model(small_config(), CLASSES), "imagenet")
