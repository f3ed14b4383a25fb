"""Geometry: positions, turns, resampling and disagreement."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.structures.geometry import Geometry, Turn, resampled_depth
from volattn.structures.volume import Volume

TURNS = [
    Turn((a, b, c), (f, g, h))
    for a, b, c in itertools.permutations(range(3))
    for f, g, h in itertools.product((False, True), repeat=3)
]
CANONICAL = Geometry.aligned((4, 5, 6), (2.5, 0.7, 0.8), (-100.0, 20.0, 7.0))


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """A rotation by three angles, radians."""
    turned = np.eye(4)
    for first, second, angle in ((1, 2, x), (0, 2, y), (0, 1, z)):
        step = np.eye(4)
        step[[first, second], [first, second]] = math.cos(angle)
        step[first, second], step[second, first] = -math.sin(angle), math.sin(angle)
        turned = step @ turned
    return turned


angles = st.floats(-0.4, 0.4)
spacings = st.floats(0.3, 8.0)
grids = st.builds(
    lambda shape, spacing, turn, tilt: Geometry(
        shape, rotation(*tilt) @ Geometry.aligned(shape, spacing, (5.0, -3.0, 40.0)).affine
    ).turned(turn),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(spacings, spacings, spacings),
    st.sampled_from(TURNS),
    st.tuples(angles, angles, angles),
)


@given(grids)
@settings(max_examples=40)
def test_index_and_world_are_inverse(grid: Geometry) -> None:
    points = np.array(list(itertools.product(*(range(size) for size in grid.shape))), float)
    np.testing.assert_allclose(grid.to_index(grid.to_world(points)), points, atol=1e-9)


def test_axes_of_an_aligned_grid() -> None:
    np.testing.assert_allclose(CANONICAL.to_world(np.array([[0, 0, 0]])), [[-100.0, 20.0, 7.0]])
    np.testing.assert_allclose(CANONICAL.to_world(np.array([[2, 0, 0]])), [[-100.0, 20.0, 12.0]])
    np.testing.assert_allclose(CANONICAL.to_world(np.array([[0, 1, 0]])), [[-100.0, 20.7, 7.0]])
    np.testing.assert_allclose(CANONICAL.to_world(np.array([[0, 0, 1]])), [[-99.2, 20.0, 7.0]])
    assert CANONICAL.spacing == pytest.approx((2.5, 0.7, 0.8))
    assert CANONICAL.voxel_volume == pytest.approx(2.5 * 0.7 * 0.8)
    assert CANONICAL.turn().is_identity


@given(grids)
@settings(max_examples=50)
def test_turn_is_the_closest_of_the_48(grid: Geometry) -> None:
    def agreement(turn: Turn) -> float:
        turned = grid.turned(turn)
        return float(np.trace((turned.affine[:3, :3] / turned.spacing)[[2, 1, 0]]))

    assert agreement(grid.turn()) == pytest.approx(max(map(agreement, TURNS)), abs=1e-5)
    assert grid.turned(grid.turn()).turn().is_identity


@given(grids)
@settings(max_examples=40)
def test_turning_moves_no_voxel(grid: Geometry) -> None:
    values = np.arange(math.prod(grid.shape)).reshape(grid.shape)
    turn = grid.turn()
    turned, array = grid.turned(turn), turn.apply(values)
    assert array.shape == turned.shape
    assert np.shares_memory(array, values)
    for value in values.flat:
        before = grid.to_world(np.argwhere(values == value))
        after = turned.to_world(np.argwhere(array == value))
        np.testing.assert_allclose(after, before, atol=1e-9)
    assert (turn.undo(array) == values).all()


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_undo_reverses_apply(turn: Turn) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)


def test_canonical_volume_is_a_view_without_a_foreign_header() -> None:
    turned = CANONICAL.turned(Turn((2, 0, 1), (True, False, True)))
    volume = Volume(np.arange(120).reshape(turned.shape), turned, "case", header="opaque")
    canonical = volume.canonical()
    assert canonical.geometry.turn().is_identity
    assert canonical.geometry.disagreement(CANONICAL) < 1e-9
    assert np.shares_memory(canonical.array, volume.array)
    assert (canonical.name, canonical.header) == ("case", None)
    straight = Volume(np.zeros((4, 5, 6)), CANONICAL, header="opaque")
    assert straight.canonical() is straight


def test_volume_and_grid_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        Volume(np.zeros((4, 5, 7)), CANONICAL)


@given(st.integers(1, 300), spacings, spacings)
@settings(max_examples=50)
def test_resampling_keeps_the_first_slice_and_the_extent(depth: int, spacing: float, step: float) -> None:
    grid = Geometry.aligned((depth, 3, 3), (spacing, 1, 1), (1.0, 2.0, 3.0))
    resampled = grid.resampled_z(step)
    np.testing.assert_allclose(resampled.affine[:3, 3], grid.affine[:3, 3])
    np.testing.assert_allclose(resampled.spacing, (step, 1, 1))
    extent = (depth - 1) * spacing
    covered = (resampled.shape[0] - 1) * step
    assert covered <= extent + 1e-3 * step
    assert covered + step > extent - 1e-3 * step


@pytest.mark.parametrize("spacing", [1.4999999, 1.5, 1.5000001])
def test_rounded_spacings_lose_no_slice(spacing: float) -> None:
    assert resampled_depth(500, spacing, 1.5) == 500


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf])
def test_a_step_must_be_positive(step: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        CANONICAL.resampled_z(step)


def test_disagreement_is_the_distance_of_the_farthest_voxel() -> None:
    assert CANONICAL.disagreement(CANONICAL) == 0
    moved = CANONICAL.affine.copy()
    moved[:3, 3] += (3.0, 4.0, 0.0)
    assert CANONICAL.disagreement(Geometry(CANONICAL.shape, moved)) == pytest.approx(5.0)
    wider = Geometry.aligned((4, 5, 6), (2.5, 0.7, 0.9), (-100.0, 20.0, 7.0))
    assert CANONICAL.disagreement(wider) == pytest.approx(0.5)  # five steps of 0.1 mm
    assert CANONICAL.disagreement(Geometry.aligned((4, 5, 7), (2.5, 0.7, 0.8))) == math.inf


@pytest.mark.parametrize(
    ("change", "reason"), [((0, 0, math.nan), "NaN"), ((2, 0, 0.0), "singular"), ((3, 0, 1.0), "last row")]
)
def test_impossible_affines_are_refused(change: tuple[int, int, float], reason: str) -> None:
    affine = CANONICAL.affine.copy()
    affine[change[0], change[1]] = change[2]
    with pytest.raises(ValueError, match=reason):
        Geometry(CANONICAL.shape, affine)


def test_two_axes_in_one_direction_are_refused() -> None:
    affine = CANONICAL.affine.copy()
    affine[:3, 1] = affine[:3, 2] * 2
    with pytest.raises(ValueError, match="singular"):
        Geometry(CANONICAL.shape, affine)


def test_geometries_are_values() -> None:
    same = Geometry(CANONICAL.shape, CANONICAL.affine.copy())
    assert same == CANONICAL
    assert hash(same) == hash(CANONICAL)
    assert same != CANONICAL.resampled_z(1.0)
    with pytest.raises(ValueError, match="read-only"):
        same.affine[0, 0] = 1
