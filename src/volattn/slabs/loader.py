"""Slabs from a store, in the order of an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from volattn.datasets.case import LESION, ORGAN
from volattn.io.names import count_of
from volattn.phantoms.painter import LOOK_ALIKE, Painted, SyntheticConfig, paint_structures
from volattn.slabs.augment import Augmentation, AugmentConfig, move_boxes, move_images, move_maps
from volattn.slabs.epoch import EMPTY, ORGAN_ONLY, UNKNOWN, WITH_LESION, Group, plan_epoch
from volattn.slabs.images import bag_centres, image_slices, slab_table
from volattn.slabs.slab import Slab, Target, boxed_objects, class_map, component_maps, objects
from volattn.structures.lesions import label_components

if TYPE_CHECKING:
    from volattn.preprocessing.store import Store, StoredArray, StoredCase

REACH = 60.0
"""mm above and below a slab in which the centres of painted structures lie."""

TIMEOUT = 600.0
"""Seconds without a slab after which a loader gives up on its workers."""


@dataclass(frozen=True)
class SlabConfig:
    """What a slab is made of, and what an epoch is.

    Attributes:
        label_maps: Whether targets are label maps, for a segmenter, in place of objects.
        window: R, the slices of a target's label map: 1, its own, or those of the block that its bag makes.
        empty_share: Share of an epoch's target slices without any object, at most.
        organ_share: Share of slices without a lesion among those with an object, at most.
    """

    bag: int = 9
    slices: int = 3
    label_maps: bool = False
    window: int = 1
    targets: int = 4
    empty_share: float = 0.25
    organ_share: float = 1.0


class SlabDataset(Dataset[Slab]):
    """The slabs of one epoch; `set_epoch` plans the next.

    A slab is a function of the store, the configuration and (seed, epoch, index): neither the workers nor
    PyTorch's random numbers have a part in it.

    Args:
        augment: How they are changed; None leaves them as prediction sees them.
        synthetic: Lesions and look-alikes painted into the organ of cases with label maps, others in every slab.
        auxiliary: Names of further classes, whose labels follow the lesion's; painted look-alikes are "look-alike".
        seed: The run's seed, at least 0.
        size: Side of the network's input, pixels; the plan's by default.

    Raises:
        ValueError: A case is not in the store, none has an object to learn, or there is no organ to paint into.
    """

    def __init__(
        self,
        store: Store,
        names: Sequence[str],
        config: SlabConfig,
        *,
        augment: AugmentConfig | None = None,
        synthetic: SyntheticConfig | None = None,
        auxiliary: Sequence[str] = (),
        seed: int = 0,
        size: int | None = None,
    ) -> None:
        self.config = config
        self.auxiliary = tuple(auxiliary)
        there = tuple(store.scheme.auxiliary)
        for name in self.auxiliary:
            if name not in there and not (name == LOOK_ALIKE and synthetic is not None):
                raise ValueError(
                    f"model.auxiliary: no label of the store is {name}; prepare the data with --auxiliary {name}"
                    + (", or paint look-alikes with synthetic={}" if name == LOOK_ALIKE else "")
                )
        # A value that no label has stands for look-alikes, which are painted.
        self._auxiliary_values = [LESION + 1 + there.index(name) if name in there else 255 for name in self.auxiliary]
        self.augment = augment
        self.synthetic = synthetic
        self.seed = seed
        self.window = store.plan.window
        self.size = size or store.plan.size
        self.classes = len(store.classes)
        self.cases: dict[str, StoredCase] = {name: store.case(name) for name in names}
        if synthetic is not None and (self.classes < 2 or all(case.boxes is not None for case in self.cases.values())):
            raise ValueError(
                "synthetic: lesions are painted into an organ, and no label map of these cases has one; leave it out"
            )
        if synthetic is None and not store.scheme.lesion_values:
            raise ValueError("the store's labels have no lesions; paint some while training, with --set synthetic={}")
        self._shown = {name: _shown(case, synthetic is not None) for name, case in self.cases.items()}
        if config.empty_share < 1 and not any(
            np.isin(shown, (ORGAN_ONLY, WITH_LESION)).any() for shown in self._shown.values()
        ):
            raise ValueError(
                f"none of {count_of(len(names), 'case')} ({', '.join(names[:5])}) has a labelled object: "
                f"nothing to learn; check the label values, or choose other cases"
            )
        self.set_epoch(0)

    def plan(self, epoch: int) -> tuple[Group, ...]:
        """The groups of an epoch, in its order, without setting it."""
        return plan_epoch(
            self._shown,
            targets=self.config.targets,
            empty_share=self.config.empty_share,
            organ_share=self.config.organ_share,
            seed=self.seed,
            epoch=epoch,
        )

    def set_epoch(self, epoch: int) -> None:
        """Plans an epoch. A loader that exists already keeps to the one it was made for."""
        self.epoch = epoch
        self.groups = self.plan(epoch)

    def __len__(self) -> int:
        """Slabs in the epoch."""
        return len(self.groups)

    def __getitem__(self, index: int) -> Slab:
        """Reads, moves and labels slab `index` of the epoch."""
        group = self.groups[index]
        try:
            return self._build(group, self._draw(index), index)
        except Exception as error:
            error.add_note(f"in slab {index} of epoch {self.epoch}: {group.case}, slices {group.targets}")
            raise

    def _draw(self, index: int) -> Augmentation:
        if self.augment is None:
            return Augmentation()
        return Augmentation.draw(self.augment, self.seed, self.epoch, index)

    def _build(self, group: Group, augmentation: Augmentation, index: int) -> Slab:
        case, config = self.cases[group.case], self.config
        depth = case.shape[0]
        table = slab_table(group.targets, depth, config.bag)
        needed = image_slices(table.centres, depth, config.slices)
        first, stop = int(needed.min()), int(needed.max()) + 1
        image = np.asarray(case.image[first:stop])
        labels: _Labels | StoredArray | None = case.labels if case.boxes is None else None
        if self.synthetic is not None and labels is not None:
            image, labels = self._painted(case, first, image, index)
        slices = torch.from_numpy(image[needed - first])
        return Slab(
            images=move_images(slices, augmentation, self.window, self.size),
            bags=torch.from_numpy(table.bags),
            target_at=torch.from_numpy(table.target_at),
            targets=self._targets(case, labels, group, augmentation),
            origins=[(group.case, z) for z in group.targets],
        )

    def _painted(
        self, case: StoredCase, first: int, image: NDArray[np.int16], index: int
    ) -> tuple[NDArray[np.float32], _Labels]:
        """Slices of a case with painted lesions and look-alikes, (d, h, w) HU, and their labels."""
        assert self.synthetic is not None
        margin = math.ceil(REACH / case.spacing[0])
        start = max(0, first - margin)
        labels = np.asarray(case.labels[start : first + len(image) + margin])
        hu = image.astype(np.float32)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch, index, 1)))
        painted = paint_structures(hu, labels == ORGAN, case.spacing, rng, self.synthetic, first=first - start)
        labels = labels[first - start :][: len(image)].copy()
        labels[(labels == ORGAN) & ~painted.organ] = 0
        return hu, _Labels(labels, first, painted)

    def _targets(
        self, case: StoredCase, labels: _Labels | StoredArray | None, group: Group, augmentation: Augmentation
    ) -> list[Target]:
        if labels is None:
            known = case.boxes
            assert known is not None
            assert set(group.targets) == {known.slice}, "no other slice of the case is known"
            visible = move_boxes(np.array(known.boxes).reshape(-1, 4), case.shape[1:], augmentation, self.size)
            return [boxed_objects(visible, self.classes)]
        if self.config.label_maps:
            return [{"label_map": self._label_map(labels, case.shape[0], z, augmentation)} for z in group.targets]
        # All maps of the slab move in one call, as its images do.
        maps = [self._object_maps(labels, z) for z in group.targets]
        moved = move_maps(np.concatenate(maps), augmentation, self.size)
        return [objects(of_target) for of_target in np.split(moved, len(maps))]

    def _object_maps(self, labels: _Labels | StoredArray, z: int) -> NDArray[np.int32]:
        """The numbered objects of a slice, (classes, h, w), the auxiliary ones last; what is painted is one each."""
        if not isinstance(labels, _Labels):
            return self._components(np.asarray(labels[z]))
        place, painted = z - labels.first, labels.painted
        numbers, lesion = painted.numbers[place], painted.lesions[place]
        maps = self._components(labels.array[place])
        of_lesions = maps[self.classes - 1]
        of_lesions[lesion] = numbers[lesion] + of_lesions.max()
        if LOOK_ALIKE in self.auxiliary:
            maps[self.classes + self.auxiliary.index(LOOK_ALIKE)] = np.where(lesion, 0, numbers)
        return maps

    def _components(self, plane: NDArray[np.uint8]) -> NDArray[np.int32]:
        others = [label_components(plane == value)[0] for value in self._auxiliary_values]
        return np.concatenate([component_maps(plane, self.classes), *(one[None].astype(np.int32) for one in others)])

    def _label_map(self, labels: _Labels | StoredArray, depth: int, z: int, augmentation: Augmentation) -> Tensor:
        """The classes of the slices of a target's window, (R, H, W); clamped images of a block show theirs again."""
        bag, window = self.config.bag, self.config.window
        shown = np.array([z]) if window == 1 else image_slices(bag_centres(z, depth, bag), depth, window // bag).ravel()
        first = int(shown.min())
        classes = class_map(np.asarray(labels[first : int(shown.max()) + 1]), self.classes)
        moved = move_maps(classes.astype(np.int32), augmentation, self.size)
        return torch.from_numpy(moved.astype(np.uint8))[shown - first]


@dataclass(frozen=True)
class _Labels:
    """Label slices from `first` on, without what is painted into them; they are read by their number in the case."""

    array: NDArray[np.uint8]
    first: int
    painted: Painted

    def __getitem__(self, key: slice) -> NDArray[np.uint8]:
        """With the painted lesions."""
        place = slice(key.start - self.first, key.stop - self.first)
        labels = self.array[place].copy()
        labels[self.painted.lesions[place]] = LESION
        return labels


def _shown(case: StoredCase, painted: bool) -> NDArray[np.uint8]:
    """What the slices show; where lesions are painted, every slice of the organ may show one."""
    organ = WITH_LESION if painted and case.boxes is None else ORGAN_ONLY
    shown = np.where(np.asarray(case.slices.has_organ, bool), organ, EMPTY)
    shown = np.where(np.asarray(case.slices.has_lesion, bool), WITH_LESION, shown)
    shown[~np.isin(np.arange(len(shown)), case.annotated_slices)] = UNKNOWN
    return shown.astype(np.uint8)


def steps(slabs: int, slabs_per_step: int, world: int = 1) -> int:
    """Steps of an epoch of so many slabs, over `world` processes with `slabs_per_step` each."""
    return math.ceil(slabs / (slabs_per_step * world))


def slabs_of_steps(slabs: int, slabs_per_step: int, start: int = 0, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Which slabs each step of an epoch takes on one of several processes.

    A step takes the next `slabs_per_step` * `world` slabs, in turn on each process, so that W processes with one
    slab each do together what one process with W slabs does. All have equally many steps; the slabs of the
    last one are shared as evenly as they can be, and only if they are fewer than the processes are some taken twice.

    Args:
        start: Steps to leave out, already done.
        rank: This process, 0 to world - 1.
        world: W, the number of processes.

    Returns:
        Per step from `start`, indices of slabs; never empty.
    """
    assert 0 <= rank < world
    together = slabs_per_step * world
    rounds = (range(place, min(place + together, slabs)) for place in range(start * together, slabs, together))
    return [list(slabs_of_step[rank % len(slabs_of_step) :: world]) for slabs_of_step in rounds]


def _join(slabs: list[Slab]) -> Slab:
    """Joins the slabs of a step. A worker shares them here, where what goes wrong is raised in the main process.

    Left to PyTorch, it happens in a thread of the worker that drops the slab silently.
    """
    joined = Slab.join(slabs)
    return joined if get_worker_info() is None else joined.share_memory()


def make_loader(
    dataset: SlabDataset,
    slabs_per_step: int,
    workers: int = 0,
    *,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
    context: str | None = None,
    timeout: float = TIMEOUT,
) -> DataLoader[Slab]:
    """Joined slabs of the data set's present epoch, one per step, always in the same order.

    Make a new one after each `set_epoch`. A fault in a worker is raised here with the worker's own traceback;
    a worker that is killed, or gives nothing for `timeout` seconds, raises too.

    Args:
        workers: Processes that read ahead; 0 reads here.
        start: Steps of this epoch already done: the loader begins with the next, without reading them.
        context: How workers start: "fork", "spawn" or "forkserver"; Python's choice by default.

    Raises:
        RuntimeError: While iterating: a worker died or hangs.
    """
    return DataLoader(
        copy(dataset),  # It stays at this epoch whatever becomes of the original.
        batch_sampler=slabs_of_steps(len(dataset), slabs_per_step, start, rank, world),
        collate_fn=_join,
        num_workers=workers,
        pin_memory=pin_memory,
        timeout=timeout if workers else 0,
        multiprocessing_context=context if workers else None,
        # Its own generator: starting an epoch must not use up numbers of the training's.
        generator=torch.Generator(),
    )
