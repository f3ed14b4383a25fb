"""The key slices of a phantom, measured and boxed as a radiologist's findings are in DeepLesion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from volattn.datasets.case import LESION
from volattn.datasets.phantom.make import Phantom
from volattn.structures.components import label_components
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import measure_lesions

MOST = 3
"""Key slices of a phantom."""

AROUND_MM = 30.0
"""What is kept of the CT on either side of a key slice."""

_MARGIN = 5  # of 512 pixels: DeepLesion's boxes are that much wider than the marked diameters
_LEAST_PIXELS = 3  # nobody marks less


@dataclass(frozen=True)
class MarkedLesion:
    """A lesion on a key slice.

    Attributes:
        z: The key slice.
        ends: (4, 2) pixels (x, y), centres at whole numbers: both ends of the long diameter and of the short one.
        box: (x0, y0, x1, y1) half-open pixels: around the ends, with a margin; it may reach over the image's edge.
        diameters: Long and short, pixels.
    """

    z: int
    ends: NDArray[np.float64]
    box: tuple[float, float, float, float]
    diameters: tuple[float, float]


def mark_lesions(phantom: Phantom) -> list[MarkedLesion]:
    """Chooses key slices, the largest lesions' first, and marks every lesion that they show.

    No two key slices are through one lesion.
    """
    components, _ = label_components(phantom.labels == LESION)
    geometry = Geometry.aligned(components.shape, phantom.spacing)
    shown: set[int] = set()
    keys: list[int] = []
    for lesion in sorted(measure_lesions(components, geometry), key=lambda found: -found.long_axis_mm):
        if lesion.id not in shown and lesion.voxels >= _LEAST_PIXELS and len(keys) < MOST:
            shown |= set(np.unique(components[lesion.key_slice]).tolist())
            keys.append(lesion.key_slice)
    return [lesion for z in sorted(keys, reverse=True) for lesion in _marked(components[z], z)]


def _marked(components: NDArray[np.uint32], z: int) -> Iterator[MarkedLesion]:
    for number in np.unique(components[components > 0]):
        rows, columns = np.nonzero(components == number)
        if len(rows) < _LEAST_PIXELS:
            continue
        points = np.stack([columns, rows], axis=1).astype(np.float64)
        ends, diameters = _diameters(points)
        margin = _MARGIN * components.shape[1] / 512
        (x0, y0), (x1, y1) = ends.min(axis=0) - margin, ends.max(axis=0) + 1 + margin
        yield MarkedLesion(z, ends, (float(x0), float(y0), float(x1), float(y1)), diameters)


def _diameters(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Ends of the longest distance between points (n, 2), and of the widest extent across it; their lengths."""
    # Of a row only its outermost pixels can be an end; `np.nonzero` gave them row by row, columns in order.
    new = np.flatnonzero(np.diff(points[:, 1])) + 1
    outer = points[np.unique([0, *new.tolist(), *(new - 1).tolist(), len(points) - 1])]
    apart = squareform(pdist(outer))
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    long = float(apart[first, second])
    along = (outer[second] - outer[first]) / long
    across = outer @ np.array([-along[1], along[0]])
    low, high = int(across.argmin()), int(across.argmax())
    return outer[[first, second, low, high]], (long, float(across[high] - across[low]))
