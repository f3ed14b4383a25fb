"""A CT's slices as the network sees them, made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import PreparedSlices
from volattn.preprocessing.resample import ZWeights
from volattn.slabs.images import image_slices, input_shape, to_input
from volattn.structures.volume import Volume


class SliceReader:
    """The 2.5D images of a CT, from the same slices that the store keeps of it.

    Args:
        volume: HU in file axes.
        plan: How it is prepared.
    """

    def __init__(self, volume: Volume, plan: Plan) -> None:
        self.plan = plan
        self.turn = volume.geometry.turn()
        self.prepared = PreparedSlices(volume, plan)
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

    def slice(self, z: int) -> NDArray[np.int16]:
        """Prepared slice `z`, (h, w) HU."""
        return self.prepared[z]

    def images(self, centres: Sequence[int], slices: int, device: torch.device) -> Tensor:
        """2.5D images by their centres, (k, S, size, size) in [0, 1]; scaled on the device."""
        needed = image_slices(centres, self.depth, slices)
        planes = {z: self.slice(z) for z in np.unique(needed).tolist()}
        images = np.stack([np.stack([planes[z] for z in row]) for row in needed.tolist()])
        return to_input(torch.from_numpy(images).to(device), self.plan.window, self.plan.size)
