"""Windows along z: which slices a target predicts, its share in each, and the sums of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from volattn.models.config import Window
from volattn.slabs.images import STRIDE

Shares = Mapping[int, Mapping[int, float]]
"""By slice the shares of the targets that predict it, by target; those of a slice sum to 1."""

_SIGMA = 1 / 8
"""Standard deviation of the Gaussian as a share of the window: nnU-Net's and MONAI's."""


def window_centres(depth: int, window: Window) -> list[int]:
    """The targets whose windows cover a volume of Z slices, ascending.

    Windows lie inside the volume: the first on its first slices, the last on its last ones, between them a step from
    one to the next. Then no image of their bags is clamped, and with a step that is a multiple of the distance of
    images all windows but the last share theirs. In a shorter volume there is one window, placed such that the
    images around its target which are not clamped show every slice where it is.
    A window of 1 makes every slice a target.
    """
    half = window.slices // 2
    if depth < window.slices:
        first = 0 if depth % STRIDE == 1 else 1
        images = range(first, depth, STRIDE)
        return [images[len(images) // 2]]
    last = depth - 1 - half
    return [*range(half, last, window.step), last]


def window_shares(depth: int, window: Window, targets: Sequence[int] | None = None) -> dict[int, dict[int, float]]:
    """Which targets predict each slice, weighed by a Gaussian of the distance (nnU-Net: Isensee et al. 2021).

    Of the targets that are asked for, in their order; they do not change where windows are.
    """
    half, sigma = window.slices // 2, _SIGMA * window.slices
    weights: dict[int, dict[int, float]] = {z: {} for z in range(depth)}
    for centre in window_centres(depth, window):
        for z in range(max(0, centre - half), min(depth, centre + half + 1)):
            weights[z][centre] = math.exp(-0.5 * ((z - centre) / sigma) ** 2)
    rows = {z: weights[z] for z in (range(depth) if targets is None else targets)}
    return {z: {centre: value / sum(row.values()) for centre, value in row.items()} for z, row in rows.items()}


class WindowSums:
    """Sums of the windows' probabilities of slices, until the last window of a slice is there."""

    def __init__(self, shares: Shares) -> None:
        self._sums: dict[int, Tensor] = {}
        self._left = {z: len(row) for z, row in shares.items()}
        self._predicted: dict[int, list[tuple[int, float]]] = {}
        for z, row in shares.items():
            for centre, share in row.items():
                self._predicted.setdefault(centre, []).append((z, share))

    def __len__(self) -> int:
        """The slices that wait for a window."""
        return len(self._sums)

    def add(self, centre: int, probabilities: Tensor) -> list[tuple[int, Tensor]]:
        """Takes the probabilities (K, R, H, W) of a target's window, once.

        Returns:
            The slices that no other window predicts any more, and their probabilities (K, H, W).
        """
        first = centre - probabilities.shape[1] // 2
        complete: list[tuple[int, Tensor]] = []
        for z, share in self._predicted.pop(centre):
            weighed = probabilities[:, z - first] * share
            if z in self._sums:
                weighed += self._sums.pop(z)
            self._left[z] -= 1
            if self._left[z]:
                self._sums[z] = weighed
            else:
                complete.append((z, weighed.clamp_(0, 1)))
        return complete
