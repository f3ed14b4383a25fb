"""An array with its place in the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from volattn.structures.geometry import Geometry


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image (HU) or label map.

    Attributes:
        array: (z, y, x) in file axes: for NIfTI the file's axes reversed, (k, j, i).
        name: What to call it in results, e.g. `volume-44`.
        header: The header it was read with, opaque here; the writer carries its geometry over bit for bit.
        notes: What that header left in doubt, a sentence each.
    """

    array: np.ndarray
    geometry: Geometry
    name: str = ""
    header: object | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(
                f"{self.name or 'volume'}: the array's shape {self.array.shape} is not its grid's {self.geometry.shape}"
            )

    def __repr__(self) -> str:
        sizes = (self.array.shape, self.geometry.spacing)
        shape, spacing = (" x ".join(f"{size:g}" for size in three) for three in sizes)
        return f"Volume({self.name or 'volume'}: {self.array.dtype} {shape} voxels (z, y, x), {spacing} mm)"

    def canonical(self) -> Volume:
        """The same voxels with array axes z, y, x running to S, P, L, as near as the grid allows.

        The array is a view. A turned volume has no header: the file's describes other axes.
        """
        turn = self.geometry.turn()
        if turn.is_identity:
            return self
        return Volume(turn.apply(self.array), self.geometry.turned(turn), self.name)


Box = tuple[slice, slice, slice]


def foreground_box(*arrays: np.ndarray) -> Box:
    """The smallest box around all voxels that are not zero in one of some arrays (z, y, x), read plane by plane.

    Its slices are empty if there is nothing but zeros.
    """
    assert arrays
    filled = np.array([any(bool(array[z].any()) for array in arrays) for z in range(len(arrays[0]))], bool)
    z = _extent(filled)
    height, width = arrays[0].shape[1:]
    rows, columns = np.zeros(height, bool), np.zeros(width, bool)
    for array in arrays:
        if z.stop > z.start:
            plane = np.bitwise_or.reduce(array[z], axis=0) != 0
            rows |= plane.any(axis=1)
            columns |= plane.any(axis=0)
    return z, _extent(rows), _extent(columns)


def _extent(filled: np.ndarray) -> slice:
    places = np.flatnonzero(filled)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
