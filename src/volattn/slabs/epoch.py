"""An epoch: which slices are targets, and which of them share a slab."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volattn.slabs.images import STRIDE


@dataclass(frozen=True)
class Group:
    """The targets of one slab.

    Attributes:
        targets: 1 to M slices, ascending, all of one residue modulo 3.
    """

    case: str
    targets: tuple[int, ...]


EMPTY, ORGAN_ONLY, WITH_LESION, UNKNOWN = 0, 1, 2, 3
"""What a slice shows. Of which that is unknown, none is ever a target."""


def plan_epoch(
    shown: Mapping[str, NDArray[np.uint8]],
    *,
    targets: int,
    empty_share: float,
    organ_share: float = 1.0,
    seed: int,
    epoch: int,
) -> tuple[Group, ...]:
    """Groups the target slices of an epoch, in the order of the epoch.

    All slices with lesions are targets, each once. Of those that show the organ only, and of the empty ones, as many
    are drawn in every epoch as their shares allow. Within a case and residue, a group holds the targets among
    `targets` neighbouring places 3 apart. The first group is cut short at random, so that neighbours are
    grouped differently in every epoch.

    Args:
        shown: Per case (Z,): `EMPTY`, `ORGAN_ONLY`, `WITH_LESION` or `UNKNOWN`.
        empty_share: Share of slices without any object, 0 to 1; 1 takes every empty slice.
        organ_share: Share of slices without a lesion among those with an object, 0 to 1; 1 takes every one, and so
            does data without any lesion.
        epoch: From 0. The plan is a function of the arguments only.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    chosen = _choose(shown, empty_share, organ_share, generator)
    firsts = generator.integers(1, targets + 1, size=(len(chosen), STRIDE)).tolist()
    groups = [
        Group(case, members)
        for (case, chosen_slices), row in zip(chosen.items(), firsts, strict=True)
        for residue, first in enumerate(row)
        for members in _cut(
            (np.flatnonzero(chosen_slices[residue::STRIDE]) * STRIDE + residue).tolist(), targets, first
        )
    ]
    return tuple(groups[place] for place in generator.permutation(len(groups)))


def _choose(
    shown: Mapping[str, NDArray[np.uint8]], empty_share: float, organ_share: float, generator: np.random.Generator
) -> dict[str, NDArray[np.bool_]]:
    """Marks the epoch's target slices."""
    if not shown:
        return {}
    joined = np.concatenate(list(shown.values()))
    chosen = joined == WITH_LESION
    if not chosen.any():
        organ_share = 1.0
    for kind, share in ((ORGAN_ONLY, organ_share), (EMPTY, empty_share)):
        others = np.flatnonzero(joined == kind)
        if share < 1:
            # The small number keeps a product like 9.999999999 whole.
            allowed = int(share / (1 - share) * chosen.sum() + 1e-6)
            others = generator.choice(others, min(allowed, len(others)), replace=False)
        chosen[others] = True
    ends = np.cumsum([len(slices) for slices in shown.values()])
    return dict(zip(shown, np.split(chosen, ends[:-1]), strict=True))


def _cut(slices: Sequence[int], targets: int, first: int) -> list[tuple[int, ...]]:
    """Cuts ascending slices into groups that span `targets` places at most, the first one `first` places."""
    groups = []
    start, places = 0, first
    while start < len(slices):
        stop = bisect_left(slices, slices[start] + places * STRIDE)
        groups.append(tuple(slices[start:stop]))
        start, places = stop, targets
    return groups
