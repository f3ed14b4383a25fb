"""Dice and recall lesion by lesion, against a slow version written from the definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from volattn.scoring.lesions import LesionwiseScore, score_lesions, size_of
from volattn.structures.geometry import Geometry

SPACING = (2.5, 0.8, 0.7)


def _score(reference: np.ndarray, prediction: np.ndarray, spacing: tuple = SPACING) -> LesionwiseScore:
    return score_lesions(reference, prediction, Geometry.aligned(reference.shape, spacing))


def _blobs(seed: int, shape: tuple[int, int, int] = (6, 22, 20)) -> np.ndarray:
    """Some boxes, some of which touch."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for _ in range(generator.integers(0, 7)):
        low = generator.integers(0, shape)
        high = np.minimum(low + generator.integers(1, 6, 3), shape)
        mask[tuple(slice(*bounds) for bounds in zip(low, high, strict=True))] = True
    return mask


def _extent(slice_: np.ndarray) -> float:
    corners = [
        ((y + dy) * SPACING[1], (x + dx) * SPACING[2])
        for y, x in zip(*np.nonzero(slice_), strict=True)
        for dy, dx in itertools.product((0, 1), repeat=2)
    ]
    points = np.array(corners)
    return float(np.linalg.norm(points[:, None] - points[None], axis=-1).max())


def _by_definition(reference: np.ndarray, prediction: np.ndarray) -> tuple[list[tuple[float, float]], int]:
    wanted, wanted_count = ndimage.label(reference)
    found, found_count = ndimage.label(prediction)
    lesions = []
    for number in range(1, wanted_count + 1):
        lesion = wanted == number
        union = np.isin(found, np.setdiff1d(found[lesion], 0))
        value = 2 * (lesion & union).sum() / (lesion.sum() + union.sum())
        # Rounded: equal extents differ in the last bit, and must not decide the order.
        lesions.append((round(max(_extent(plane) for plane in lesion if plane.any()), 9), float(value)))
    false = sum(not (reference & (found == number)).any() for number in range(1, found_count + 1))
    return sorted(lesions), false


@settings(max_examples=20)
@given(first=st.integers(0, 2**20), second=st.integers(0, 2**20))
def test_the_definition(first: int, second: int) -> None:
    reference, prediction = _blobs(first), _blobs(second)
    score = _score(reference, prediction)
    lesions, false = _by_definition(reference, prediction)
    measured = sorted((round(lesion.long_axis_mm, 9), lesion.dice) for lesion in score.lesions)
    assert np.array(measured).reshape(-1, 2) == pytest.approx(np.array(lesions).reshape(-1, 2), abs=1e-9)
    assert score.false_positives == false


@settings(max_examples=10)
@given(first=st.integers(0, 2**20), second=st.integers(0, 2**20), axis=st.integers(0, 2), pad=st.integers(0, 3))
def test_flips_and_padding_change_nothing(first: int, second: int, axis: int, pad: int) -> None:
    masks = _blobs(first), _blobs(second)
    changed = [np.pad(np.flip(mask, axis), pad) for mask in masks]

    def values(score: LesionwiseScore) -> list[tuple[float, ...]]:
        return sorted(
            (round(lesion.long_axis_mm, 9), round(lesion.volume_ml, 9), lesion.dice) for lesion in score.lesions
        )

    before, after = _score(*masks), _score(changed[0], changed[1])
    assert values(before) == values(after)
    assert (before.predicted, before.false_positives) == (after.predicted, after.false_positives)


def test_a_lesion_in_two_predicted_pieces_is_held_against_their_union() -> None:
    reference = np.zeros((1, 10, 10), bool)
    reference[0, 2, 0:10] = True
    prediction = np.zeros_like(reference)
    prediction[0, 2, 0:4] = True  # inside
    prediction[0, 2:4, 6:8] = True  # half outside
    prediction[0, 9, 9] = True  # touches nothing
    score = _score(reference, prediction)
    assert [lesion.dice for lesion in score.lesions] == [pytest.approx(2 * 6 / (10 + 8))]
    assert (score.predicted, score.false_positives) == (3, 1)


def test_one_prediction_may_meet_two_lesions() -> None:
    reference = np.zeros((1, 3, 9), bool)
    reference[0, 1, [0, 1, 7, 8]] = True
    prediction = np.zeros_like(reference)
    prediction[0, 1] = True
    score = _score(reference, prediction)
    assert [lesion.dice for lesion in score.lesions] == [pytest.approx(2 * 2 / (2 + 9))] * 2
    assert score.false_positives == 0


def test_a_missed_lesion_scores_nothing() -> None:
    reference = np.zeros((2, 4, 4), bool)
    reference[0, 0, 0] = True
    score = _score(reference, np.zeros_like(reference))
    assert [(lesion.dice, lesion.found) for lesion in score.lesions] == [(0, False)]


@pytest.mark.parametrize(
    ("millimetres", "size"), [(14.999, "small"), (15.0, "medium"), (30.0, "medium"), (30.001, "large")]
)
def test_bins(millimetres: float, size: str) -> None:
    assert size_of(millimetres) == size
