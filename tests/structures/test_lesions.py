"""Components and lesion measures, against brute force and scipy."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from volattn.structures.geometry import Geometry, Turn
from volattn.structures.lesions import axial_diameter, label_components, measure_lesions, measure_unions

masks = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


def corners(mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """All four corners of every pixel, mm."""
    steps = np.array(list(itertools.product((0, 1), repeat=2)))
    return (np.argwhere(mask)[:, None] + steps).reshape(-1, 2) * spacing


@given(masks, st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)))
@settings(max_examples=60)
def test_axial_diameter_equals_brute_force(mask: np.ndarray, spacing: tuple[float, float]) -> None:
    long, short = axial_diameter(mask, spacing)
    if not mask.any():
        assert (long, short) == (0, 0)
        return
    points = corners(mask, spacing)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert long == pytest.approx(distances.max())
    # Ties may be broken either way: the short axis must fit one of the longest pairs.
    widths = []
    for first, second in np.argwhere(distances > distances.max() * (1 - 1e-9)):
        along = points[first] - points[second]
        widths.append(np.ptp(points @ np.array([-along[1], along[0]])) / np.linalg.norm(along))
    assert min(abs(short - width) for width in widths) < 1e-6


def test_one_pixel_has_its_diagonal() -> None:
    long, short = axial_diameter(np.array([[1]]), (3.0, 4.0))
    assert long == pytest.approx(5.0)
    assert short == pytest.approx(2 * 3 * 4 / 5)  # both other corners, on either side of the diagonal


@given(arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)))
@settings(max_examples=80)
def test_components_equal_scipys(mask: np.ndarray) -> None:
    expected = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=expected)  # its default structure: faces only
    labels, found = label_components(mask)
    assert found == expected.max(initial=0)
    assert labels.dtype == np.uint32
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    firsts = [int(np.flatnonzero(labels == value)[0]) for value in range(1, found + 1)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("view", [lambda m: m.T, lambda m: m[::-1], lambda m: np.asfortranarray(m)])
def test_components_do_not_depend_on_memory_layout(view) -> None:
    mask = np.random.default_rng(3).random((6, 7, 8)) < 0.3
    shown = view(mask)
    labels, count = label_components(shown)
    again, same = label_components(np.ascontiguousarray(shown))
    assert count == same
    np.testing.assert_array_equal(labels, again)


def test_diagonal_neighbours_are_apart_in_2d_and_3d() -> None:
    assert label_components(np.eye(3, dtype=bool))[1] == 3
    assert label_components(np.eye(3, dtype=bool)[None])[1] == 3


def test_no_pixels_no_components() -> None:
    labels, count = label_components(np.zeros((0, 4), bool))
    assert (labels.shape, count) == ((0, 4), 0)


@given(arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 0, 1, 2, 9])))
@settings(max_examples=80)
def test_measures_equal_their_definitions(labels: np.ndarray) -> None:
    grid = Geometry.aligned((*labels.shape,), (2.5, 0.7, 0.9))
    lesions = measure_lesions(labels, grid)
    assert [lesion.id for lesion in lesions] == sorted(set(labels.ravel().tolist()) - {0})
    for lesion in lesions:
        mask = labels == lesion.id
        points = np.argwhere(mask)
        assert lesion.box == (*points.min(0), *(points.max(0) + 1))
        assert lesion.voxels == mask.sum()
        assert lesion.volume_ml == pytest.approx(mask.sum() * 2.5 * 0.7 * 0.9 / 1000)
        diameters = [axial_diameter(plane, (0.7, 0.9)) for plane in mask]
        longest = max(long for long, _ in diameters)
        assert lesion.long_axis_mm == pytest.approx(longest)
        assert diameters[lesion.key_slice][0] == pytest.approx(longest)
        assert lesion.short_axis_mm == diameters[lesion.key_slice][1]


def test_a_ball_measures_its_diameter() -> None:
    z, y, x = np.ogrid[:20, :64, :64]
    ball = ((z - 10) * 3.0) ** 2 + ((y - 32) * 0.75) ** 2 + ((x - 32) * 0.75) ** 2 <= 20.0**2
    (lesion,) = measure_lesions(ball.astype(int), Geometry.aligned((20, 64, 64), (3.0, 0.75, 0.75)))
    assert lesion.long_axis_mm == pytest.approx(40, abs=1.5)
    assert lesion.short_axis_mm == pytest.approx(40, abs=1.5)
    assert lesion.key_slice == 10
    assert lesion.volume_ml == pytest.approx(4 / 3 * math.pi * 8, rel=0.05)


def test_of_equal_slices_the_lowest_is_the_key_slice() -> None:
    """Mirror images have one extent, whatever the last bit of its square root says."""
    shape = np.random.default_rng(4).random((9, 9)) < 0.6
    stack = np.zeros((6, 40, 40), int)
    for z, plane in enumerate((shape, shape.T, shape[::-1], shape, shape[:, ::-1]), 1):
        stack[z, 5 * z : 5 * z + 9, 30 - 5 * z : 39 - 5 * z] = plane
    (lesion,) = measure_lesions(stack, Geometry.aligned(stack.shape, (1.0, 0.7, 0.7)))
    assert lesion.key_slice == 1


def test_lesions_are_measured_in_canonical_axes_only() -> None:
    grid = Geometry.aligned((4, 5, 6), (1, 1, 1)).turned(Turn((1, 0, 2), (False, False, False)))
    with pytest.raises(ValueError, match="canonical"):
        measure_lesions(np.zeros(grid.shape, int), grid)


def test_labels_must_lie_on_their_grid() -> None:
    with pytest.raises(ValueError, match="shape"):
        measure_lesions(np.zeros((2, 2, 2), int), Geometry.aligned((2, 2, 3), (1, 1, 1)))


@given(st.integers(0, 2**20))
@settings(deadline=None, max_examples=30)
def test_lesions_together_are_measured_as_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, count = label_components(generator.random((4, 8, 9)) < 0.15)
    union = tuple((generator.permutation(count) + 1)[: generator.integers(1, count + 1)].tolist())
    geometry = Geometry.aligned(labels.shape, (3.0, 0.7, 0.9))
    together = measure_lesions(np.isin(labels, union).astype(np.uint8), geometry)[0]
    measured = measure_unions(labels, geometry, [union, union])
    assert list(measured) == [union]
    assert replace(measured[union], id=1) == together
