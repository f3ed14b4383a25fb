"""A CT's slices as the network sees them, made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volattn.preprocessing.intensity import clamp, whole
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.resample import ZWeights, resampling_weights, shrink, shrunk_shape, z_weights
from volattn.slabs.images import image_slices, input_shape, to_input
from volattn.structures.volume import Volume

_FEW = 8


class SliceReader:
    """The slices of `prepare_volume`, bit for bit, without the prepared volume.

    At 1.5 mm a CT with 5 mm slices has 3.3 times as many; prediction would hold them all for the sake of
    three at a time.

    Args:
        volume: HU in file axes.
        plan: How it is prepared.
    """

    def __init__(self, volume: Volume, plan: Plan) -> None:
        self.plan = plan
        self.turn = volume.geometry.turn()
        canonical = volume.canonical()
        self.canonical = canonical.geometry
        depth, *plane = self.canonical.shape
        self.step = plan.z_spacing or self.canonical.spacing[0]
        self.weights = resampling_weights(depth, self.canonical.spacing[0], self.step)
        self.plane = shrunk_shape((plane[0], plane[1]), plan.size)

        # The stream passes three times. Shrunk slices are slow to make and small: they are kept where all of
        # them take no more than a byte per voxel of the input.
        kept = depth if 4 * self.plane[0] * self.plane[1] <= plane[0] * plane[1] else _FEW
        self._plane = lru_cache(maxsize=kept)(
            lambda z: shrink(clamp(canonical.array[z], plan.window), self.plane)
        )

    @property
    def depth(self) -> int:
        """Z, the number of prepared slices."""
        return len(self.weights.lower)

    @property
    def filled(self) -> tuple[int, int]:
        """How many rows and columns of the network's input a slice fills."""
        return input_shape(*self.plane, self.plan.size)

    def back(self) -> ZWeights:
        """Which prepared slices make each slice of the canonical input, and how."""
        return z_weights(self.canonical.shape[0], self.canonical.spacing[0], self.step)

    def nearest(self, z: int) -> int:
        """The slice of the canonical input that is nearest to prepared slice `z`."""
        return int(self.weights.upper[z] if self.weights.weight[z] > 0.5 else self.weights.lower[z])

    def slice(self, z: int) -> NDArray[np.int16]:
        """Prepared slice `z`, (h, w) HU."""
        mixed = self._plane(int(self.weights.lower[z]))
        if self.weights.weight[z] > 0:
            upper = self._plane(int(self.weights.upper[z]))
            mixed = mixed + np.float32(self.weights.weight[z]) * (upper - mixed)
        return whole(mixed)

    def images(self, centres: Sequence[int], slices: int, device: torch.device) -> Tensor:
        """2.5D images by their centres, (k, S, size, size) in [0, 1]; scaled on the device."""
        needed = image_slices(centres, self.depth, slices)
        planes = {z: self.slice(z) for z in np.unique(needed).tolist()}
        images = np.stack([np.stack([planes[z] for z in row]) for row in needed.tolist()])
        return to_input(torch.from_numpy(images).to(device), self.plan.window, self.plan.size)
