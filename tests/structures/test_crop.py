"""The box around what is there, and the grid within it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volattn.structures.geometry import Geometry
from volattn.structures.volume import foreground_box


@given(seed=st.integers(0, 2**20), count=st.integers(1, 4), dtype=st.sampled_from([bool, np.uint8, np.int16]))
def test_smallest_box(seed: int, count: int, dtype: type) -> None:
    generator = np.random.default_rng(seed)
    arrays = np.zeros((2, 5, 7, 6), dtype)
    for _ in range(count):
        arrays[tuple(generator.integers(0, arrays.shape))] = 1
    points = np.argwhere(arrays.any(axis=0))
    box = foreground_box(arrays[0], arrays[1])
    assert [(part.start, part.stop) for part in box] == list(
        zip(points.min(axis=0).tolist(), (points.max(axis=0) + 1).tolist(), strict=True)
    )


def test_negative_labels_are_something() -> None:
    array = np.zeros((3, 3, 3), np.int16)
    array[1, 2, 0] = -1
    assert array[foreground_box(array)].tolist() == [[[-1]]]


def test_nothing() -> None:
    assert np.zeros((2, 3, 4))[foreground_box(np.zeros((2, 3, 4), bool))].size == 0


def test_voxels_stay_where_they_are() -> None:
    geometry = Geometry.aligned((6, 8, 9), (5.0, 0.7, 0.8), (10.0, -20.0, 30.0))
    box = slice(2, 5), slice(1, 8), slice(3, 4)
    cropped = geometry.cropped(box)
    assert cropped.shape == (3, 7, 1)
    assert cropped.to_world(np.array([[0, 2, 0]])) == pytest.approx(geometry.to_world(np.array([[2, 3, 3]])))
