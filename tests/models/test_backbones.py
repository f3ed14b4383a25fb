"""Backbones: deformable convolutions that start as plain ones, VGG-16 of stride 8, levels of a pyramid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_detectors import CLASSES, images_of, made, small_config, targets_of
from torch import nn
from torchvision.models import resnet18, resnet50, vgg16, vgg16_bn
from torchvision.ops import DeformConv2d

from volattn.models.backbones import build_backbone
from volattn.models.config import BackboneConfig, ModelConfig
from volattn.models.registry import build_model, parse_model
from volattn.models.weights import load_weights


def backbone(**values: Any) -> nn.Module:
    common = {"norm": "group", "trainable_layers": 5, "width": 16, "pyramid_channels": 16}
    config = BackboneConfig.model_validate(common | values)
    torch.manual_seed(0)
    return build_backbone(config, 3).double().eval()


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_zero_offsets_are_the_plain_network(name: str, modulated: bool) -> None:
    plain = backbone(name=name, stages=3)
    deformable = backbone(name=name, stages=3, deformable={"stages": [3, 4], "modulated": modulated})
    convs = [module for module in deformable.modules() if isinstance(module, DeformConv2d)]
    # resnet18: two 3x3 in each of 2 + 2 blocks; resnet50: one in each of 4 + 6.
    assert len(convs) == {"resnet18": 8, "resnet50": 10}[name]
    assert all(conv.kernel_size == (3, 3) for conv in convs)
    missing = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(".offset." in key for key in missing.missing_keys)
    images = torch.rand(2, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = deformable(images), plain(images)
    assert list(ours) == list(theirs)
    for level in ours:
        torch.testing.assert_close(ours[level], theirs[level], rtol=1e-9, atol=1e-10)


def test_an_offset_moves_what_a_convolution_reads() -> None:
    from volattn.models.backbones import DeformableConv

    plain = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    moved = DeformableConv(plain, modulated=True).double()
    with torch.no_grad():
        moved.offset.bias[0:18:2] = 1.0  # rows
        moved.offset.bias[1:18:2] = -2.0  # columns
    image = torch.rand(1, 2, 12, 12, dtype=torch.float64)
    shifted = torch.zeros_like(image)
    shifted[..., :-1, 2:] = image[..., 1:, :-2]
    with torch.no_grad():
        found, expected = moved(image), plain(shifted)
    torch.testing.assert_close(found[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3])
    with torch.no_grad():
        moved.offset.bias[18:] = torch.log(torch.tensor(3.0))  # 2 sigmoid(log 3) = 1.5
        torch.testing.assert_close(moved(image), 1.5 * found)


def published(**backbone: Any) -> ModelConfig:
    return parse_model(
        {"name": "deformable_faster_rcnn" if "deformable" in backbone else "faster_rcnn", "backbone": backbone}
    )


@pytest.mark.parametrize("deformable", [None, {"stages": [3, 4, 5]}, {"stages": [5], "modulated": True}])
def test_imagenets_names_load_into_plain_and_deformable(tmp_path: Path, deformable: dict | None) -> None:
    torch.manual_seed(0)
    source = resnet18(weights=None).eval()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    values: dict[str, Any] = {"name": "resnet18", "norm_eps": 1e-5}
    if deformable is not None:
        values["deformable"] = deformable
    model = build_model(published(**values), CLASSES).eval()
    loaded = load_weights(model, tmp_path / "resnet18.pth")
    left = [key for key in loaded.new if key.startswith("backbone.body.")]
    assert all(".offset." in key for key in left)
    assert bool(left) == (deformable is not None)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = image
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(source, part)(x)
        ours = model.backbone.body(image)["3"]
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


def test_the_published_names_of_resnet50_are_all_there() -> None:
    with torch.device("meta"):
        theirs = resnet50(weights=None).state_dict()
        model = build_model(published(name="resnet50", deformable={}), CLASSES)
    own = {key.removeprefix("backbone.body."): tensor.shape for key, tensor in model.state_dict().items()}
    for key, tensor in theirs.items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert own[key] == tensor.shape


def vgg_file(path: Path, normed: bool = False) -> nn.Sequential:
    """Writes torchvision's VGG-16 with random weights, but for the 400 MB of its classifier; gives its features."""
    with torch.device("meta"):
        source = (vgg16_bn if normed else vgg16)(weights=None)
    features = source.features.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in features.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(
                0.5 if key.endswith("var") else -0.05, 1.5 if key.endswith("var") else 0.05, generator=generator
            )
    state = {f"features.{key}": tensor for key, tensor in features.state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, path)
    return features


@pytest.mark.parametrize("normed", [False, True])
def test_vgg16_is_torchvisions_without_the_fourth_pooling(tmp_path: Path, normed: bool) -> None:
    features = vgg_file(tmp_path / "vgg16.pth", normed)
    config = small_config(
        name="faster_rcnn",
        single_map=True,
        changes={"backbone": {"width": 64, "norm": "frozen" if normed else "none", "norm_eps": 1e-5}},
    )
    model = build_model(config, CLASSES).eval()
    loaded = load_weights(model, tmp_path / "vgg16.pth")
    assert not [key for key in loaded.new if key.startswith("backbone.")]
    pools = [place for place, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    image = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        x = (image - 0.5) / 0.25
        for place, layer in enumerate(features):
            if place not in pools[3:]:
                x = layer(x)
        ours = model.encode(image)
    assert list(ours) == ["0"]
    assert ours["0"].shape == (1, 512, 4, 5)
    torch.testing.assert_close(ours["0"], x, rtol=1e-4, atol=1e-6)


def test_eleven_slices_take_imagenets_weights_in_the_middle(tmp_path: Path) -> None:
    features = vgg_file(tmp_path / "vgg16.pth")
    changes = {"backbone": {"width": 64, "norm": "none"}}
    model = build_model(small_config(name="data_level_fusion", changes=changes), CLASSES)
    load_weights(model, tmp_path / "vgg16.pth")
    first = model.state_dict()["backbone.body.features.0.weight"]
    assert first.shape == (64, 11, 3, 3)
    torch.testing.assert_close(first[:, 4:7], features[0].weight.detach())
    assert not first[:, :4].any()
    assert not first[:, 7:].any()


def test_frozen_layers_of_vgg_are_blocks() -> None:
    for count, first in ((0, 0), (2, 10), (5, 30)):
        changes = {"backbone": {"norm": "none", "trainable_layers": 5 - count}}
        model = build_model(small_config(name="rfcn", changes=changes), CLASSES)
        learning = [n for n, p in model.backbone.named_parameters() if p.requires_grad]
        assert all(int(name.split(".")[2]) >= first for name in learning)
        assert len(learning) == 2 * (13 - {0: 0, 2: 4, 5: 13}[count])


@pytest.mark.parametrize(
    ("values", "levels", "strides"),
    [
        ({}, ("0", "1", "2", "3", "pool"), (4, 8, 16, 32, 64)),
        ({"stages": 3, "pyramid_from": 2, "pyramid_top": "p6p7"}, ("0", "1", "p6", "p7"), (8, 16, 32, 64)),
    ],
)
def test_levels_have_the_names_and_strides_that_are_said(
    values: dict[str, Any], levels: tuple[str, ...], strides: tuple[int, ...]
) -> None:
    config = BackboneConfig.model_validate({"name": "resnet18", "width": 16, "pyramid_channels": 16} | values)
    assert (config.levels, config.strides) == (levels, strides)
    with torch.no_grad():
        found = build_backbone(config, 3)(torch.rand(1, 3, 128, 128))
    assert tuple(found) == levels
    assert tuple(128 // maps.shape[-1] for maps in found.values()) == strides


def test_made_models_keep_offsets_at_zero() -> None:
    model = made(small_config(name="deformable_faster_rcnn"))
    offsets = [p for name, p in model.named_parameters() if ".offset." in name]
    assert offsets
    assert not any(p.any() for p in offsets)


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "regnetx_002", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_a_network_of_timm_is_a_pyramid(name: str, norm: str) -> None:
    pytest.importorskip("timm")
    config = BackboneConfig(name=f"timm:{name}", norm=norm, pyramid_channels=16)
    with torch.device("meta"):
        network = build_backbone(config, 5)
        found = network(torch.empty(2, 5, 224, 224))
    assert list(found) == list(config.levels)
    assert [maps.shape for maps in found.values()] == [(2, 16, -(-224 // s), -(-224 // s)) for s in (4, 8, 16, 32, 64)]
    assert not [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    learning = [p.requires_grad for p in network.body.parameters()]
    assert not learning[0]
    assert learning[-1]


def test_a_detector_on_a_network_of_timm_learns() -> None:
    pytest.importorskip("timm")
    backbone = {"name": "timm:convnext_atto", "trainable_layers": 5, "stages": 3, "pyramid_channels": 16}
    config = parse_model(
        {"name": "faster_rcnn", "backbone": {**backbone, "norm": "group"}, "rpn": {"anchor_sizes": [[8]] * 4}}, "timm"
    )
    model = made(config, dtype=torch.float32).train()
    targets = [{key: one[key] for key in ("boxes", "labels")} for one in targets_of(1, dtype=torch.float32)]
    losses = model(images_of(9).float(), torch.arange(9)[None], torch.tensor([4]), targets)
    sum(losses.values()).backward()
    gradient = next(model.backbone.body.parameters()).grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224: its maps have strides .*16.*, asked for .4, 8, 16, 32.; take"),
        ("nothing", "timm:nothing: .* take a pyramid network of timm.list_models"),
    ],
)
def test_other_networks_of_timm_are_refused(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        build_backbone(BackboneConfig(name=f"timm:{name}", norm="group"), 3)


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^timm:resnet18: timm is not installed; pip install .volattn\[timm\].$"):
        build_backbone(BackboneConfig(name="timm:resnet18"), 3)
