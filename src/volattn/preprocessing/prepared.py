"""One volume, prepared: the same function for the store and for prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LESION, ORGAN, LabelScheme
from volattn.preprocessing.intensity import clamp, whole
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.resample import ZWeights, resampling_weights, shrink, shrunk_shape, z_weights
from volattn.structures.geometry import Geometry, Turn
from volattn.structures.volume import Volume


@dataclass(frozen=True)
class Prepared:
    """A volume as the network's slices are cut from it.

    Attributes:
        image: (Z, h, w) int16, HU within the plan's window, canonical axes.
        turn: From the file's axes to canonical ones.
        source: The file's grid, in file axes.
        canonical: The file's grid, turned; not resampled.
        step: Distance between the slices of `image`, mm.
    """

    image: NDArray[np.int16]
    turn: Turn
    source: Geometry
    canonical: Geometry
    step: float

    def back(self) -> ZWeights:
        """Which prepared slices make each slice of the canonical input, and how."""
        return z_weights(self.canonical.shape[0], self.canonical.spacing[0], self.step)


def prepare_volume(volume: Volume, plan: Plan) -> Prepared:
    """Turns, clamps, resamples and shrinks a CT.

    HU are clamped before anything is averaged, so that metal and air do not bleed into their neighbours, and rounded
    once, at the end.

    Args:
        volume: HU in file axes.
        plan: How.
    """
    canonical = volume.canonical()
    step = plan.z_spacing or canonical.geometry.spacing[0]
    image = _resampled(
        lambda z: clamp(canonical.array[z], plan.window), canonical.geometry, step, plan.size, np.int16, whole
    )
    return Prepared(image, volume.geometry.turn(), volume.geometry, canonical.geometry, step)


def prepare_labels(labels: Volume, scheme: LabelScheme, plan: Plan) -> NDArray[np.uint8]:
    """Label map on the grid of `prepare_volume`'s image: 0 background, 1 organ, 2 lesion.

    Each class (the organ with its lesions; the lesions) is resampled linearly and cut at 0.5.

    Args:
        labels: The data set's values in file axes.
        scheme: What they mean.
        plan: How.

    Raises:
        ValueError: A value is not in the scheme.
    """
    canonical = labels.canonical()
    geometry = canonical.geometry
    step = plan.z_spacing or geometry.spacing[0]
    normal = scheme.normalise(canonical.array)
    found = [
        _resampled(
            lambda z, least=least: (normal[z] >= least).astype(np.float32),
            geometry,
            step,
            plan.size,
            np.uint8,
            lambda share: share >= 0.5,
        )
        for least in (ORGAN, LESION)
    ]
    return np.where(found[1] > 0, np.uint8(LESION), found[0])


def _resampled(
    plane: Callable[[int], np.ndarray],
    geometry: Geometry,
    step: float,
    size: int,
    dtype: type,
    finish: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Slice by slice, so that nothing but the result is as large as the volume."""
    depth, *in_plane = geometry.shape
    shape = shrunk_shape((in_plane[0], in_plane[1]), size)
    weights = resampling_weights(depth, geometry.spacing[0], step)
    result = np.empty((len(weights.lower), *shape), dtype)
    kept: dict[int, np.ndarray] = {}
    for k, (lower, upper, weight) in enumerate(zip(*weights, strict=True)):
        kept = {z: kept[z] if z in kept else shrink(plane(z), shape) for z in {int(lower), int(upper)}}
        mixed = kept[int(lower)]
        if weight > 0:
            mixed = mixed + np.float32(weight) * (kept[int(upper)] - mixed)
        result[k] = finish(mixed)
    return result
