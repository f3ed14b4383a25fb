"""The operating threshold: one pass over the scores is as good as cutting at every candidate."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.scoring.overlap import dice
from volattn.training.validate import CANDIDATES, choose_threshold, passed
from volattn.training.validate_masks import dice_curve


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 0.6))
def test_the_counts_give_dice_at_every_candidate(seed: int, found: float, diseased: float) -> None:
    generator = np.random.default_rng(seed)
    # Many scores lie exactly on a candidate: they belong to it.
    exact = generator.choice(CANDIDATES, (5, 6, 7))
    scores = np.where(generator.random((5, 6, 7)) < 0.5, exact, generator.random((5, 6, 7))).astype(np.float32)
    scores[generator.random(scores.shape) > found] = 0
    reference = generator.random(scores.shape) < diseased
    expected = [dice(reference, scores >= candidate) for candidate in CANDIDATES.tolist()]
    np.testing.assert_allclose(dice_curve(passed(scores), reference), expected, rtol=1e-12)


def test_the_threshold_is_the_best_on_average_over_cases() -> None:
    curves = np.zeros((2, len(CANDIDATES)))
    curves[0, 10], curves[1, 10] = 0.9, 0.1
    curves[0, 20], curves[1, 20] = 0.6, 0.5
    assert choose_threshold(list(curves)) == (0.25, (0.6, 0.5))


def test_of_equal_thresholds_the_middle_one_is_taken() -> None:
    curve = np.zeros(len(CANDIDATES))
    curve[30:41] = 0.7
    assert choose_threshold([curve])[0] == 0.4


def test_a_score_at_the_threshold_counts() -> None:
    """The threshold travels through JSON as a Python float; a float32 score at it must still pass."""
    for candidate in CANDIDATES:
        assert candidate >= float(f"{round(float(candidate), 2)}")
