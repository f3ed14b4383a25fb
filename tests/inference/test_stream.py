"""The stream: each image once, few pyramids, and the detections of bags built from scratch."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_detectors import made, small_config
from torch import Tensor

from volattn.inference.stream import (
    SliceDetections,
    SliceProbabilities,
    mean_weights,
    plan_stream,
    stream,
    stream_order,
)
from volattn.models.bag_backbone import BagBackbone
from volattn.models.registry import MODELS
from volattn.slabs.images import bag_centres, image_slices

SIDE = 64


def volume_of(depth: int) -> Tensor:
    """Blobs that change from slice to slice, so that every bag says something else."""
    generator = torch.Generator().manual_seed(depth)
    return torch.rand(depth, SIDE, SIDE, dtype=torch.float64, generator=generator)


def reader(volume: Tensor, slices: int = 3):
    def read(centres: Sequence[int]) -> Tensor:
        return volume[torch.from_numpy(image_slices(centres, len(volume), slices))]

    return read


def from_scratch(model: BagBackbone, volume: Tensor, z: int) -> dict[str, Tensor]:
    """The detections of one target whose bag shares nothing with any other."""
    centres = bag_centres(z, len(volume), model.bag)
    images = reader(volume)(centres.tolist())
    with torch.no_grad():
        return model(images, torch.arange(len(centres))[None], torch.tensor([len(centres) // 2]))[0]


@given(depth=st.integers(1, 60), bag=st.sampled_from([1, 3, 5, 9, 15]), batch=st.integers(1, 7))
@settings(max_examples=60)
def test_plan_encodes_and_detects_each_slice_once_and_holds_little(depth: int, bag: int, batch: int) -> None:
    steps = plan_stream(depth, bag, batch)
    assert sorted(z for step in steps for z in step.encode) == list(range(depth))
    assert sorted(z for step in steps for z in step.detect) == list(range(depth))
    assert sorted(z for step in steps for z in step.drop) == list(range(depth))

    encoded: set[int] = set()
    kept: set[int] = set()
    waiting: set[int] = set()
    for step in steps:
        assert len(step.encode) <= batch
        encoded |= set(step.encode)
        kept |= set(step.encode)
        waiting |= set(step.encode)
        assert len(waiting) <= (bag + 1) // 2 + batch - 1
        assert len(kept) <= bag + 2 + batch - 1
        for z in step.detect:
            assert {z, *bag_centres(z, depth, bag).tolist()} <= kept
        waiting -= set(step.detect)
        kept -= set(step.drop)
        # Nothing waits that could go on.
        assert not [z for z in waiting if set(bag_centres(z, depth, bag).tolist()) <= encoded]


@given(data=st.data(), depth=st.integers(1, 40), bag=st.sampled_from([1, 3, 5, 9]), batch=st.integers(1, 4))
@settings(max_examples=40)
def test_plan_for_some_targets_encodes_their_bags_and_no_more(
    data: st.DataObject, depth: int, bag: int, batch: int
) -> None:
    targets = data.draw(st.lists(st.integers(0, depth - 1), unique=True))
    steps = plan_stream(depth, bag, batch, targets)
    needed = {z for target in targets for z in {target, *bag_centres(target, depth, bag).tolist()}}
    assert sorted(z for step in steps for z in step.encode) == sorted(needed)
    assert sorted(z for step in steps for z in step.detect) == sorted(targets)
    assert sorted(z for step in steps for z in step.drop) == sorted(needed)


def test_hidden_neighbours_are_bags_of_the_target_alone() -> None:
    model, volume = made(small_config(5, "mask_rcnn")).eval(), volume_of(6)
    found = dict(stream(model, reader(volume), 6, neighbours=False))
    for z in range(6):
        with torch.no_grad():
            images = reader(volume)([z])
            alone = model(images, torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, dtype=torch.long))[0]
        np.testing.assert_allclose(found[z].scores, alone["scores"].numpy(), rtol=1e-5)
    usual = dict(stream(model, reader(volume), 6))
    assert any(
        len(usual[z].scores) != len(found[z].scores) or (usual[z].scores != found[z].scores).any() for z in found
    )
    assert all(step.encode == step.detect == step.drop for step in plan_stream(6, 5, neighbours=False))


def test_order_is_three_passes_the_second_from_the_end() -> None:
    assert stream_order(9) == [0, 3, 6, 8, 5, 2, 1, 4, 7]
    assert stream_order(7) == [0, 3, 6, 1, 4, 2, 5]
    assert stream_order(1) == [0]


@pytest.mark.parametrize(
    ("bag", "depth", "batch", "attention"),
    [
        (5, 14, 1, {}),
        (5, 13, 3, {"scale": "none", "gate_kernel": 7}),
        (3, 10, 2, {"kind": "stacked", "maps": 4}),
        (9, 11, 2, {"kind": "spatial"}),
        (3, 2, 1, {"kind": "channel", "shared": True}),
        (5, 9, 1, {"location": "roi"}),
        (3, 8, 3, {"location": "roi"}),
        (1, 5, 2, {}),
        (9, 5, 2, {"kind": "none"}),
    ],
)
def test_stream_equals_bags_from_scratch(bag: int, depth: int, batch: int, attention: dict[str, object]) -> None:
    model = made(small_config(bag, **attention)).eval()
    volume = volume_of(depth)
    found = dict(stream(model, reader(volume), depth, batch=batch))
    assert sorted(found) == list(range(depth))
    for z in range(depth):
        wanted = from_scratch(model, volume, z)
        assert len(wanted["scores"]) > 0
        np.testing.assert_array_equal(found[z].labels, wanted["labels"])
        np.testing.assert_allclose(found[z].scores, wanted["scores"], atol=1e-6)
        np.testing.assert_allclose(found[z].boxes, wanted["boxes"], atol=1e-4)
        masks = found[z].masks
        assert masks is not None
        np.testing.assert_allclose(masks, wanted["masks"][:, 0], atol=1e-3)
        assert all(row.shape == (bag,) for row in found[z].weights.values())
        assert bool(found[z].weights) == (attention.get("kind") not in ("none", "stacked"))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_stream_of_some_targets_equals_the_whole(name: str) -> None:
    model = made(small_config(5, name)).eval()
    volume, targets = volume_of(11), [7, 2]
    read = reader(volume, model.config.slices)
    whole = dict(stream(model, read, len(volume)))
    some = dict(stream(model, read, len(volume), targets=targets, batch=2))
    assert sorted(some) == sorted(targets)
    for z, found in some.items():
        assert isinstance(found, SliceProbabilities) == (model.config.output == "label_map")
        if isinstance(found, SliceProbabilities):
            np.testing.assert_allclose(found.probabilities, whole[z].probabilities, atol=1e-6)
            continue
        assert len(found.scores) > 0
        np.testing.assert_array_equal(found.labels, whole[z].labels)
        np.testing.assert_allclose(found.scores, whole[z].scores, atol=1e-6)
        np.testing.assert_allclose(found.boxes, whole[z].boxes, atol=1e-4)
        assert (found.masks is not None) == (model.config.output == "masks")


def test_context_matters_to_the_comparison() -> None:
    """The oracle would see a wrong bag: with the target alone the same model finds something else."""
    model = made(small_config(5)).eval()
    volume = volume_of(9)
    images = reader(volume)([4])
    with torch.no_grad():
        alone = model(images, torch.zeros(1, 5, dtype=torch.long), torch.tensor([0]))[0]
    assert not np.allclose(alone["scores"], from_scratch(model, volume, 4)["scores"], atol=1e-4)


@pytest.mark.parametrize(("location", "most"), [("pyramid", 5), ("roi", 1)])
def test_few_pyramids_are_held(location: str, most: int) -> None:
    """(N + 1) / 2 before the RPN, at any depth; after RoIAlign they go to their N + 2 places at once."""
    model = made(small_config(9, location=location), dtype=torch.float32).eval()
    made_by_encode: list[weakref.ref[Tensor]] = []
    batches: list[int] = []
    alive: list[int] = []
    encode = model.encode

    def counted(images: Tensor):
        pyramid = encode(images)
        batches.append(len(images))
        made_by_encode.append(weakref.ref(pyramid["0"]))
        alive.append(sum(reference() is not None for reference in made_by_encode))
        return pyramid

    model.encode = counted  # type: ignore[method-assign]
    for _ in stream(model, reader(volume_of(25).float()), 25):
        pass
    assert batches == [1] * 25
    assert max(alive) == most


def test_stream_leaves_gradients_on() -> None:
    model = made(small_config(3), dtype=torch.float32).eval()
    for _ in stream(model, reader(volume_of(3).float()), 3):
        assert torch.is_grad_enabled()


def test_detections_are_on_the_cpu_in_their_types() -> None:
    model = made(small_config(3), dtype=torch.float32).eval()
    _, found = next(stream(model, reader(volume_of(4).float()), 4))
    assert isinstance(found, SliceDetections)
    kinds = (found.boxes.dtype, found.labels.dtype, found.scores.dtype, found.masks.dtype)
    assert kinds == (np.float32, np.int64, np.float32, np.float16)
    assert found.masks.shape == (len(found.boxes), 28, 28)


def test_mean_weights_are_over_levels_and_sum_to_one() -> None:
    model = made(small_config(5), dtype=torch.float32).eval()
    found = dict(stream(model, reader(volume_of(7).float()), 7))
    weights = mean_weights(found[3].weights)
    assert sorted(weights) == ["channel", "spatial"]
    for kind, row in weights.items():
        levels = [value for name, value in found[3].weights.items() if name.startswith(kind)]
        assert len(levels) == 4
        np.testing.assert_allclose(row, sum(levels) / 4, rtol=1e-6)
        np.testing.assert_allclose(row.sum(), 1, rtol=1e-5)
