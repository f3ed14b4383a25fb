"""A GPU computes what the CPU does. Without a GPU the same functions hold the CPU against itself."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from detector_losses import AT, bags_for, images_for, targets_for
from small_detectors import made, small_config
from torch import Tensor, nn

from volattn import VolumetricAttention
from volattn.models.backbones import DeformableConv
from volattn.models.detectors.rcnn import total
from volattn.models.registry import MODELS


def assert_near(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], most: float) -> None:
    """Each tensor differs by a share `most` of its norm at most; one that is 0 by that itself."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        found = ours[name].detach().cpu()
        assert found.shape == expected.shape, name
        assert found.dtype == expected.dtype, name
        apart = (found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1.0)
        assert float(apart) <= most, f"{name}: {float(apart):.3g}"


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad.cpu() for name, one in module.named_parameters() if one.grad is not None}


@pytest.fixture
def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anchors and regions are sampled by the CPU's random numbers on any device, whose own are others."""
    draw = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda count, device=None: draw(count).to(device))


@pytest.mark.parametrize("scale", ["none", "sqrt", "mean"])
def test_attention_and_its_gradients_are_those_of_the_cpu(device: str, scale: str) -> None:
    """In float32, at N = 9."""
    found: dict[str, dict[str, Tensor]] = {}
    for place in ("cpu", device):
        torch.manual_seed(0)
        va = VolumetricAttention(64, scale=scale)  # type: ignore[arg-type]
        assert va.channel is not None
        assert va.spatial is not None
        with torch.no_grad():
            va.channel.gate.weight.normal_(std=0.05)
            va.spatial.gate.weight.fill_(-0.5)
        levels = torch.linspace(0.8, 1.2, 10)[:, None, None, None] * {"none": 0.1, "sqrt": 0.5, "mean": 3.0}[scale]
        images = (levels * torch.rand(10, 64, 32, 32)).to(place).requires_grad_()
        bags = torch.stack([torch.arange(9), torch.arange(1, 10)]).to(place)
        va.to(place)
        refined = va.refine_with_weights(images[[4, 5]], va.describe(images), bags)
        (refined.features * torch.linspace(-1, 1, 32, device=place)).sum().backward()
        tensors = {name: tensor for name, tensor in refined._asdict().items() if tensor is not None}
        assert images.grad is not None
        found[place] = {**tensors, "images": images.grad, **gradients_of(va)}
    assert found["cpu"]["spatial"].detach().std() > 1e-3  # else any weights would do
    assert_near(found[device], {name: tensor.detach().cpu() for name, tensor in found["cpu"].items()}, 1e-4)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["float32", "float16", "bfloat16"]
)
def test_deformable_convolutions_are_those_of_the_cpu(device: str, dtype: torch.dtype, modulated: bool) -> None:
    """Forward and backward; the shorter types by autocast, as in training."""
    found = []
    for place, mixed in (("cpu", torch.float32), (device, dtype)):
        torch.manual_seed(0)
        module = DeformableConv(nn.Conv2d(16, 16, 3, padding=1, bias=False), modulated)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.1)
        module.to(place)
        images = torch.rand(2, 16, 20, 24).to(place).requires_grad_()
        with torch.autocast(place, mixed, enabled=mixed != torch.float32):
            maps = module(images).float()
        (maps * torch.linspace(-1, 1, 24, device=place)).sum().backward()
        assert images.grad is not None
        found.append({"maps": maps.detach().cpu(), "images": images.grad.cpu(), **gradients_of(module)})
    most = 1e-4 if dtype == torch.float32 else 100 * torch.finfo(dtype).eps
    assert_near(found[1], found[0], most)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_and_predicts_as_on_the_cpu(device: str, name: str, same_draws: None) -> None:
    """Losses, gradients and a step in float64, then what the network with the new weights finds."""
    found = []
    for place in ("cpu", device):
        config = small_config(name=name)
        model = made(config).to(place).train()
        images, bags, at = images_for(config).to(place), bags_for(config).to(place), AT.to(place)
        targets = [{key: value.to(place) for key, value in one.items()} for one in targets_for(config)]
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
        torch.manual_seed(7)
        losses = model(images, bags, at, targets)
        total(losses).backward()
        gradients = gradients_of(model)
        optimiser.step()
        with torch.no_grad():
            attended = model.eval().attend_slab(images, bags, at)
            predicted = model.detect(attended, (64, 64))
        kept = {f"{key} {row}": value for row, one in enumerate(predicted) for key, value in one.items()}
        weights = {f"weights {key}": value for key, value in attended.weights.items()}
        found.append({**losses, **gradients, **kept, **weights})
    assert_near(found[1], {key: value.detach().cpu() for key, value in found[0].items()}, 1e-6)
