"""Where the voxels of an array lie in the patient."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from nibabel.quaternions import mat2quat

_CANONICAL_WORLD_AXES = (2, 1, 0)  # array axes z, y, x run along world axes S, P, L
MAX_VOXELS = 2**30
"""A thousand slices of 1024 x 1024."""
_SPACING_MM = (0.05, 50.0)
_EXTENT_MM = 3000.0  # no scanner's table is longer
_ORIGIN_MM = 1e6
_ROUNDED = 1e-6  # of a float32 in a header

_SAME_VOXEL = 0.1
"""Of a voxel, at the corner where two grids are farthest apart: what headers lose to rounding (spacings with four
digits over 512 voxels, float32 matrices of oblique grids) stays below it, and no voxel falls on a neighbour."""
_QUATERNION = 2e-7
"""Two steps of a float32 just below 1. Near half a turn, as in most CTs, it is 0.07 degrees: the angle is the root of
what is missing to 1, so that a quaternion cannot say it better."""


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
            raise ValueError(f"axes {self.axes} and flips {self.flips} are not an order and a direction of three axes")

    @property
    def is_identity(self) -> bool:
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
        rounded: Whether its rotation went through a float32 quaternion, as that of a NIfTI qform does.

    Raises:
        ValueError: A size is not positive, the affine is none or singular, or no CT can be so large or so fine: see
            `_check_bounds`.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    rounded: bool = False

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid needs three sizes of at least 1, found {shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise ValueError(f"an affine is a 4 x 4 matrix whose last row is 0 0 0 1, found {affine.tolist()}")
        if not np.isfinite(affine).all():
            raise ValueError("the affine holds NaN or infinity")
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if not (lengths > 0).all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
            raise ValueError("the affine is singular: two axes run in one direction, or a spacing is zero")
        _check_bounds(shape, lengths, affine[:3, 3])
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
        """A canonical grid, its axes parallel to the patient's: voxels and mm (z, y, x).

        Args:
            origin: Centre of voxel (0, 0, 0) in LPS mm (x, y, z).
        """
        affine = np.zeros((4, 4))
        affine[_CANONICAL_WORLD_AXES, (0, 1, 2)] = spacing
        affine[:3, 3] = origin
        affine[3, 3] = 1
        _check_bounds(shape, np.array(spacing, np.float64), np.array(origin))  # says more than "singular"
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
            return round(float(total), 6)  # at 45 degrees rounding noise must not decide: the first order does

        z, y, x = max(itertools.permutations(range(3)), key=agreement)
        flip_z, flip_y, flip_x = (directions[_CANONICAL_WORLD_AXES, (z, y, x)] < 0).tolist()
        return Turn((z, y, x), (flip_z, flip_y, flip_x))

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
        """The geometry of `array[box]`, slices with a start and a stop within the grid: the voxels stay in place."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(np.array([[part.start for part in box]]))[0]
        z, y, x = (part.stop - part.start for part in box)
        return Geometry((z, y, x), affine)

    def resampled_z(self, step: float) -> Geometry:
        """The grid resampled to `resampled_depth` slices: the first one's centre stays, the step (mm) is exact."""
        depth, height, width = self.shape
        slices = resampled_depth(depth, self.spacing[0], step)
        affine = self.affine.copy()
        affine[:3, 0] *= step / self.spacing[0]
        return Geometry((slices, height, width), affine)

    def disagreement(self, other: Geometry) -> float:
        """How far apart the two grids put the same voxel at worst, mm; infinity if the shapes differ."""
        if self.shape != other.shape:
            return math.inf
        corners = self._corners()  # The difference of two affine maps is largest at a corner.
        return float(np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max())

    def difference(self, other: Geometry) -> str | None:
        """How another grid differs from this one, in words that follow "it"; None if they are the same.

        They are if no voxel of one is more than a tenth of a voxel from its place in the other; or as quaternions,
        where one went through a float32 quaternion.
        """
        if self.shape != other.shape:
            return f"has {_sizes(other.shape)} voxels, not {_sizes(self.shape)}"
        corners = self._corners()
        if np.abs(self.to_index(other.to_world(corners)) - corners).max() <= _SAME_VOXEL:
            return None
        if (self.rounded or other.rounded) and self._same_quaternion(other):
            return None
        far = f"{self.disagreement(other):.3g} mm at the farthest corner"
        if other.is_bare:
            return f"has an identity affine, which says nothing of where its voxels lie ({far})"
        if self.is_bare:
            return f"lies elsewhere: the other has an identity affine, which says nothing of its voxels' places ({far})"
        order = self._signed_order(other)
        if order is None:
            ours, theirs = (" x ".join(f"{size:.6g}" for size in grid.spacing[::-1]) for grid in (self, other))
            if not np.allclose(self.spacing, other.spacing, rtol=_SAME_VOXEL / max(self.shape)):
                return f"has voxels of {theirs} mm, not {ours} mm ({far})"
            return f"is turned or sheared against it ({far})"
        if (np.diag(order) == 1).all():
            return f"is shifted by {far.partition(' at ')[0]}"
        if np.diag(order).all():
            flipped = [name for name, sign in zip("zyx", np.diag(order), strict=True) if sign < 0]
            return f"is mirrored along {' and '.join(flipped[::-1])} ({far})"
        return f"has its axes in another order ({far})"

    @property
    def is_bare(self) -> bool:
        """Whether it is what programs write that know of no geometry: 1 mm along the axes, from the origin."""
        return bool(
            (np.abs(np.abs(self.affine).sum(axis=0) - 1) < _ROUNDED).all()
            and (np.abs(self.affine[:3, :3]).max(axis=0) > 1 - _ROUNDED).all()
        )

    def overlaps(self, other: Geometry) -> bool:
        """Whether half of one of the grids lies within the other: resampling would keep most of a mask."""

        def inside(one: Geometry, two: Geometry) -> float:
            steps = [(np.arange(8) + 0.5) / 8 * size - 0.5 for size in two.shape]
            places = one.to_index(two.to_world(np.array(list(itertools.product(*steps)))))
            return float(((places > -0.5) & (places < np.array(one.shape) - 0.5)).all(axis=1).mean())

        return max(inside(self, other), inside(other, self)) >= 0.5

    def _corners(self) -> np.ndarray:
        return np.array(list(itertools.product(*((0, size - 1) for size in self.shape))), np.float64)

    def _signed_order(self, other: Geometry) -> np.ndarray | None:
        """(3, 3) of -1, 0 and 1: this grid's axes in terms of the other's, if only order and direction differ."""
        steps = np.linalg.solve(self.affine[:3, :3], other.affine[:3, :3])
        order = np.rint(steps)
        bends = (np.abs(steps - order) @ np.array(self.shape)).max() > _SAME_VOXEL
        return None if bends or (np.abs(order).sum(axis=0) != 1).any() else order

    def _same_quaternion(self, other: Geometry) -> bool:
        (ours, first), (theirs, second) = self._quaternion(), other._quaternion()
        lengths = np.abs(np.subtract(self.spacing, other.spacing)) / self.spacing * self.shape
        moved = np.abs(self.to_index(other.affine[None, :3, 3]))
        turned = min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max())  # q and -q are one rotation
        return first == second and max(lengths.max(), moved.max()) <= _SAME_VOXEL and turned <= _QUATERNION

    def _quaternion(self) -> tuple[np.ndarray, bool]:
        """b, c and d of the rotation as NIfTI has it (file axes i, j, k to R, A, S), and whether k is reversed."""
        directions = (np.diag([-1.0, -1.0, 1.0]) @ self.affine[:3, [2, 1, 0]]) / self.spacing[::-1]
        reversed_k = bool(np.linalg.det(directions) < 0)
        if reversed_k:
            directions[:, 2] *= -1
        if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4:  # sheared: no rotation
            return np.full(3, np.inf), reversed_k
        return np.asarray(mat2quat(directions)[1:]), reversed_k


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:g}" if size > MAX_VOXELS else str(size) for size in shape[::-1])


def _check_bounds(shape: tuple[int, ...], spacing: np.ndarray, origin: np.ndarray) -> None:
    """Refuses a grid that no CT has, before anything of its size is read or made."""
    shown = " x ".join(f"{size:.6g}" for size in spacing[::-1])
    if spacing.min() < _SPACING_MM[0] * (1 - _ROUNDED) or spacing.max() > _SPACING_MM[1] * (1 + _ROUNDED):
        raise ValueError(f"its spacing of {shown} mm is no CT's, which is from 0.05 to 50 mm")
    voxels = _sizes(shape)
    if (spacing * shape).max() > _EXTENT_MM * (1 + _ROUNDED):
        raise ValueError(f"its {voxels} voxels of {shown} mm are longer than 3 m, which no CT is")
    if math.prod(shape) > MAX_VOXELS:
        raise ValueError(f"its {voxels} voxels are more than a CT has")
    if np.abs(origin).max() > _ORIGIN_MM:
        raise ValueError(f"its first voxel lies {np.abs(origin).max():.3g} mm from the origin")


def check_same_grid(grid: Geometry, other: Geometry, called: tuple[str, str], trust: bool = False) -> str | None:
    """Raises a ValueError if voxels do not lie on the grid that they belong to.

    Args:
        grid: Of the CT or the reference.
        called: What errors call each: its file.
        trust: Voxels of the same shape are taken as they lie, whatever their own grid says.

    Returns:
        What was overlooked by `trust`, one sentence; None if the grids are the same.
    """
    difference = grid.difference(other)
    if difference is None:
        return None
    what = f"{called[1]}: is not on the grid of {called[0]}, it {difference}"
    same_shape = grid.shape == other.shape
    if trust and same_shape:
        return f"{what}; its voxels were taken as they lie (--trust-grid)"
    order = grid._signed_order(other)
    if other.is_bare or not (grid.is_bare or grid.overlaps(other)):
        else_ = "export it again on that grid"
    elif grid.is_bare:
        else_ = "export the other again with its own geometry"
    elif order is not None and not (np.diag(order) == 1).all():
        else_ = "reorient it to the same axes"
    else:
        else_ = "resample it onto that grid (nearest neighbour)"
    if not same_shape:
        raise ValueError(f"{what}; {else_}")
    raise ValueError(f"{what}; if its voxels lie as the other's do, say --trust-grid, else {else_}")


def resampled_depth(depth: int, spacing: float, step: float) -> int:
    """Slices after resampling `depth` slices `spacing` mm apart to `step` mm: floor((depth - 1) * spacing / step) + 1.

    Raises:
        ValueError: The step is not a positive number.
    """
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"the step between slices must be a positive number of mm, found {step}")
    # Spacings are rounded floats in most files: 1.4999999 must not lose the last slice to a floor.
    return math.floor((depth - 1) * spacing / step + 1e-4) + 1
