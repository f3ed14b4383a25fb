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
        geometry: The array's grid.
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
                f"{self.name or 'volume'}: the array's shape {self.array.shape} is not its grid's "
                f"{self.geometry.shape}"
            )

    def canonical(self) -> Volume:
        """The same voxels with array axes z, y, x running to S, P, L, as near as the grid allows.

        The array is a view. A turned volume has no header: the file's describes other axes.
        """
        turn = self.geometry.turn()
        if turn.is_identity:
            return self
        return Volume(turn.apply(self.array), self.geometry.turned(turn), self.name)
