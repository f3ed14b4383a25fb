"""Resampling against SciPy, and that the way back undoes the way there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from volattn.preprocessing.plan import Plan, clamp, whole
from volattn.preprocessing.prepared import resampling_weights, shrink, shrunk_shape, z_weights

SPACINGS = st.floats(0.4, 6).map(lambda value: round(value, 3))


def mixed(array: np.ndarray, depth: int, spacing: float, step: float) -> np.ndarray:
    lower, upper, weight = resampling_weights(depth, spacing, step)
    return (1 - weight) * array[lower] + weight * array[upper]


@settings(max_examples=40)
@given(depth=st.integers(1, 60), spacing=SPACINGS, step=SPACINGS)
def test_the_grid_is_exact(depth: int, spacing: float, step: float) -> None:
    lower, upper, weight = resampling_weights(depth, spacing, step)
    assert len(lower) == int(np.floor((depth - 1) * spacing / step + 1e-4)) + 1
    places = (lower * (1 - weight) + upper * weight) * spacing
    np.testing.assert_allclose(places, np.minimum(np.arange(len(lower)) * step, (depth - 1) * spacing), atol=1e-3)
    assert (lower[0], weight[0]) == (0, 0)
    assert upper.max() < depth


@settings(max_examples=40)
@given(depth=st.integers(2, 40), spacing=SPACINGS, step=SPACINGS, seed=st.integers(0, 99))
def test_interpolation_is_scipys(depth: int, spacing: float, step: float, seed: int) -> None:
    array = np.random.default_rng(seed).normal(size=depth)
    ours = mixed(array, depth, spacing, step)
    places = np.minimum(np.arange(len(ours)) * step / spacing, depth - 1)
    np.testing.assert_allclose(ours, map_coordinates(array, [places], order=1), atol=1e-5)


@settings(max_examples=40)
@given(depth=st.integers(2, 40), spacing=SPACINGS, finer=st.integers(1, 4))
def test_a_ramp_comes_back(depth: int, spacing: float, finer: int) -> None:
    step = spacing / finer
    ramp = np.arange(depth) * 10.0
    there = mixed(ramp, depth, spacing, step)
    lower, upper, weight = z_weights(depth, spacing, step)
    assert len(lower) == depth
    np.testing.assert_allclose((1 - weight) * there[lower] + weight * there[upper], ramp, atol=1e-3)


@settings(max_examples=40)
@given(depth=st.integers(1, 40), spacing=SPACINGS, step=SPACINGS)
def test_every_slice_of_the_input_has_its_sources(depth: int, spacing: float, step: float) -> None:
    lower, upper, weight = z_weights(depth, spacing, step)
    made = len(resampling_weights(depth, spacing, step).lower)
    assert len(lower) == depth
    assert 0 <= lower.min() <= upper.max() < made
    assert ((weight >= 0) & (weight < 1)).all()
    assert (upper[weight == 0] == lower[weight == 0]).all()


@settings(max_examples=40)
@given(rows=st.integers(5, 60), columns=st.integers(5, 60), size=st.integers(4, 60), seed=st.integers(0, 99))
def test_shrinking_keeps_the_mean_and_the_aspect(rows: int, columns: int, size: int, seed: int) -> None:
    plane = np.random.default_rng(seed).normal(100, 30, (rows, columns)).astype(np.float32)
    shape = shrunk_shape(plane.shape, size)
    assert max(shape) == min(size, max(rows, columns))
    assert shape[0] * columns == pytest.approx(shape[1] * rows, abs=max(rows, columns))
    small = shrink(plane, shape)
    assert small.shape == shape
    assert small.mean() == pytest.approx(plane.mean(), rel=1e-4)


def test_whole_factors_average_blocks() -> None:
    plane = np.arange(64, dtype=np.float32).reshape(8, 8)
    np.testing.assert_allclose(shrink(plane, (4, 2)), plane.reshape(4, 2, 2, 4).mean(axis=(1, 3)), rtol=1e-6)


def test_nothing_is_enlarged() -> None:
    assert shrunk_shape((100, 80), 1024) == (100, 80)


def test_intensities() -> None:
    hu = np.array([-1024, -200, 50, 300, 3000], np.int16)
    assert clamp(hu, (-200, 300)).tolist() == [-200, -200, 50, 300, 300]
    assert whole(np.array([0.5, 1.5, -1.4])).tolist() == [0, 2, -1]


@pytest.mark.parametrize("values", [{"window": (300, -200)}, {"z_spacing": 0}, {"size": 8}, {"colour": 1}])
def test_a_plan_that_cannot_be_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Plan.parse(values, "plan.yaml")
