"""Components against scipy's, and the largest of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from volattn.structures.lesions import label_components, largest_component

MASKS = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6).flatmap(
    lambda shape: arrays(bool, shape, elements=st.booleans())
)


@settings(max_examples=40)
@given(MASKS)
def test_components_are_scipys_with_faces_as_neighbours(mask: np.ndarray) -> None:
    labels, count = label_components(mask)
    expected, expected_count = ndimage.label(mask)
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)


@settings(max_examples=40)
@given(MASKS)
def test_the_largest_component_is_the_first_of_the_largest(mask: np.ndarray) -> None:
    largest = largest_component(mask)
    numbers, count = ndimage.label(mask)
    sizes = [np.count_nonzero(numbers == number) for number in range(1, count + 1)]
    expected = numbers == 1 + sizes.index(max(sizes)) if count else np.zeros_like(mask)
    assert largest.dtype == bool
    np.testing.assert_array_equal(largest, expected)
