"""Boxes: conversion, clipping, areas and overlaps, against counting pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.structures.boxes import Boxes

SHAPE = (6, 9)
box = st.tuples(st.integers(-3, 9), st.integers(-3, 12), st.integers(0, 6), st.integers(0, 6)).map(
    lambda t: (t[0], t[1], t[0] + t[2], t[1] + t[3])
)
box_lists = st.lists(box, max_size=5).map(lambda rows: Boxes(np.array(rows, int).reshape(-1, 4), "yxyx"))


def paint(row: np.ndarray, margin: int = 4) -> np.ndarray:
    """The pixels of a (y0, x0, y1, x1) box on a canvas that holds them all."""
    canvas = np.zeros((25, 25), bool)
    y0, x0, y1, x1 = row + margin
    canvas[y0:y1, x0:x1] = True
    return canvas


@given(box_lists, box_lists)
@settings(max_examples=80)
def test_area_and_overlaps_count_pixels(first: Boxes, second: Boxes) -> None:
    assert first.area.tolist() == [paint(row).sum() for row in first.array]
    ious, shares = first.iou(second.convert("xyxy")), first.overlap(second.convert("xyxy"))
    assert ious.shape == shares.shape == (len(first), len(second))
    for i, mine in enumerate(first.array):
        for j, theirs in enumerate(second.array):
            union = (paint(mine) | paint(theirs)).sum()
            shared, smaller = (paint(mine) & paint(theirs)).sum(), min(paint(mine).sum(), paint(theirs).sum())
            assert ious[i, j] == pytest.approx(shared / union if union else 0)
            assert shares[i, j] == pytest.approx(shared / smaller if smaller else 0)


@given(box_lists)
@settings(max_examples=50)
def test_conversion_is_its_own_inverse(boxes: Boxes) -> None:
    converted = boxes.convert("xyxy")
    np.testing.assert_array_equal(converted.array, boxes.array[:, [1, 0, 3, 2]])
    np.testing.assert_array_equal(converted.convert("yxyx").array, boxes.array)


def test_conversion_in_3d() -> None:
    boxes = Boxes(np.array([[1, 2, 3, 4, 6, 8]]), "zyxzyx")
    assert boxes.convert("xyzxyz").array.tolist() == [[3, 2, 1, 8, 6, 4]]
    assert boxes.area.tolist() == [3 * 4 * 5]


@given(box_lists, st.sampled_from(["yxyx", "xyxy"]))
@settings(max_examples=80)
def test_clipping_keeps_what_is_inside(boxes: Boxes, format: str) -> None:
    clipped = boxes.convert(format).clip(SHAPE).convert("yxyx")
    assert len(clipped) == len(boxes)
    inside = paint(np.array([0, 0, *SHAPE]))
    for before, after in zip(boxes.array, clipped.array, strict=True):
        np.testing.assert_array_equal(paint(after), paint(before) & inside)


@pytest.mark.parametrize(
    ("array", "format", "reason"),
    [
        ([[0, 0, 1, 1]], "xywh", "unknown"),
        ([[0, 0, 1]], "xyxy", "array"),
        ([[0, 0, 1, 1]], "zyxzyx", "array"),
        ([[2, 0, 1, 1]], "xyxy", "ends before"),
        ([[0, 0, np.nan, 1]], "xyxy", "ends before"),
    ],
)
def test_impossible_boxes_are_refused(array: list, format: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Boxes(np.array(array), format)


def test_dimensions_do_not_mix() -> None:
    flat = Boxes(np.array([[0, 0, 1, 1]]), "xyxy")
    with pytest.raises(ValueError, match="cannot"):
        flat.convert("xyzxyz")
    with pytest.raises(ValueError, match="clipped"):
        flat.clip((3, 4, 5))
