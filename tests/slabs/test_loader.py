"""Slabs read from a store."""

import os
import signal
import time
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_stores import WINDOW, SmallStore, on_disk, small_case, small_store

from volattn.slabs.augment import AugmentConfig
from volattn.slabs.images import bag_centres, image_slices, to_input
from volattn.slabs.loader import SlabConfig, SlabDataset, make_loader, slabs_of_steps, steps
from volattn.slabs.slab import Slab, component_maps, objects


def dataset(store=None, *, augment=None, seed=0, **config) -> SlabDataset:
    store = store or small_store()
    config = SlabConfig(**{"bag": 5, "targets": 3, **config})
    return SlabDataset(store, store.names, config, augment=augment, seed=seed)


def same(one: Slab, other: Slab) -> bool:
    tensors = [
        [slab.images, slab.bags, slab.target_at, *chain(*(target.values() for target in slab.targets))]
        for slab in (one, other)
    ]
    return one.origins == other.origins and all(map(torch.equal, *tensors))


@pytest.mark.parametrize(("bag", "slices"), [(5, 3), (9, 3), (1, 3), (3, 5), (3, 1)])
def test_slab_is_what_separate_bags_would_be(bag, slices):
    store = small_store()
    config = {"bag": bag, "slices": slices}
    slabs = dataset(store, **config, empty_share=1)
    seen = []
    for slab in map(slabs.__getitem__, range(len(slabs))):
        seen += slab.origins
        rows = zip(slab.origins, slab.bags, slab.target_at, slab.targets, strict=True)
        for (name, z), members, at, target in rows:
            case = store.cases[name]
            depth = case.shape[0]

            def image(centre, case=case, depth=depth):
                hu = torch.from_numpy(case.image.array[image_slices(centre, depth, slices)])[None]
                return to_input(hu, WINDOW, 32)[0]

            expected = torch.stack([image(c) for c in bag_centres(z, depth, bag)])
            assert torch.equal(slab.images[members], expected)
            assert torch.equal(slab.images[at], image(z))
            assert target["masks"].shape[1:] == (32, 32)
            if name == "a":  # 32 pixels on its longest side already: the labels as they are, padded.
                plain = objects(component_maps(np.pad(case.labels.array[z], ((0, 0), (0, 4))), 2))
                assert all(torch.equal(target[key], plain[key]) for key in plain)
    assert sorted(seen) == [("a", z) for z in range(20)] + [("b", z) for z in range(10)]


@pytest.mark.parametrize("classes", [("liver", "lesion"), ("lesion",)])
def test_a_block_comes_with_the_classes_of_the_slices_that_it_shows(classes):
    """Moved as its images are: the target's own slice is that of its masks."""
    store = small_store(classes=classes)
    for bag, window in ((5, 15), (5, 1)):
        for augment in (None, AugmentConfig()):
            maps = dataset(store, bag=bag, window=window, label_maps=True, empty_share=1, augment=augment)
            masks = dataset(store, bag=bag, empty_share=1, augment=augment)
            for slab, beside in zip(
                map(maps.__getitem__, range(len(maps))), map(masks.__getitem__, range(len(masks))), strict=True
            ):
                for (name, z), target, other in zip(slab.origins, slab.targets, beside.targets, strict=True):
                    assert target["label_map"].shape == (window, 32, 32)
                    marked = torch.zeros(len(other["labels"]) + 1, 32, 32, dtype=torch.int64)
                    marked[1:] = other["masks"] * other["labels"][:, None, None]
                    assert torch.equal(target["label_map"][window // 2].long(), marked.amax(dim=0))
                    labels = store.cases[name].labels.array
                    if augment is None and labels.shape[1:] == (32, 28) and window > 1:
                        shown = image_slices(bag_centres(z, len(labels), bag), len(labels)).ravel()
                        wanted = labels[shown] if len(classes) == 2 else labels[shown] == 2
                        np.testing.assert_array_equal(target["label_map"][..., :28], wanted)


def test_slab_reads_its_slices_once_and_no_others():
    store = small_store()
    slabs = dataset(store, bag=9)
    for index, group in enumerate(slabs.groups):
        case = store.cases[group.case]
        case.image.read.clear()
        case.labels.read.clear()
        slabs[index]
        depth = case.shape[0]
        low, high = max(group.targets[0] - 13, 0), min(group.targets[-1] + 13, depth - 1)
        assert case.image.read == list(range(low, high + 1))
        assert case.labels.read == list(group.targets)


def test_lesions_alone_are_one_class():
    slabs = dataset(small_store(classes=("lesion",)), empty_share=0)
    labels = torch.cat([target["labels"] for index in range(len(slabs)) for target in slabs[index].targets])
    assert labels.unique().tolist() == [1]


def test_a_slab_depends_on_seed_epoch_and_index_only():
    options = {"augment": AugmentConfig(), "empty_share": 0.5}
    slabs = dataset(**options)
    first = [slabs[index] for index in range(len(slabs))]
    slabs.set_epoch(1)
    assert not same(slabs[0], first[0])
    slabs.set_epoch(0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert all(same(slabs[index], first[index]) for index in reversed(range(len(slabs))))
    assert torch.equal(torch.get_rng_state(), state)
    assert slabs.plan(0) == slabs.groups
    assert not same(dataset(**options, seed=1)[0], first[0])


def test_augmentation_is_one_for_the_slab():
    """A volume whose slices are all alike stays one under augmentation, and its masks stay on it."""
    case = small_case(depth=30, shape=(32, 32))
    case.labels.array[:] = 0
    case.labels.array[:, 8:20, 10:18] = 2
    case.image.array[:] = np.where(case.labels.array == 2, 300, -200)
    turning = AugmentConfig(rotate=45, hu_gain=0, hu_shift=0)
    slabs = dataset(SmallStore({"a": case}), augment=turning)
    for index in range(len(slabs)):
        slab = slabs[index]
        image = slab.images[0, 0]
        assert (slab.images == image).all()
        for target in slab.targets:
            assert target["labels"].tolist() == [1, 2]
            for mask in target["masks"]:
                assert ((image > 0.5) != mask.bool()).sum() <= 0.2 * mask.sum()
    assert not torch.equal(slabs[0].images[0], slabs[1].images[0])


def test_nothing_to_learn_is_refused():
    store = small_store()
    for case in store.cases.values():
        case.labels.array[:] = 0
    with pytest.raises(ValueError, match=r"none of 2 cases \(a, b\) has a labelled object"):
        dataset(store)
    assert len(dataset(store, empty_share=1)) > 0


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5))
def test_processes_together_do_what_one_does(slabs, slabs_per_step, world):
    hands = [slabs_of_steps(slabs, slabs_per_step, rank=rank, world=world) for rank in range(world)]
    alone = slabs_of_steps(slabs, slabs_per_step * world)
    assert list(chain(*alone)) == list(range(slabs))
    assert {len(hand) for hand in hands} == {len(alone)} == {steps(slabs, slabs_per_step, world)}
    for step, together in enumerate(alone):
        dealt = list(chain(*(hand[step] for hand in hands)))
        assert set(dealt) == set(together)
        assert len(dealt) == max(len(together), world)
        sizes = [len(hand[step]) for hand in hands]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.integers(0, 50))
def test_start_leaves_out_what_is_done(slabs, slabs_per_step, world, start):
    for rank in range(world):
        whole = slabs_of_steps(slabs, slabs_per_step, 0, rank, world)
        assert slabs_of_steps(slabs, slabs_per_step, start, rank, world) == whole[start:]


def test_loader_without_workers_joins_slabs_in_order():
    slabs = dataset(augment=AugmentConfig())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    loaded = list(make_loader(slabs, 2))
    assert torch.equal(torch.get_rng_state(), state)
    expected = [Slab.join([slabs[index] for index in hand]) for hand in slabs_of_steps(len(slabs), 2)]
    assert len(loaded) == len(expected) == steps(len(slabs), 2)
    assert all(map(same, loaded, expected))
    assert all(map(same, make_loader(slabs, 2, start=2), loaded[2:]))


def test_loader_keeps_to_its_epoch():
    slabs = dataset(augment=AugmentConfig(), empty_share=0.5)
    expected = list(make_loader(slabs, 1))
    loader = make_loader(slabs, 1)
    slabs.set_epoch(1)
    assert all(map(same, loader, expected))
    assert not all(map(same, make_loader(slabs, 1), expected))


def test_spawned_worker_and_store_on_disk_change_nothing(tmp_path):
    in_memory = small_store()
    expected = dataset(in_memory, augment=AugmentConfig())
    stored = dataset(on_disk(in_memory, tmp_path), augment=AugmentConfig())
    for slabs in (expected, stored):
        slabs.set_epoch(3)
    assert same(stored[0], expected[0])  # Its arrays are open when the worker starts.
    loader = make_loader(stored, 2, 1, start=1, context="spawn")
    alone = list(make_loader(expected, 2, start=1))
    assert len(loader) == len(alone)
    assert all(map(same, loader, alone))


class Faulty:
    """Slices that cannot be read, in one of three ways."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __getitem__(self, key: object) -> None:
        if self.fault == "raises":
            self.decompress()
        if self.fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(4)

    def decompress(self) -> None:
        raise OSError("chunk 7 is damaged")


@pytest.mark.parametrize(
    ("fault", "message", "timeout"),
    [
        ("raises", r"(?s)in decompress.*chunk 7 is damaged.*: a, slices \(", 60),
        ("dies", "killed by signal|exited unexpectedly", 60),
        ("hangs", "timed out", 1),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_dead_worker_says_why(fault, message, timeout):
    case = small_case()
    case = SimpleNamespace(
        shape=case.shape,
        slices=case.slices,
        annotated_slices=case.annotated_slices,
        boxes=None,
        image=Faulty(fault),
        labels=case.labels,
    )
    loader = make_loader(dataset(SmallStore({"a": case})), 1, 1, timeout=timeout)  # type: ignore[dict-item]
    started = time.monotonic()
    with pytest.raises((OSError, RuntimeError), match=message):
        next(iter(loader))
    assert time.monotonic() - started < 30


def test_fault_without_workers_names_case_and_slices():
    case = small_case()
    case = SimpleNamespace(
        shape=case.shape,
        slices=case.slices,
        annotated_slices=case.annotated_slices,
        boxes=None,
        image=Faulty("raises"),
        labels=case.labels,
    )
    slabs = dataset(SmallStore({"a": case}))  # type: ignore[dict-item]
    with pytest.raises(OSError, match="damaged") as caught:
        slabs[0]
    assert f"a, slices {slabs.groups[0].targets}" in caught.value.__notes__[0]
