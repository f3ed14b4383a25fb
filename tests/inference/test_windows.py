"""Windows along z: where they are, that shares sum to one, and that their sums are what whole windows give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_detectors import made, small_config
from test_stream import SIDE, reader, volume_of
from torch import Tensor

from volattn.inference.stream import plan_stream, stream
from volattn.inference.windows import WindowSums, window_centres, window_shares
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import ModelConfig, Window
from volattn.slabs.images import bag_centres

BLOCKS = ("unet_3d", "h_dense_unet")

depths = st.integers(1, 40)
bags = st.sampled_from([1, 3, 5, 7, 9])


@st.composite
def windows(draw: st.DrawFn) -> Window:
    bag = draw(bags)
    return Window(3 * bag, 3 * draw(st.integers(1, bag)))


@given(depth=depths, window=windows())
def test_shares_sum_to_one_and_fall_with_the_distance(depth: int, window: Window) -> None:
    shares = window_shares(depth, window)
    assert list(shares) == list(range(depth))
    for z, row in shares.items():
        assert sum(row.values()) == pytest.approx(1)
        nearest_first = sorted(row, key=lambda centre: abs(centre - z))
        assert [row[centre] for centre in nearest_first] == sorted(row.values(), reverse=True)


@given(depth=depths, window=windows())
def test_a_window_predicts_only_slices_that_it_shows_in_their_place(depth: int, window: Window) -> None:
    """Read off the images that the block is made of: clamped ones show other slices."""
    shares = window_shares(depth, window)
    for centre in window_centres(depth, window):
        images = bag_centres(centre, depth, window.slices // 3)
        places = images.repeat(3) + np.tile([-1, 0, 1], len(images))
        shown = dict(zip(range(centre - window.slices // 2, depth + window.slices), places, strict=False))
        for z, row in shares.items():
            assert centre not in row or shown[z] == z


@given(depth=depths, window=windows())
def test_windows_lie_in_the_volume_and_share_their_images(depth: int, window: Window) -> None:
    centres = window_centres(depth, window)
    half = window.slices // 2
    assert np.all(np.diff(centres) <= window.step)
    if depth < window.slices:
        assert len(centres) == 1
        return
    assert centres[0] == half
    assert centres[-1] == depth - 1 - half
    assert len({z % 3 for z in centres[:-1]}) <= 1
    needed = {z for centre in centres for z in bag_centres(centre, depth, window.slices // 3).tolist()}
    assert len(needed) <= depth // 3 + window.slices // 3 + 1


@given(depth=depths)
def test_without_windows_every_slice_is_a_target(depth: int) -> None:
    assert window_shares(depth, Window()) == {z: {z: 1.0} for z in range(depth)}


@given(data=st.data(), depth=st.integers(1, 80), window=windows())
@settings(max_examples=60)
def test_sums_are_held_for_a_window_at_most(data: st.DataObject, depth: int, window: Window) -> None:
    """In the order of the stream; every slice that is asked for comes once."""
    targets = data.draw(st.none() | st.lists(st.integers(0, depth - 1), unique=True, min_size=1))
    shares = window_shares(depth, window, targets)
    sums = WindowSums(shares)
    ones = torch.ones(1, window.slices, 1, 1, dtype=torch.float64)
    complete: list[int] = []
    centres = dict.fromkeys(centre for row in shares.values() for centre in row)
    for step in plan_stream(depth, window.slices // 3, 1, list(centres)):
        for centre in step.detect:
            for z, probabilities in sums.add(centre, ones):
                assert probabilities.item() == pytest.approx(1)
                complete.append(z)
            assert len(sums) <= window.slices
    assert sorted(complete) == sorted(shares)
    assert len(sums) == 0


def brute_force(model: BagBackbone, volume: Tensor, window: Window) -> NDArray[np.float64]:
    """Every window from scratch, all sums at once: (Z, K, H, W)."""
    depth, slices = len(volume), window.slices
    starts = [*range(0, depth - slices, window.step), max(0, depth - slices)]
    above = [start + slices // 2 for start in starts]
    if depth < slices:
        # The images that the volume is divided into, and the middle one of them.
        division = np.arange(1 if depth % 3 != 1 else 0, depth, 3)
        above = [int(division[len(division) // 2])]
    total = weight = 0.0
    for centre in above:
        images = bag_centres(centre, depth, model.bag)
        with torch.no_grad():
            block = torch.arange(len(images))[None]
            read = reader(volume, model.config.slices)(images.tolist())
            window_of = model.predict_window(
                model.attend_slab(read, block, block[0, [len(images) // 2]]), (SIDE, SIDE)
            )[0]
        gauss = np.exp(-0.5 * ((np.arange(depth) - centre) / (slices / 8)) ** 2)[:, None, None, None]
        place = np.arange(depth) - centre + slices // 2
        gauss[(place < 0) | (place >= slices)] = 0
        total = total + gauss * window_of.movedim(1, 0).numpy()[place.clip(0, slices - 1)]
        weight = weight + gauss
    return total / weight


def streamed(model: BagBackbone, volume: Tensor, **options: object) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The probabilities of the slices as they come."""
    for z, found in stream(model, reader(volume, model.config.slices), len(volume), **options):
        yield z, found.probabilities


def block_config(name: str, step: float = 0.5, bag: int = 3) -> ModelConfig:
    return small_config(name=name, changes={"bag": bag, "segmentation": {"step": step}})


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("depth", "step", "batch"), [(7, 0.5, 2), (16, 0.5, 1), (19, 1.0, 3)])
def test_the_stream_is_gaussian_weighted_windows(name: str, depth: int, step: float, batch: int) -> None:
    model, volume = made(block_config(name, step)).eval(), volume_of(depth)
    wanted = brute_force(model, volume, Window(9, 9 if step == 1 else 3))
    found = dict(streamed(model, volume, batch=batch))
    assert sorted(found) == list(range(depth))
    for z, probabilities in found.items():
        np.testing.assert_allclose(probabilities, wanted[z], atol=1e-6)


@given(depth=depths, bag=st.sampled_from([1, 3, 5]), step=st.sampled_from([0.01, 0.5, 1.0]))
@settings(max_examples=15, deadline=None)
def test_any_depth_bag_and_step(depth: int, bag: int, step: float) -> None:
    model = Echo(block_config("unet_3d", step, bag)).eval()
    volume = volume_of(depth)
    found = dict(streamed(model, volume))
    wanted = brute_force(model, volume, Window(3 * bag, 3 * max(1, int(step * bag))))
    for z in range(depth):
        np.testing.assert_allclose(found[z], wanted[z], atol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_sums_are_those_of_monai(name: str) -> None:
    """MONAI gives no place less than a thousandth of the middle's weight; ours falls to 0.0009."""
    inferers = pytest.importorskip("monai.inferers")
    model, volume = made(block_config(name)).eval(), volume_of(20)

    def whole(block: Tensor) -> Tensor:
        """A block of indices of slices, as the model sees it."""
        first = int(block[0, 0, 0, 0, 0])
        images = reader(volume, model.config.slices)([first + 1, first + 4, first + 7])
        bag = torch.arange(3)[None]
        return model.predict_window(model.attend_slab(images, bag, bag[0, [1]]), (SIDE, SIDE))

    indices = torch.arange(20.0).double()[None, None, :, None, None].expand(1, 1, 20, SIDE, SIDE)
    with torch.no_grad():
        wanted = inferers.sliding_window_inference(
            indices, (9, SIDE, SIDE), 1, whole, overlap=2 / 3, mode="gaussian", sigma_scale=(0.125, 1e3, 1e3)
        )
    for z, probabilities in streamed(model, volume):
        np.testing.assert_allclose(probabilities, wanted[0, :, z], atol=2e-4)


@pytest.mark.parametrize("depth", [6, 9])
def test_a_single_window_is_the_networks(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, volume = Echo(block_config("unet_3d")).eval(), volume_of(depth)
    windows: list[Tensor] = []
    predict = model.predict_window
    monkeypatch.setattr(model, "predict_window", lambda *given: windows.append(predict(*given)) or windows[-1])
    found = dict(streamed(model, volume))
    (window,) = windows
    first = 4 - window_centres(depth, model.window)[0]
    for z in range(depth):
        assert np.array_equal(found[z], window[0, :, z + first].float().numpy())


def test_images_are_encoded_once_and_windows_run_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, volume = (made(block_config("h_dense_unet", 2 / 3), dtype=torch.float32).eval(), volume_of(33).float())
    read, encoded, ran = reader(volume, 5), [], []
    predict = model.predict_window

    def noted(centres: Sequence[int]) -> Tensor:
        encoded.extend(centres)
        return read(centres)

    monkeypatch.setattr(model, "predict_window", lambda *given: ran.append(1) or predict(*given))
    assert sorted(z for z, _ in stream(model, noted, 33)) == list(range(33))
    assert sorted(encoded) == list(range(1, 33, 3))
    assert len(ran) == 5


def test_some_slices_are_as_in_the_whole() -> None:
    model, volume = Echo(block_config("unet_3d")).eval(), volume_of(20)
    wanted = brute_force(model, volume, model.window)
    for targets in ([16], [0, 3], [19, 8, 9]):
        found = dict(streamed(model, volume, targets=targets))
        assert sorted(found) == sorted(targets)
        for z, probabilities in found.items():
            np.testing.assert_allclose(probabilities, wanted[z], atol=1e-6)


class Echo(BagBackbone):
    """Predicts every slice's own values, multiplied by its place in the block: quick, and no two windows agree."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, torch.nn.Identity(), {})
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.double()

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"ct": images}

    def predict_window(self, attended, size: tuple[int, int]) -> Tensor:
        block = attended.regions.pyramid["ct"][attended.regions.bags].flatten(1, 2)
        places = torch.linspace(0.5, 1, block.shape[1], dtype=torch.float64)
        return (block * places[:, None, None])[:, None]
