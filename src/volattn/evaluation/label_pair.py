"""Reference and prediction of one case, on one grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LESION, ORGAN, LabelScheme
from volattn.evaluation.contingency import Contingency
from volattn.structures.crop import Box, foreground_box
from volattn.structures.geometry import Geometry, Turn, check_same_grid
from volattn.structures.volume import Volume

Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Of the reference and of the prediction."""


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Two label maps: 0 background, 1 organ, 2 lesion.

    Attributes:
        reference: (z, y, x) in canonical axes, cropped to what is not background in one of the two.
        prediction: The same shape.
        geometry: The grid of both.
        turn: From the axes of the files to these.
        note: That the prediction's own grid was not trusted; None if it is the reference's.
    """

    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    geometry: Geometry
    turn: Turn
    note: str | None = None

    @classmethod
    def cropped(cls, reference: NDArray[np.uint8], prediction: NDArray[np.uint8], geometry: Geometry) -> Self:
        """Crops label maps (z, y, x) of one shape in canonical axes."""
        box = _not_empty(foreground_box(reference, prediction))
        return cls(reference[box], prediction[box], geometry.cropped(box), Turn())

    @classmethod
    def of(
        cls,
        reference: Volume,
        prediction: Volume,
        schemes: tuple[LabelScheme, LabelScheme],
        called: tuple[str, str],
        *,
        way_out: str = "",
        trust_grid: bool = False,
    ) -> Self:
        """Crops two label volumes, translates their values and turns them to canonical axes.

        Args:
            reference: As read.
            prediction: As read.
            schemes: What the values of each mean.
            called: What errors call each: its file.
            way_out: What else can be done about a label that is unknown, after "correct the labels".
            trust_grid: Voxels are compared as they lie, whatever the prediction's grid says.

        Raises:
            ValueError: The grids differ (`check_same_grid`), or a label is unknown.
        """
        note = check_same_grid(reference.geometry, prediction.geometry, called, trust_grid)
        box = _not_empty(foreground_box(reference.array, prediction.array))
        turn = reference.geometry.turn()
        parts = []
        for volume, scheme, name in zip((reference, prediction), schemes, called, strict=True):
            try:
                part = scheme.normalise(volume.array[box])
            except ValueError as error:
                raise ValueError(f"{name}: {error}{way_out}") from None
            parts.append(np.ascontiguousarray(turn.apply(part)))
        return cls(parts[0], parts[1], reference.geometry.cropped(box).turned(turn), turn, note)

    @cached_property
    def organ(self) -> Masks:
        """Voxels of the organ with its lesions."""
        return self.reference >= ORGAN, self.prediction >= ORGAN

    @cached_property
    def lesion(self) -> Masks:
        """Voxels of lesions, in the box around all of them."""
        return self.reference[self._lesion_box] == LESION, self.prediction[self._lesion_box] == LESION

    @cached_property
    def lesion_geometry(self) -> Geometry:
        """The grid of `lesion`."""
        return self.geometry.cropped(self._lesion_box)

    @cached_property
    def lesions(self) -> Contingency:
        """The components of `lesion`."""
        return Contingency.of(*self.lesion)

    @cached_property
    def _lesion_box(self) -> Box:
        return _not_empty(foreground_box(self.reference == LESION, self.prediction == LESION))


def _not_empty(box: Box) -> Box:
    """The box itself, or one of one voxel: no grid is without voxels."""
    z, y, x = (part if part.stop > part.start else slice(0, 1) for part in box)
    return z, y, x
