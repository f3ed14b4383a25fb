"""The cost of a model from shapes alone, against models that really run."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from detector_losses import targets_for
from small_detectors import CLASSES, detectors, images_of, small_config
from torch.utils.flop_counter import FlopCounterMode

from volattn.inference.stream import stream
from volattn.models.config import FusingConfig, ModelConfig
from volattn.models.cost import _kept, measure
from volattn.models.detectors.rcnn import total
from volattn.models.registry import MODELS, build_model

DETECTORS = {
    name: config
    for name, config in detectors().items()
    if name in (*MODELS, "mask_rcnn-regions", "retinanet-none", "faster_rcnn-vgg16-rounded")
}
every_detector = pytest.mark.parametrize("config", DETECTORS.values(), ids=DETECTORS)


def really_kept(config: ModelConfig) -> int:
    """Bytes that autograd keeps for one target with its bag."""
    torch.manual_seed(0)
    model = build_model(config, CLASSES).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    images = images_of(model.bag, slices=config.slices).float()
    targets = [{k: v.float() if k == "boxes" else v for k, v in targets_for(config)[0].items()}]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = total(model(images, torch.arange(model.bag)[None], torch.tensor([model.bag // 2]), targets))
    loss.backward()
    return sum(size for place, size in kept.items() if place not in own)


def test_what_is_measured_is_freed_at_once() -> None:
    """A hook that hands a node its own output makes a ring that no counting frees."""
    ends = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sigmoid())
    gc.disable()
    try:
        with _kept(ends) as kept:
            output = ends(torch.ones(1, 4))
        left = weakref.ref(output)  # alive while anything in the graph holds the tensor
        del output
        assert kept
        assert left() is None
    finally:
        gc.enable()


@every_detector
@pytest.mark.slow
def test_it_is_near_what_a_step_really_takes(config: ModelConfig) -> None:
    cost = measure(config, CLASSES, 64)
    # Losses and the number of positive regions are not in it: the more, the smaller the network.
    assert cost.memory["full"] == pytest.approx(really_kept(config), rel=0.2)
    assert cost.parameters == sum(p.numel() for p in build_model(config, CLASSES).parameters())
    assert ("none" in cost.memory) == (not isinstance(config, FusingConfig))
    if config.images == 1:
        assert len(set(cost.memory.values())) == 1
    else:
        # A 3D network's work is in the block, not in its images.
        assert cost.memory["checkpoint"] < (1.01 if config.window.slices > 1 else 0.8) * cost.memory["full"]
        if "none" in cost.memory:
            assert cost.memory["none"] < cost.memory["checkpoint"]


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "fcos", "rfcn", "unet_2d"])
def test_operations_are_those_that_are_counted_when_it_runs(name: str) -> None:
    """All proposals of these small detectors reach the head, so the count is exact."""
    config = small_config(name=name, kind="none")
    model = build_model(config, CLASSES).eval()
    at = torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images_of(1).float(), at[:, None], at)
    assert measure(config, CLASSES, 64).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_windows_share_images_and_the_cost_of_a_slice() -> None:
    """Three windows side by side are 27 slices."""
    config = small_config(name="h_dense_unet", changes={"segmentation": {"step": 1.0}})
    model, volume = build_model(config, CLASSES).eval(), images_of(29)[:, 0].float()
    with FlopCounterMode(display=False) as counter:
        count = sum(1 for _ in stream(model, lambda at: volume[np.add.outer(at, np.arange(5)) % 29], 27))
    assert count == 27
    assert measure(config, CLASSES, 64, memory=False).flops == pytest.approx(counter.get_total_flops() / 27, rel=1e-3)


def test_a_deformable_convolution_costs_its_plain_one_and_its_offsets() -> None:
    plain = measure(small_config(name="faster_rcnn"), CLASSES, 64).flops
    # Four 3x3 convolutions of stage 4 on 4 x 4 pixels: 32 > 64, then 64 > 64, each with 18 offsets.
    offsets = 2 * 16 * 9 * 18 * (32 + 64 + 64 + 64)
    assert measure(small_config(name="deformable_faster_rcnn"), CLASSES, 64).flops == plain + offsets


def test_the_published_sizes_of_table_3() -> None:
    """In millions, as counted from the layers of the published code."""
    from volattn.training.recipe import load_recipe

    for row, millions in (
        ("faster-rcnn-vgg16", 71.5),
        ("r-fcn", 16.4),
        ("improved-r-fcn", 17.2),
        ("data-level-fusion", 17.2),
        ("3dce-9", 19.2),
        ("3dce-27", 25.2),
        ("faster-rcnn-resnet50", 41.3),
    ):
        with torch.device("meta"):
            model = build_model(load_recipe(row).model, ("lesion",))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05), row
