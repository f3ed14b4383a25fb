"""What is drawn of pooled detections, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_slices import random_slices, scored

from volattn.scoring.deeplesion import FROC
from volattn.scoring.pool import Pool, image_errors, sensitivity_band
from volattn.scoring.score_files import froc_settings


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**20), level=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]))
def test_the_threshold_is_the_lowest_that_keeps_to_the_level(seed: int, level: float) -> None:
    pool = Pool(scored(random_slices(seed, decimals=1)), FROC)
    scores = [one.score for image in pool.images for one in image.detections]
    hits = [one.score for image in pool.images for one in image.detections if one.lesions]
    false = [one.score for image in pool.images for one in image.detections if not one.lesions]
    occurring = set(false)
    for image in pool.images:
        for lesion in range(len(image.lesions)):
            best = [one.score for one in image.detections if lesion in one.lesions]
            occurring |= {max(best)} if best else set()
    allowed = [value for value in occurring if sum(score >= value for score in false) <= level * len(pool.images)]
    threshold = pool.froc.threshold(level)
    assert threshold == min(allowed, default=np.inf)
    errors = image_errors(pool, threshold)
    assert sum(one.false_positives for one in errors) <= level * len(pool.images)
    assert len(scores) == len(hits) + len(false)


def test_errors_of_an_image() -> None:
    pool = Pool(scored(random_slices(3, count=10)), FROC)
    errors = image_errors(pool, 0.4)
    totals = [one.missed + one.false_positives for one in errors]
    assert totals == sorted(totals, reverse=True)
    by_name = {one.name: one for one in errors}
    for image in pool.images:
        best = [
            max((one.score for one in image.detections if lesion in one.lesions), default=-1.0)
            for lesion in range(len(image.lesions))
        ]
        assert by_name[image.name].missed == sum(score < 0.4 for score in best)
        assert by_name[image.name].false_positives == sum(
            one.score >= 0.4 and not one.lesions for one in image.detections
        )


def test_no_band_of_one_patient() -> None:
    assert sensitivity_band(Pool(scored(random_slices(1, count=2)), FROC), np.array([1.0]), 0) is None


def test_what_was_measured() -> None:
    assert froc_settings({"kind": "lits"}) is None
    with pytest.raises(ValueError, match="preset 'best' is unknown"):
        froc_settings({"kind": "detection", "settings": {"preset": "best"}})
