"""Boxes that follow each other through z are one lesion, whatever the order they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.inference.link import Chain, Linker
from volattn.inference.stream import SliceDetections

Box = tuple[float, float, float, float]


def on_slice(boxes: list[Box], scores: list[float], labels: list[int] | None = None) -> SliceDetections:
    return SliceDetections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels or [2] * len(boxes), np.int64),
        np.array(scores, np.float32),
        None,
        {},
    )


def linked(slices: dict[int, SliceDetections], step: float = 2.5, threshold: float = 0.5) -> list[Chain]:
    linker = Linker(2, threshold, step)
    for z, detections in slices.items():
        linker.add(z, detections)
    return linker.finish()


def told(chains: list[Chain]) -> list[tuple[Any, ...]]:
    return [(chain.z.tolist(), chain.boxes.tolist(), chain.best.score, chain.best.z) for chain in chains]


def test_a_lesion_is_one_and_what_lies_beside_it_another() -> None:
    slices = {
        z: on_slice([(10, 10, 20, 20), (40, 10 + z, 50, 20 + z)], [0.6 + z / 100, 0.9 - z / 100]) for z in range(3, 8)
    }
    second, first = linked(slices)
    assert second.z.tolist() == first.z.tolist() == [3, 4, 5, 6, 7]
    assert (second.best.z, second.best.score) == (3, pytest.approx(0.87))
    assert (first.best.z, first.best.score) == (7, pytest.approx(0.67))
    assert second.boxes[:, 0].tolist() == [40] * 5


@pytest.mark.parametrize(
    ("step", "missed", "lesions"), [(2.5, 1, 1), (2.5, 2, 2), (1.0, 4, 1), (1.0, 5, 2), (8.0, 0, 1), (8.0, 1, 2)]
)
def test_slices_between_may_miss_it_for_five_millimetres(step: float, missed: int, lesions: int) -> None:
    box = on_slice([(10, 10, 20, 20)], [0.8])
    assert len(linked({4: box, 5 + missed: box}, step)) == lesions


def test_scores_below_the_threshold_and_other_classes_link_nothing() -> None:
    box: Box = (10, 10, 20, 20)
    slices = {0: on_slice([box], [0.8]), 1: on_slice([box, box], [0.4, 0.9], [2, 1]), 2: on_slice([box], [0.8])}
    assert len(linked(slices, step=5.0)) == 2
    assert len(linked(slices, step=5.0, threshold=0.3)) == 1
    assert linked({}) == []


def test_towards_its_poles_a_lesion_shrinks_fast() -> None:
    """An IoU of 0.09 from slice to slice, and yet one inside the other."""
    slices = {
        z: on_slice([(20 - side, 20 - side, 20 + side, 20 + side)], [0.8]) for z, side in enumerate((1.5, 5, 1.5))
    }
    assert len(linked(slices)) == 1


def test_a_box_that_drifts_is_followed_and_one_that_jumps_is_not() -> None:
    assert len(linked({z: on_slice([(3 * z, 0, 3 * z + 10, 10)], [0.8]) for z in range(5)})) == 1
    assert len(linked({z: on_slice([(6 * z, 0, 6 * z + 10, 10)], [0.8]) for z in range(5)})) == 5


boxes = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(4, 12), st.integers(4, 12)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)
found = st.lists(st.tuples(boxes, st.sampled_from([0.3, 0.55, 0.7, 0.9])), max_size=4)


@given(rows=st.lists(found, min_size=1, max_size=6), data=st.data())
@settings(max_examples=60)
def test_the_order_of_slices_and_of_boxes_changes_nothing(
    rows: list[list[tuple[Box, float]]], data: st.DataObject
) -> None:
    plain = {z: on_slice([box for box, _ in row], [score for _, score in row]) for z, row in enumerate(rows)}
    order = data.draw(st.permutations(range(len(rows))))
    mixed = {}
    for z in order:
        row = data.draw(st.permutations(rows[z]))
        mixed[z] = on_slice([box for box, _ in row], [score for _, score in row])
    one, other = linked(plain), linked(mixed)
    assert sorted((sorted(zip(c.z.tolist(), c.boxes.tolist(), strict=True)), c.best.score) for c in one) == sorted(
        (sorted(zip(c.z.tolist(), c.boxes.tolist(), strict=True)), c.best.score) for c in other
    )
    assert sum(len(chain.z) for chain in one) == sum(score >= 0.5 for row in rows for _, score in row)


@given(rows=st.lists(found, min_size=1, max_size=5), up=st.integers(1, 9), across=st.integers(1, 50))
@settings(max_examples=40)
def test_what_is_moved_together_is_linked_alike(rows: list[list[tuple[Box, float]]], up: int, across: int) -> None:
    plain = {z: on_slice([box for box, _ in row], [score for _, score in row]) for z, row in enumerate(rows)}
    moved = {
        z + up: on_slice(
            [(x0 + across, y0, x1 + across, y1) for (x0, y0, x1, y1), _ in row], [score for _, score in row]
        )
        for z, row in enumerate(rows)
    }
    back = [
        ([z - up for z in z_of], [[x0 - across, y0, x1 - across, y1] for x0, y0, x1, y1 in at], score, z - up)
        for z_of, at, score, z in told(linked(moved))
    ]
    assert back == told(linked(plain))
