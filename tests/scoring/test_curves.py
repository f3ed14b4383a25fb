"""What is drawn of pooled detections, against counting by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_slices import random_slices, scored, write_found, write_info

from volattn.report.report import build_report
from volattn.report.tables import detection_table
from volattn.scoring.comparison import compare
from volattn.scoring.deeplesion import FROC, score_deeplesion
from volattn.scoring.metrics import METRICS, Metric
from volattn.scoring.pool import Pool, Sample, image_errors, sensitivity_band
from volattn.scoring.score_files import froc_settings, read_scores, write_scores

pytestmark = pytest.mark.usefixtures("few_resamples")


@settings(deadline=None, max_examples=20)
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


def test_one_row_is_all_that_a_pooled_metric_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def largest(sample: Sample) -> np.ndarray:
        return np.where(sample.groups.any(axis=1), np.nanmax(sample.sensitivities([0.5, 16]), axis=1), np.nan)

    toy = Metric("largest_sensitivity", "Largest sensitivity", "boxes", pooled=largest)
    slices = random_slices(5, count=8)
    files = write_info(tmp_path / "DL_info.csv", slices), write_found(tmp_path / "detections.csv", slices)
    before = score_deeplesion(*files).content
    monkeypatch.setitem(METRICS, toy.key, toy)
    write_scores(tmp_path / "scores.json", score_deeplesion(*files).content)
    content = read_scores(tmp_path / "scores.json")
    expected = content["sensitivity_at_fp_per_image"]["16"]
    assert content[toy.key] == content["by_type"]["lung"][toy.key] == expected
    assert content["intervals"][toy.key] == content["intervals"]["sensitivity_at_fp_per_image"]["16"]
    assert {row.metric: row.a for row in compare(content, content).rows}[toy.key] == expected
    assert toy.title in detection_table(content, "Scores").text()
    assert toy.title in build_report(content).html()
    write_scores(tmp_path / "scores.json", before)
    with pytest.raises(ValueError, match=f"{toy.key}: is missing"):
        read_scores(tmp_path / "scores.json")
