"""Slabs of key slices: bags in millimetres, boxes that move with their images, and no other slice as a target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from small_deeplesion import row, write_folder

from volattn.datasets.open import open_dataset
from volattn.io.readers.png import write_slice
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.store import Store
from volattn.slabs.augment import Augmentation, AugmentConfig, move_boxes, move_images
from volattn.slabs.images import to_input
from volattn.slabs.loader import SlabConfig, SlabDataset, make_loader
from volattn.slabs.slab import boxed_objects

SCAN = "000001_01_01"
WINDOW = (-200.0, 300.0)
BAG = SlabConfig(bag=3, targets=1)

moves = st.builds(Augmentation, flip=st.booleans(), angle=st.floats(-180, 180), zoom=st.floats(0.7, 1.4))
frames = st.sampled_from([((64, 64), 64), ((40, 64), 64), ((64, 42), 128), ((128, 96), 64)])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("dl")
    write_folder(
        folder / "dl",
        [
            row(SCAN, 10, slices=(4, 16)),
            row(SCAN, 16, (5, 6, 9.5, 12), slices=(4, 16)),
            row(SCAN, 16, (20.5, 21, 30, 30), slices=(4, 16)),
            row("000002_01_01", 7, slices=(7, 7)),
        ],
    )
    return prepare_dataset(open_dataset(folder / "dl"), Plan(z_spacing=2, size=64), folder / "store").store


def test_every_key_slice_is_a_target_once_and_nothing_else_is(store: Store) -> None:
    for empty_share in (0.0, 0.25, 0.9):
        config = replace(BAG, empty_share=empty_share)
        slabs = SlabDataset(store, store.names, config)
        seen = [origin for index in range(len(slabs)) for origin in slabs[index].origins]
        assert sorted(name for name, _ in seen) == sorted(store.names)
        for name, z in seen:
            assert store.case(name).slices.has_lesion[z]


def test_bags_are_in_millimetres_and_clamp_at_the_ends(tmp_path: Path) -> None:
    """Each slice of the files has its own HU, 5 mm apart: what a bag holds tells where it was taken."""
    written = write_folder(tmp_path / "dl", [row(SCAN, 10, slices=(4, 16)), row(SCAN, 5, slices=(4, 16))])
    for path, hu in written.items():
        write_slice(path, np.full_like(hu, 10 * int(path.stem)))
    plan = Plan(z_spacing=2, size=64)
    store = prepare_dataset(open_dataset(tmp_path / "dl"), plan, tmp_path / "store", force=True).store
    slabs = SlabDataset(store, store.names, BAG)
    hu = {}
    for index in range(len(slabs)):
        slab = slabs[index]
        (name, _), rows = slab.origins[0], slab.images[slab.bags[0]][:, :, 3, 3]
        hu[name] = rows * 500 - 200
    # 9 slices 2 mm apart, 6 mm between centres; the files are numbered to the feet, arrays run to the head.
    steps = torch.tensor([[-8.0, -6, -4], [-2, 0, 2], [4, 6, 8]])
    torch.testing.assert_close(hu[f"{SCAN}_010"], 100 - 10 * steps / 5, atol=0.6, rtol=0)
    # 5 mm below the head's end are two slices of 2 mm: centres clamp, and the image there repeats its last slice.
    steps = torch.tensor([[-8.0, -6, -4], [-2, 0, 2], [2, 4, 4]])
    torch.testing.assert_close(hu[f"{SCAN}_005"], 50 - 10 * steps / 5, atol=0.6, rtol=0)


def test_targets_have_boxes_and_labels_and_no_masks(store: Store) -> None:
    slabs = SlabDataset(store, [f"{SCAN}_016"], BAG)
    (target,) = slabs[0].targets
    scale = 64 / 48
    wanted = torch.tensor([[4, 5, 9.5, 12], [19.5, 20, 30, 30]]) * scale
    # 40 rows are scaled to 53, not to 53.3.
    wanted[:, 1::2] *= 53 / (40 * scale)
    assert set(target) == {"boxes", "labels"}
    torch.testing.assert_close(target["boxes"], wanted)
    assert target["labels"].tolist() == [1, 1]
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == torch.int64


def test_a_slab_depends_on_seed_epoch_and_index_only(store: Store) -> None:
    slabs = SlabDataset(store, store.names, BAG, augment=AugmentConfig())
    first = [slabs[index] for index in range(len(slabs))]
    slabs.set_epoch(1)
    slabs.set_epoch(0)
    for index, before in enumerate(first):
        again = slabs[index]
        assert torch.equal(again.images, before.images)
        assert torch.equal(again.targets[0]["boxes"], before.targets[0]["boxes"])


def test_loaders_join_key_slices(store: Store) -> None:
    slabs = SlabDataset(store, store.names, BAG)
    (joined,) = make_loader(slabs, 3)
    assert len(joined.targets) == 3
    assert joined.bags.shape == (3, 3)
    (spawned,) = make_loader(slabs, 3, 1, context="spawn")
    assert torch.equal(spawned.images, joined.images)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(spawned.targets, joined.targets, strict=True))


@settings(deadline=None, max_examples=60)
@given(moves, frames)
def test_a_box_stays_around_its_ellipse(augmentation: Augmentation, frame) -> None:
    (h, w), size = frame
    box = np.array([[w * 0.35, h * 0.4, w * 0.6, h * 0.55]])
    rows, columns = np.mgrid[:h, :w] + 0.5
    (x0, y0, x1, y1) = box[0]
    inside = ((columns - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((rows - (y0 + y1) / 2) / (y1 - y0)) ** 2 <= 0.25
    hu = torch.from_numpy(np.where(inside, 300, -200).astype(np.int16))[None, None]
    image = move_images(hu, augmentation, WINDOW, size)[0, 0].numpy()
    (found,) = move_boxes(box, (h, w), augmentation, size)
    (ys, xs) = ndimage.find_objects((image > 0.5).astype(int))[0]
    tolerance = 1.5 * max(1, size / max(h, w))
    np.testing.assert_allclose(found, [xs.start, ys.start, xs.stop, ys.stop], atol=tolerance)


@given(st.booleans(), st.floats(0.7, 1.4), frames)
def test_without_a_turn_boxes_are_exact(flip: bool, zoom: float, frame) -> None:
    (h, w), size = frame
    box = np.array([[w * 0.3, h * 0.35, w * 0.6, h * 0.5]])
    moved = move_boxes(box, (h, w), Augmentation(flip=flip, zoom=zoom), size)
    image = to_input(torch.zeros(1, 1, h, w), WINDOW, size)
    rows, columns = round(h * size / max(h, w)), round(w * size / max(h, w))
    assert image.shape[-2:] == (size, size)
    x = (box[0, [0, 2]] / w - 0.5) * columns * zoom
    y = (box[0, [1, 3]] / h - 0.5) * rows * zoom
    x = -x[::-1] if flip else x
    wanted = [x[0] + columns / 2, y[0] + rows / 2, x[1] + columns / 2, y[1] + rows / 2]
    np.testing.assert_allclose(moved[0], np.clip(wanted, 0, size), atol=1e-6)


def test_what_leaves_the_frame_is_dropped_and_what_remains_is_cut() -> None:
    boxes = np.array([[60.5, 10, 70, 20], [64, 0, 80, 5], [10, 10, 10.5, 20], [-5, 3, 4, 9], [7, 7, 8, 8]])
    found = boxed_objects(move_boxes(boxes, (64, 64), Augmentation(), 64), label=2)
    assert found["boxes"].tolist() == [[60.5, 10, 64, 20], [0, 3, 4, 9], [7, 7, 8, 8]]
    assert found["labels"].tolist() == [2, 2, 2]
    none = boxed_objects(np.empty((0, 4)), label=1)
    assert none["boxes"].shape == (0, 4)
    assert none["labels"].shape == (0,)
