"""An epoch: which slices are targets, and which of them share a slab."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """The targets of one slab.

    Attributes:
        case: The case's name.
        targets: 1 to M slices, ascending, all of one residue modulo the stride.
    """

    case: str
    targets: tuple[int, ...]


def plan_epoch(
    filled: Mapping[str, NDArray[np.bool_]],
    *,
    targets: int,
    stride: int,
    empty_share: float,
    seed: int,
    epoch: int,
) -> tuple[Group, ...]:
    """Deals the target slices of an epoch into groups, in the order of the epoch.

    All slices with objects are targets, each once, and as many empty ones, drawn anew every epoch, as make up
    `empty_share` of the epoch at most. Within a case and residue, a group holds the targets among `targets`
    neighbouring places `stride` apart. The first group is cut short at random, so that neighbours are grouped
    differently in every epoch.

    Args:
        filled: Per case (Z,): whether the slice has any object.
        targets: M.
        stride: Slices between neighbouring targets.
        empty_share: Share of slices without any object, 0 to 1; 1 takes every empty slice.
        seed: The run's seed.
        epoch: From 0. The plan is a function of the arguments only.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    chosen = _choose(filled, empty_share, generator)
    firsts = generator.integers(1, targets + 1, size=(len(chosen), stride)).tolist()
    groups = []
    for (case, marks), firsts_of_case in zip(chosen.items(), firsts, strict=True):
        slices = np.flatnonzero(marks)
        for residue, first in enumerate(firsts_of_case):
            neighbours = slices[slices % stride == residue].tolist()
            groups += [Group(case, members) for members in _cut(neighbours, targets, stride, first)]
    return tuple(groups[place] for place in generator.permutation(len(groups)))


def _choose(
    filled: Mapping[str, NDArray[np.bool_]], empty_share: float, generator: np.random.Generator
) -> dict[str, NDArray[np.bool_]]:
    """Marks the epoch's target slices."""
    if not filled:
        return {}
    joined = np.concatenate(list(filled.values()))
    empty = np.flatnonzero(~joined)
    if empty_share < 1:
        # The small number keeps a product like 9.999999999 whole.
        allowed = int(empty_share / (1 - empty_share) * joined.sum() + 1e-6)
        empty = generator.choice(empty, min(allowed, len(empty)), replace=False)
    joined[empty] = True
    ends = np.cumsum([len(slices) for slices in filled.values()])
    return dict(zip(filled, np.split(joined, ends[:-1]), strict=True))


def _cut(slices: Sequence[int], targets: int, stride: int, first: int) -> list[tuple[int, ...]]:
    """Cuts ascending slices into groups that span `targets` places at most, the first one `first` places."""
    groups = []
    start, places = 0, first
    while start < len(slices):
        stop = bisect_left(slices, slices[start] + places * stride)
        groups.append(tuple(slices[start:stop]))
        start, places = stop, targets
    return groups
