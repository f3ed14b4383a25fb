"""Whether two grids are one, what a grid can be, and what is said about it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Header
from test_geometry import TURNS, rotation

from volattn.structures.geometry import Geometry, Turn, check_same_grid

SHAPE = (40, 512, 512)
SPACING = (2.0, 0.8, 0.8)
CT = Geometry.aligned(SHAPE, SPACING, (-200.0, -180.0, -300.0))

small = st.floats(-0.5, 0.5)
whole_grids = st.builds(
    lambda size, spacing, tilt, origin: Geometry(
        (size,) * 3, rotation(*tilt) @ Geometry.aligned((size,) * 3, spacing, origin).affine
    ),
    st.integers(8, 600),
    st.tuples(*[st.floats(0.5, 4.5)] * 3),
    st.tuples(small, small, small),
    st.tuples(*[st.floats(-500, 500)] * 3),
)


def moved(grid: Geometry, by: np.ndarray, rounded: bool = False) -> Geometry:
    """The same voxels elsewhere: `by` is (4, 4) in LPS mm."""
    return Geometry(grid.shape, by @ grid.affine, rounded)


def refusal(grid: Geometry, other: Geometry) -> str:
    with pytest.raises(ValueError, match=r"^b\.nii: is not on the grid of a\.nii, it .+; .+") as caught:
        check_same_grid(grid, other, ("a.nii", "b.nii"))
    message = str(caught.value)
    assert "\n" not in message
    return message


@given(whole_grids, st.sampled_from(TURNS), st.tuples(*[st.floats(-300, 300)] * 3))
@settings(max_examples=50)
def test_flips_orders_and_shifts_are_recognised_and_can_be_trusted(
    grid: Geometry, turn: Turn, shift: tuple[float, float, float]
) -> None:
    by = np.eye(4)
    by[:3, 3] = shift
    other = moved(grid.turned(turn), by)
    difference = grid.difference(other)
    if turn.is_identity:
        steps = np.abs(grid.to_index(grid.affine[None, :3, 3] + shift))
        assert (difference is None) == (steps.max() <= 0.1)
        assert difference is None or difference.startswith("is shifted by")
    elif turn.axes == (0, 1, 2):
        axes = [name for name, flip in zip("xyz", turn.flips[::-1], strict=True) if flip]
        assert (difference or "").startswith(f"is mirrored along {' and '.join(axes)} (")
    else:
        assert (difference or "").startswith("has its axes in another order")
    if difference is not None:
        assert "say --trust-grid" in refusal(grid, other)
        note = check_same_grid(grid, other, ("a.nii", "b.nii"), trust=True)
        assert note is not None
        assert "taken as they lie (--trust-grid)" in note


@given(whole_grids, st.lists(st.floats(-1, 1), min_size=12, max_size=12))
@settings(max_examples=50)
def test_what_rounding_does_is_no_difference(grid: Geometry, noise: list[float]) -> None:
    in_float32 = Geometry(grid.shape, grid.affine.astype(np.float32))
    assert grid.difference(in_float32) is None
    steps = np.reshape(noise, (3, 4)) / np.array([*grid.shape, 1]) * 0.024  # at most 0.1 voxels in all
    nudged = grid.affine.copy()
    nudged[:3] += grid.affine[:3, :3] @ steps
    assert grid.difference(Geometry(grid.shape, nudged)) is None


@given(whole_grids, st.tuples(small, small, small))
@settings(max_examples=50)
def test_a_turn_that_moves_a_corner_is_a_difference(grid: Geometry, turn: tuple[float, float, float]) -> None:
    other = moved(grid, rotation(*turn))
    corners = np.array(list(itertools.product(*((0, size - 1) for size in grid.shape))))
    apart = np.abs(grid.to_index(other.to_world(corners)) - corners).max()
    assert (grid.difference(other) is None) == (apart <= 0.1)


def as_qform(grid: Geometry) -> Geometry:
    """A grid as a NIfTI header without an sform keeps it, by nibabel."""
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine[:, [2, 1, 0, 3]]
    header = Nifti1Header()
    header.set_data_shape(grid.shape[::-1])
    header.set_qform(ras, 1)
    back = np.diag([-1.0, -1.0, 1.0, 1.0]) @ header.get_qform()
    return Geometry(grid.shape, back[:, [2, 1, 0, 3]], rounded=True)


@given(st.sampled_from([0, math.pi]), st.floats(-0.02, 0.02), st.tuples(*[st.floats(-0.6, 0.6)] * 2), st.booleans())
@settings(max_examples=50)
def test_a_grid_and_its_qform_are_one_and_a_real_turn_is_not(
    half: float, near: float, tilt: tuple[float, float], mirrored: bool
) -> None:
    """Near half a turn a float32 quaternion loses up to 0.05 degrees, half a millimetre at a corner."""
    grid = moved(CT, rotation(*tilt, half + near))
    if mirrored:
        grid = grid.turned(Turn((0, 1, 2), (False, False, True)))
    stored = as_qform(grid)
    assert grid.difference(stored) is None
    assert stored.difference(grid) is None
    for axis in range(3):
        angles = np.zeros(3)
        angles[axis] = math.radians(0.2)
        assert grid.difference(moved(stored, rotation(*angles), rounded=True)) is not None
    shift = np.eye(4)
    shift[0, 3] = 0.3
    assert grid.difference(moved(stored, shift, rounded=True)) is not None


@pytest.mark.parametrize(
    ("other", "difference", "way_out"),
    [
        (Geometry.aligned(SHAPE, (1, 1, 1)), "identity affine", "export it again"),
        (Geometry(SHAPE, np.diag([-1.0, -1, 1, 1])[:, [2, 1, 0, 3]]), "identity affine", "export it again"),
        (Geometry.aligned(SHAPE, SPACING), "shifted by 403 mm", "export it again"),
        (Geometry.aligned(SHAPE, (2, 0.81, 0.81), (-200, -180, -300)), "0.81 x 0.81 x 2 mm, not", "resample"),
        (Geometry.aligned((20, 512, 512), (4, 0.8, 0.8), (-200, -180, -300)), "512 x 512 x 20 voxels", "resample"),
        (Geometry.aligned((20, 512, 512), (1, 1, 1)), "512 x 512 x 20 voxels", "export it again"),
        (moved(CT, rotation(0, 0, 0.01)), "turned or sheared", "resample"),
        (CT.turned(Turn((0, 1, 2), (False, True, True))), "mirrored along x and y", "reorient"),
    ],
)
def test_what_is_said_of_two_grids(other: Geometry, difference: str, way_out: str) -> None:
    message = refusal(CT, other)
    assert difference in message
    assert way_out in message
    assert way_out == "resample" or "resample" not in message
    assert ("--trust-grid" in message) == (other.shape == CT.shape)
    if other.shape != CT.shape:
        with pytest.raises(ValueError, match="voxels"):
            check_same_grid(CT, other, ("a.nii", "b.nii"), trust=True)


def test_a_reference_without_geometry_is_the_one_that_is_blamed() -> None:
    message = refusal(Geometry.aligned(SHAPE, (1, 1, 1)), CT)
    assert "the other has an identity affine" in message
    assert "export the other again" in message


@pytest.mark.parametrize(
    ("shape", "spacing", "origin", "fault"),
    [
        ((9, 9, 9), (1e6, 1, 1), (0, 0, 0), "from 0.05 to 50 mm"),
        ((9, 9, 9), (1, 1, 0.04), (0, 0, 0), "from 0.05 to 50 mm"),
        ((61, 9, 9), (50, 1, 1), (0, 0, 0), "longer than 3 m"),
        ((20_000_000, 9, 9), (1, 1, 1), (0, 0, 0), "longer than 3 m"),
        ((2000, 2000, 2000), (1, 1, 1), (0, 0, 0), "more than a CT has"),
        ((9, 9, 9), (1, 1, 1), (0, 1e9, 0), "from the origin"),
        ((60, 9, 9), (50, 0.05, 1), (0, 0, 0), None),
        ((2000, 512, 512), (1.5, 0.976562, 0.976562), (-250, -250, 1e4), None),
    ],
)
def test_bounds(shape: tuple, spacing: tuple, origin: tuple, fault: str | None) -> None:
    if fault is None:
        Geometry.aligned(shape, spacing, origin)
        return
    with pytest.raises(ValueError, match=fault):
        Geometry.aligned(shape, spacing, origin)
