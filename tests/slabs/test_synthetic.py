"""Painted lesions: where they may be, what they leave alone, and that slabs with them are reproducible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from small_stores import Sliced, SmallCase, SmallStore

from volattn.phantoms.painter import SyntheticConfig, paint_structures
from volattn.slabs.loader import SlabConfig, SlabDataset
from volattn.training.recipe import load_recipe

SPACING = (3.0, 2.0, 2.0)
MANY = SyntheticConfig(lesions=(60, 60), look_alikes=(60, 60))


def organ(depth: int = 24) -> np.ndarray:
    z, y, x = np.ogrid[:depth, :64, :64]
    return ((z - depth / 2) / (0.45 * depth)) ** 2 + ((y - 32) / 26) ** 2 + ((x - 32) / 22) ** 2 < 1


def paint(seed: int, config: SyntheticConfig = MANY, first: int = 6, stop: int = 18) -> tuple:
    mask = organ()
    noise = np.random.default_rng(1).normal(100, 10, mask.shape).astype(np.float32)
    hu = noise[first:stop].copy()
    painted = paint_structures(hu, mask, SPACING, np.random.default_rng(seed), config, first=first)
    return noise[first:stop], hu, mask[first:stop], painted


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_nothing_is_painted_outside_the_organ(seed: int) -> None:
    before, after, inside, painted = paint(seed)
    assert np.isfinite(after).all()
    assert (after == before)[~inside].all()
    assert inside[painted.numbers > 0].all()
    assert inside[painted.organ].all()
    assert painted.numbers.max() <= len(painted.structures)
    assert painted.organ[painted.lesions].all(), "a lesion is part of the organ"


def test_every_kind_comes_and_looks_as_it_should() -> None:
    contrasts: dict[str, list[float]] = {}
    depths: dict[str, list[int]] = {}
    for seed in range(25):
        before, after, _, painted = paint(seed)
        for number, structure in enumerate(painted.structures, start=1):
            kind, where = structure.kind, painted.numbers == number
            if where.sum() > 20:
                contrasts.setdefault(kind, []).append(float((after - before)[where].mean()))
                depths.setdefault(kind, []).append(int(where.any((1, 2)).sum()))
    assert contrasts.keys() == {"lesion", "vessel", "duct", "partial volume", "fissure", "gallbladder"}
    assert -80 < np.median(contrasts["lesion"]) < -15
    assert 0.02 < np.mean(np.array(contrasts["lesion"]) > 0) < 0.15
    assert max(depths["partial volume"]) == 1
    assert np.median(depths["vessel"]) > np.median(depths["lesion"])


def test_the_noise_of_the_ct_is_kept() -> None:
    before, after, _, painted = paint(3, SyntheticConfig(lesions=(40, 40), look_alikes=(0, 0), bright=0))
    cores = ndimage.binary_erosion(painted.lesions, iterations=2)
    assert cores.sum() > 100

    def grain(image: np.ndarray) -> float:
        return float((image - ndimage.uniform_filter(image, (1, 3, 3)))[cores].std())

    assert grain(after) == pytest.approx(grain(before), rel=0.1)


@pytest.fixture
def store() -> SmallStore:
    labels = organ().astype(np.uint8)
    image = np.full(labels.shape, 100, np.int16)
    return SmallStore({"healthy": SmallCase(Sliced(image), Sliced(labels), spacing=SPACING)})


def slabs(
    store: SmallStore, synthetic: SyntheticConfig | None = MANY, auxiliary: tuple[str, ...] = (), **config: bool
) -> SlabDataset:
    slab = SlabConfig(bag=3, targets=2, **config)
    return SlabDataset(store, ["healthy"], slab, synthetic=synthetic, auxiliary=auxiliary, seed=4)


def test_a_healthy_organ_shows_lesions_that_a_seed_an_epoch_and_an_index_decide(store: SmallStore) -> None:
    dataset, again = slabs(store), slabs(store)
    targets = [target for index in range(len(dataset)) for target in dataset[index].targets]
    assert sum((target["labels"] == 2).sum() for target in targets) > len(targets), "more than a lesion a slice"
    assert not any(2 in target["labels"] for target in slabs(store, None)[0].targets)
    assert torch.equal(dataset[1].images, again[1].images)
    again.epoch = 1  # The same slices, painted anew.
    assert not torch.equal(dataset[1].images, again[1].images)


def test_label_maps_show_what_was_painted(store: SmallStore) -> None:
    maps, boxes = slabs(store, label_maps=True), slabs(store)
    for index in range(len(maps)):
        for target, other in zip(maps[index].targets, boxes[index].targets, strict=True):
            lesions = (
                other["masks"][other["labels"] == 2].amax(dim=0)
                if 2 in other["labels"]
                else torch.zeros(maps.size, maps.size)
            )
            assert torch.equal((target["label_map"][0] == 2).int(), lesions.int())


def test_look_alikes_have_a_label_behind_the_lesions(store: SmallStore) -> None:
    store.scheme = store.scheme.model_copy(update={"auxiliary": {"cyst": (3,)}})
    plain, named = slabs(store), slabs(store, auxiliary=("cyst", "look-alike"))
    labels = set()
    for index in range(len(plain)):
        assert torch.equal(plain[index].images, named[index].images)
        for target, other in zip(named[index].targets, plain[index].targets, strict=True):
            reported = target["labels"] <= 2
            assert torch.equal(target["masks"][reported], other["masks"])
            lesions, others = target["masks"][target["labels"] == 2].sum(0), target["masks"][~reported].sum(0)
            assert not (lesions * others).any()
            labels |= set(target["labels"].tolist())
    assert labels == {1, 2, 4}, "organ, lesion and look-alike; no cyst is there"


def test_auxiliary_labels_of_the_data_are_objects_of_their_own(store: SmallStore) -> None:
    labels = store.cases["healthy"].labels.array.copy()
    labels[8:16, 30:34, 28:32] = 4  # The second auxiliary class.
    scheme = store.scheme.model_copy(update={"auxiliary": {"cyst": (3,), "vessel": (4,)}})
    named = SmallStore({"healthy": replace(store.cases["healthy"], labels=Sliced(labels))}, scheme=scheme)
    dataset = slabs(named, None, ("vessel",))
    found = [target for index in range(len(dataset)) for target in dataset[index].targets]
    vessels = [target for target in found if 3 in target["labels"]]
    assert len(vessels) == 8, "a slice each"
    assert all(1 in target["labels"] for target in vessels), "they are part of the organ"
    segmented = slabs(named, None, label_maps=True)
    maps = [target["label_map"] for index in range(len(segmented)) for target in segmented[index].targets]
    assert max(int(one.max()) for one in maps) == 1
    with pytest.raises(ValueError, match="prepare the data with --auxiliary duct"):
        slabs(named, None, ("duct",))


def test_organs_alone_need_painted_lesions(store: SmallStore) -> None:
    store.scheme = store.scheme.model_copy(update={"lesion_values": ()})
    assert len(slabs(store))
    with pytest.raises(ValueError, match=r"--set synthetic=\{\}"):
        slabs(store, None)


def test_a_painted_lesion_is_one_object_where_others_touch_it(store: SmallStore) -> None:
    """Components would join what touches, and break what is bent."""
    dataset = slabs(store, SyntheticConfig(lesions=(400, 400), look_alikes=(0, 0)))
    for index in range(len(dataset)):
        for target in dataset[index].targets:
            lesions = target["masks"][target["labels"] == 2]
            assert (lesions.sum(0) <= 1).all()
            assert (lesions.flatten(1).sum(1) > 0).all()


def test_recipes_take_it() -> None:
    assert load_recipe("tiny").synthetic is None
    changed = load_recipe("tiny").updated(["synthetic={lesions: [5, 9]}"])
    assert changed.synthetic is not None
    assert changed.synthetic.lesions == (5, 9)


@pytest.mark.parametrize(
    "value", ["lesions: [30, 10]", "lesions: [0, 1e9]", "lesions: [-1, 3]", "contrast: [.nan, 3]", "bright: 2"]
)
def test_values_that_cannot_be_painted_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=value.partition(":")[0]):
        load_recipe("tiny").updated([f"synthetic={{{value}}}"])


def test_data_without_an_organ_are_refused(store: SmallStore) -> None:
    store.classes = ("lesion",)
    with pytest.raises(ValueError, match="painted into an organ"):
        slabs(store)
