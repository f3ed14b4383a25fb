"""Areas and overlaps of boxes, against counting pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.structures.boxes import box_area, box_iou, box_overlap

box = st.tuples(st.integers(-3, 9), st.integers(-3, 12), st.integers(0, 6), st.integers(0, 6)).map(
    lambda t: (t[0], t[1], t[0] + t[2], t[1] + t[3])
)
box_lists = st.lists(box, max_size=5).map(lambda rows: np.array(rows, int).reshape(-1, 4))


def paint(row: np.ndarray, margin: int = 4) -> np.ndarray:
    """The pixels of a (y0, x0, y1, x1) box on a canvas that holds them all."""
    canvas = np.zeros((25, 25), bool)
    y0, x0, y1, x1 = row + margin
    canvas[y0:y1, x0:x1] = True
    return canvas


@given(box_lists, box_lists)
@settings(max_examples=80)
def test_area_and_overlaps_count_pixels(first: np.ndarray, second: np.ndarray) -> None:
    assert box_area(first).tolist() == [paint(row).sum() for row in first]
    ious, shares = box_iou(first, second), box_overlap(first, second)
    assert ious.shape == shares.shape == (len(first), len(second))
    for i, mine in enumerate(first):
        for j, theirs in enumerate(second):
            union = (paint(mine) | paint(theirs)).sum()
            shared, smaller = (paint(mine) & paint(theirs)).sum(), min(paint(mine).sum(), paint(theirs).sum())
            assert ious[i, j] == pytest.approx(shared / union if union else 0)
            assert shares[i, j] == pytest.approx(shared / smaller if smaller else 0)


def test_three_dimensions() -> None:
    one, other = np.array([[1, 2, 3, 4, 6, 8]]), np.array([[1, 2, 3, 4, 6, 13], [4, 2, 3, 5, 6, 8]])
    assert box_area(one).tolist() == [3 * 4 * 5]
    assert box_iou(one, other).tolist() == [[0.5, 0]]
    assert box_overlap(one, other).tolist() == [[1, 0]]
