"""Dice and the counts behind it."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.scoring.overlap import Overlap, dice


def _masks(seed: int, share: float, shape: tuple[int, int, int] = (4, 9, 7)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.random(shape) < share, generator.random(shape) < share


@settings(max_examples=12)
@given(seed=st.integers(0, 2**16), share=st.floats(0.05, 0.95))
def test_dice_is_simpleitks(seed: int, share: float) -> None:
    reference, prediction = _masks(seed, share)
    if not (reference.any() and prediction.any()):
        return
    measure = SimpleITK.LabelOverlapMeasuresImageFilter()
    measure.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, prediction)))
    assert dice(reference, prediction) == pytest.approx(measure.GetDiceCoefficient(), abs=1e-12)


def test_empty_masks() -> None:
    empty, filled = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, filled) == 0
    assert dice(filled, empty) == 0


@settings(max_examples=12)
@given(seed=st.integers(0, 2**16), cut=st.integers(0, 4))
def test_counts_of_parts_add_up(seed: int, cut: int) -> None:
    reference, prediction = _masks(seed, 0.4)
    parts = [Overlap.of(reference[part], prediction[part]) for part in (slice(cut), slice(cut, None))]
    assert parts[0] + parts[1] == Overlap.of(reference, prediction)


def test_other_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(1, 2, 2\)"):
        dice(np.ones((2, 2, 2), bool), np.ones((1, 2, 2), bool))
