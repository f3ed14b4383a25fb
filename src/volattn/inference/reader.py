"""A CT's slices as the network sees them, made when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import PreparedSlices, ZWeights
from volattn.slabs.images import input_shape, slab_images
from volattn.structures.volume import Volume


class SliceReader:
    """The 2.5D images of a CT, from the same slices that the store keeps of it.

    Args:
        volume: HU in file axes.
        plan: How it is prepared.
        fixed_z: The slice, in canonical axes, that stays as it is; the first by default.
    """

    def __init__(self, volume: Volume, plan: Plan, fixed_z: int = 0) -> None:
        self.plan = plan
        self.turn = volume.geometry.turn()
        self.prepared = PreparedSlices(volume, plan, fixed_z)
        self.canonical = self.prepared.resampled.geometry

    @property
    def depth(self) -> int:
        """Z, the number of prepared slices."""
        return len(self.prepared)

    @property
    def filled(self) -> tuple[int, int]:
        """How many rows and columns of the network's input a slice fills."""
        return input_shape(*self.prepared.resampled.shape, self.plan.size)

    @property
    def step(self) -> float:
        """Distance between prepared slices, mm."""
        return self.prepared.resampled.step

    def back(self) -> ZWeights:
        """Which prepared slices make each slice of the canonical input, and how."""
        return self.prepared.resampled.back()

    def nearest(self, z: int) -> int:
        """The slice of the canonical input that is nearest to prepared slice `z`."""
        return self.prepared.resampled.nearest(z)

    @property
    def fixed_slice(self) -> int:
        """The prepared slice of `fixed_z`."""
        return self.prepared.resampled.fixed_slice

    def covered(self, first: int, last: int) -> tuple[int, int]:
        """The canonical slices that prepared slices `first` to `last` cover, half-open.

        Each prepared slice reaches half a step to either side.
        """
        weights = self.prepared.resampled.weights
        depth, spacing = self.canonical.shape[0], self.canonical.spacing[0]
        low, high = (float(weights.lower[z]) + float(weights.weight[z]) for z in (first, last))
        half = self.step / spacing / 2
        start, stop = math.ceil(low - half - 1e-6), math.ceil(high + half - 1e-6)
        return max(0, min(start, self.nearest(first))), min(depth, max(stop, self.nearest(last) + 1))

    def pixels(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Boxes (n, 4) xyxy in input pixels as such in pixels of the canonical slices, clipped to them."""
        rows, columns = self.filled
        height, width = self.canonical.shape[1:]
        scale = np.array([width / columns, height / rows] * 2)
        return np.clip(boxes.astype(np.float64) * scale, 0, [width, height, width, height])

    def images(self, centres: Sequence[int], slices: int, device: torch.device) -> Tensor:
        """2.5D images by their centres, (k, S, size, size) in [0, 1]; scaled on the device."""
        plan = self.plan
        return slab_images(self.prepared.__getitem__, centres, self.depth, slices, plan.window, plan.size, device)
