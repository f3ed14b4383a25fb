"""Under autocast the convolutions are cheap and the boxes exact."""

from __future__ import annotations

import pytest
import torch
from detector_losses import targets_for
from small_detectors import images_of, made, small_config

from volattn.models.detectors.rcnn import total
from volattn.models.precision import full
from volattn.models.registry import MODELS


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet", "fcos", "rfcn"])
def test_anchors_are_those_of_full_precision(name: str) -> None:
    """At 600 px bfloat16 would put them on a grid of 4 px."""
    model = made(small_config(1, name), dtype=torch.float32).eval()
    maker = model.rpn.anchor_generator if name in ("mask_rcnn", "rfcn") else model.detector.anchor_generator
    anchors: list[torch.Tensor] = []
    maker.register_forward_hook(lambda module, inputs, outputs: anchors.extend(outputs))
    images = torch.rand(1, 3, 64, 600, generator=torch.Generator().manual_seed(0))
    for mixed in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            pyramid = model.encode(images)
            assert (next(iter(pyramid.values())).dtype == torch.bfloat16) == mixed
            found = model.detect(model.attend(pyramid, model.describe(pyramid), torch.tensor([[0]])), (64, 600))
        assert found[0]["boxes"].dtype == torch.float32
    exact, ours = anchors
    assert ours.dtype == torch.float32
    assert torch.equal(exact, ours)
    assert not torch.equal(exact.bfloat16().float(), exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_predicts_and_learns_under_autocast(name: str, dtype: torch.dtype, device: str) -> None:
    config = small_config(name=name)
    model = made(config, dtype=torch.float32).eval().to(device)
    images = images_of(model.bag, slices=config.slices).float().to(device)
    bag = (torch.arange(model.bag, device=device)[None], torch.tensor([model.bag // 2], device=device))
    with torch.no_grad():
        exact = model.attend_slab(images, *bag)
        with torch.autocast(device, dtype):
            attended = model.attend_slab(images, *bag)
            found = model.detect(attended, (64, 64))
    for kind, weights in exact.weights.items():
        torch.testing.assert_close(attended.weights[kind], weights, rtol=0.02, atol=0.02)
    for level, maps in exact.pyramid.items():
        error = (attended.pyramid[level].float() - maps).norm() / maps.norm()
        assert error < 20 * torch.finfo(dtype).eps
    assert all(bool(value.isfinite().all()) for one in found for value in one.values())
    targets = [{key: one.to(device) for key, one in row.items()} for row in floats(targets_for(config)[:1])]
    with torch.autocast(device, dtype):
        loss = total(model.train()(images, *bag, targets))
    loss.backward()
    assert bool(loss.isfinite())


def floats(targets: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    return [{key: one.float() if key == "boxes" else one for key, one in row.items()} for row in targets]


def test_only_short_floats_are_made_longer() -> None:
    short, long, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2).double(), torch.arange(2)
    made_full = full({"a": [short], "b": (long, whole), "c": None})
    assert made_full["a"][0].dtype == torch.float32
    assert made_full["b"][0] is long
    assert made_full["b"][1] is whole
    assert made_full["c"] is None
