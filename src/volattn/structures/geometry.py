"""Where the voxels of an array lie in the patient."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Self

import numpy as np

_CANONICAL_WORLD_AXES = (2, 1, 0)  # array axes z, y, x run along world axes S, P, L


@dataclass(frozen=True)
class Turn:
    """A lossless change of axis order and direction, between file axes and canonical axes.

    Attributes:
        axes: Canonical axis k is file axis `axes[k]`.
        flips: Canonical axis k runs backwards along its file axis where `flips[k]`.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def __post_init__(self) -> None:
        if sorted(self.axes) != [0, 1, 2] or len(self.flips) != 3:
            raise ValueError(
                f"axes {self.axes} and flips {self.flips} are not an order and a direction of three axes"
            )

    @property
    def is_identity(self) -> bool:
        """Whether the turn leaves arrays as they are."""
        return self == Turn()

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of `array` (three file axes) in canonical order."""
        return array.transpose(self.axes)[self._slices()]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """A view of `array` (three canonical axes) in file order: `undo(apply(a))` equals `a`."""
        return array[self._slices()].transpose(np.argsort(self.axes).tolist())

    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of an array: its shape and the affine from its indices to LPS millimetres.

    Attributes:
        shape: Voxels along the array's axes (z, y, x); file axes where the array is in file axes.
        affine: (4, 4) float64, read-only: (z, y, x, 1) index of a voxel's centre -> (x, y, z, 1) in LPS mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid needs three sizes of at least 1, found {shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise ValueError(
                f"an affine is a 4 x 4 matrix whose last row is 0 0 0 1, found {affine.tolist()}"
            )
        if not np.isfinite(affine).all():
            raise ValueError("the affine holds NaN or infinity")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if not (lengths > 0).all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
            raise ValueError("the affine is singular: two axes run in one direction, or a spacing is zero")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def aligned(
        cls,
        shape: tuple[int, int, int],
        spacing: tuple[float, float, float],
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Self:
        """A canonical grid, its axes parallel to the patient's.

        Args:
            shape: Voxels (z, y, x).
            spacing: mm (z, y, x).
            origin: Centre of voxel (0, 0, 0) in LPS mm (x, y, z).
        """
        affine = np.zeros((4, 4))
        affine[_CANONICAL_WORLD_AXES, (0, 1, 2)] = spacing
        affine[:3, 3] = origin
        affine[3, 3] = 1
        return cls(shape, affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along the array's axes (z, y, x), mm."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel, mm^3; right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Indices (n, 3) in (z, y, x), voxel centres at whole numbers -> (n, 3) LPS mm in (x, y, z)."""
        return np.asarray(points, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, world: np.ndarray) -> np.ndarray:
        """LPS mm (n, 3) in (x, y, z) -> indices (n, 3) in (z, y, x), fractional between voxel centres."""
        offsets = np.asarray(world, dtype=np.float64) - self.affine[:3, 3]
        return np.linalg.solve(self.affine[:3, :3], offsets.T).T

    def turn(self) -> Turn:
        """The turn to the closest canonical axes: array axes z, y, x running to S, P and L.

        Of the 48 signed orders it is the one whose axes agree best with the affine's, all three together,
        so that an oblique grid never gets one axis twice.
        """
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)

        def agreement(order: tuple[int, ...]) -> float:
            total = sum(abs(directions[w, a]) for w, a in zip(_CANONICAL_WORLD_AXES, order, strict=True))
            return round(
                float(total), 6
            )  # at 45 degrees rounding noise must not decide: the first order does

        first, second, third = max(itertools.permutations(range(3)), key=agreement)
        backwards = [
            bool(directions[w, a] < 0)
            for w, a in zip(_CANONICAL_WORLD_AXES, (first, second, third), strict=True)
        ]
        return Turn((first, second, third), (backwards[0], backwards[1], backwards[2]))

    def turned(self, turn: Turn) -> Geometry:
        """The geometry of `turn.apply(array)`: the same voxels at the same places."""
        to_file = np.zeros((4, 4))
        to_file[3, 3] = 1
        for canonical, (axis, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
            to_file[axis, canonical] = -1 if flip else 1
            to_file[axis, 3] = self.shape[axis] - 1 if flip else 0
        z, y, x = (self.shape[axis] for axis in turn.axes)
        return Geometry((z, y, x), self.affine @ to_file)

    def cropped(self, box: tuple[slice, slice, slice]) -> Geometry:
        """The geometry of `array[box]`: the same voxels at the same places.

        Args:
            box: Slices with a start and a stop within the grid, none of them empty.
        """
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(np.array([[part.start for part in box]]))[0]
        z, y, x = (part.stop - part.start for part in box)
        return Geometry((z, y, x), affine)

    def resampled_z(self, step: float) -> Geometry:
        """The grid resampled along axis 0: the first slice's centre stays, the step is exact.

        Args:
            step: Distance between the new slices, mm.

        Returns:
            A grid of `resampled_depth` slices.

        Raises:
            ValueError: The step is not a positive number.
        """
        depth, height, width = self.shape
        slices = resampled_depth(depth, self.spacing[0], step)
        affine = self.affine.copy()
        affine[:3, 0] *= step / self.spacing[0]
        return Geometry((slices, height, width), affine)

    def disagreement(self, other: Geometry) -> float:
        """How far apart the two grids put the same voxel at worst, mm; infinity if the shapes differ.

        The difference of two affine maps is largest at a corner, so the eight corners decide.
        """
        if self.shape != other.shape:
            return math.inf
        corners = np.array(list(itertools.product(*((0, size - 1) for size in self.shape))))
        return float(np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max())


def resampled_depth(depth: int, spacing: float, step: float) -> int:
    """Slices after resampling `depth` slices `spacing` mm apart to `step` mm: floor(extent / step) + 1.

    The extent is (depth - 1) * spacing, between the centres of the first and the last slice.

    Raises:
        ValueError: The step is not a positive number.
    """
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"the step between slices must be a positive number of mm, found {step}")
    # Spacings are rounded floats in most files: 1.4999999 must not lose the last slice to a floor.
    return math.floor((depth - 1) * spacing / step + 1e-4) + 1
