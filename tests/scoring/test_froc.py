"""FROC, against a slow version written from the definition, and what must not change it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_slices import Box, Slices, random_slices, scored
from sklearn.metrics import roc_curve

from volattn.scoring.deeplesion import FROC
from volattn.scoring.froc import Froc, Start
from volattn.scoring.pool import Pool

LEVELS = (0.5, 1, 2, 4, 8, 16)
SEEDS = st.integers(0, 2**20)


def sensitivities(slices: Slices) -> list[float]:
    pool = Pool(scored(slices), FROC)
    return pool.froc.sensitivity(np.array(LEVELS)).tolist()


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, start=st.sampled_from(["zero", "origin"]), drawn=st.booleans())
def test_sensitivity_is_the_mean_of_what_is_detected(seed: int, start: Start, drawn: bool) -> None:
    pool = Pool(scored(random_slices(seed)), dataclasses.replace(FROC, start=start))
    patients = len(pool.patients)
    weights = np.random.default_rng(seed).integers(0, 3, patients).astype(float) if drawn else np.ones(patients)
    lesions = weights[pool.lesion_patients]
    if not lesions.any():
        assert np.isnan(pool.froc.sensitivity(np.array(LEVELS), weights)).all()
        return
    levels = np.array([0.01, 0.1, *LEVELS])
    expected = np.average(pool.froc.detected(levels, weights), axis=0, weights=lesions)
    assert pool.froc.sensitivity(levels, weights) == pytest.approx(expected)


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def by_definition(slices: Slices) -> list[float]:
    """Box by box in the order of scores, then from point to point."""
    rows = sorted(((score, name, box) for name, (_, found) in slices.items() for box, score in found), reverse=True)
    hit: set[tuple[str, int]] = set()
    false, points = 0, []
    for _, name, box in rows:
        ious = [iou(box, lesion) for lesion in slices[name][0]]
        if max(ious) < 0.5:
            false += 1
        else:
            hit |= {(name, place) for place, value in enumerate(ious) if value >= 0.5}
        points.append((false / len(slices), len(hit)))
    lesions = sum(len(wanted) for wanted, _ in slices.values())
    return [interpolated(points, level) / lesions for level in LEVELS]


def interpolated(points: list[tuple[float, int]], level: float) -> float:
    before = [point for point in points if point[0] <= level]
    after = [point for point in points if point[0] > level]
    if not before:
        return 0.0
    if not after:
        return before[-1][1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 + (y1 - y0) * (level - x0) / (x1 - x0)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_the_definition(seed: int) -> None:
    slices = random_slices(seed)
    assert sensitivities(slices) == pytest.approx(by_definition(slices), abs=1e-12)


def shuffled(slices: Slices, seed: int) -> Slices:
    generator = np.random.default_rng(seed)
    names = list(slices)
    generator.shuffle(names)
    result: Slices = {}
    for name in names:
        lesions, found = list(slices[name][0]), list(slices[name][1])
        generator.shuffle(lesions)  # type: ignore[arg-type]
        order = generator.permutation(len(found))
        result[name] = ([tuple(box) for box in lesions], [found[place] for place in order])  # type: ignore[misc]
    return result


def shifted(slices: Slices, x: float, y: float) -> Slices:
    def move(box: Box) -> Box:
        return (box[0] + x, box[1] + y, box[2] + x, box[3] + y)

    return {
        name: ([move(box) for box in lesions], [(move(box), score) for box, score in found])
        for name, (lesions, found) in slices.items()
    }


def rescored(slices: Slices, function: Callable[[float], float]) -> Slices:
    return {
        name: (lesions, [(box, function(score)) for box, score in found]) for name, (lesions, found) in slices.items()
    }


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, other=SEEDS, decimals=st.sampled_from([None, 1]))
def test_what_changes_nothing(seed: int, other: int, decimals: int | None) -> None:
    slices = random_slices(seed, decimals=decimals)
    expected = Pool(scored(slices), FROC)
    for changed in (
        shuffled(slices, other),
        shifted(slices, other % 97, -(other % 13)),
        rescored(slices, lambda score: math.exp(3 * score) - 2),
    ):
        pool = Pool(scored(changed), FROC)
        assert pool.measure(pool.whole()) == pytest.approx(expected.measure(expected.whole()), abs=1e-12)


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS)
def test_a_patient_that_counts_twice_is_there_twice(seed: int) -> None:
    slices = random_slices(seed, decimals=1)
    pool = Pool(scored(slices), FROC)
    weights = np.random.default_rng(seed).integers(0, 3, len(pool.patients)).astype(float)
    weights[0] += 1
    repeated: Slices = {}
    for name, content in slices.items():
        for copy in range(int(weights[pool.patients.index(str(int(name.split("_")[0])))])):
            repeated[f"{name[:-4]}_{copy}.png"] = content
    assert pool.froc.sensitivity(np.array(LEVELS), weights).tolist() == pytest.approx(
        sensitivities(repeated), abs=1e-12
    )


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS)
def test_from_the_origin_it_is_the_curve_of_nndetection_and_luna16(seed: int) -> None:
    """Both take scikit-learn's ROC curve, rescale its axes and interpolate."""
    generator = np.random.default_rng(seed)
    true, images, lesions = generator.random(25) < 0.4, 5, 15
    true[:2] = (True, False)
    scores = generator.integers(0, 12, len(true)) / 12
    found = int(true.sum())
    lesion_scores = np.full(max(lesions, found), -np.inf)
    lesion_scores[:found] = scores[true]
    zeros = np.zeros(len(true), np.int64)
    froc = Froc(
        lesion_scores,
        np.zeros(len(lesion_scores), np.int64),
        scores[~true],
        zeros[~true],
        np.zeros(images, np.int64),
        "origin",
    )
    false_rate, true_rate, _ = roc_curve(true, scores)
    levels = np.array([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])
    expected = np.interp(levels, false_rate * (~true).sum() / images, true_rate * found / len(lesion_scores))
    assert froc.sensitivity(levels) == pytest.approx(expected, abs=1e-12)


def test_a_duplicate_is_neither_true_nor_false() -> None:
    lesion = (10.0, 10.0, 30.0, 30.0)
    elsewhere = (40.0, 40.0, 50.0, 50.0)
    once: Slices = {"000001_01_01_001.png": ([lesion, elsewhere], [(lesion, 0.9)])}
    twice: Slices = {"000001_01_01_001.png": ([lesion, elsewhere], [(lesion, 0.9), (lesion, 0.8)] * 9)}
    assert sensitivities(once) == sensitivities(twice) == [0.5] * 6
    assert Pool(scored(twice), FROC).froc.false_scores.size == 0


def test_one_box_hits_every_lesion_that_it_overlaps_enough() -> None:
    lesions = [(10.0, 10.0, 29.0, 29.0), (12.0, 10.0, 31.0, 29.0)]
    assert sensitivities({"000001_01_01_001.png": (lesions, [(lesions[0], 0.5)])}) == [1] * 6


def test_an_iou_of_one_half_counts_with_inclusive_pixels() -> None:
    # 10 x 10 and 10 x 5 pixels; with half-open areas it would be 36 / 81.
    hit: Slices = {"000001_01_01_001.png": ([(0, 0, 9, 9)], [((0, 0, 9, 4), 1.0)])}
    miss: Slices = {"000001_01_01_001.png": ([(0, 0, 9, 9)], [((0, 0, 9, 3.9), 1.0)])}
    assert sensitivities(hit) == [1] * 6
    assert sensitivities(miss) == [0] * 6


def test_before_the_curve_and_beyond_it() -> None:
    lesion, other = (10.0, 10.0, 30.0, 30.0), (60.0, 60.0, 80.0, 80.0)
    false, hit = ((40.0, 40.0, 45.0, 45.0), 0.9), (lesion, 0.9)
    # One threshold has both: the curve is the single point (1, 1/2).
    slices: Slices = {"000001_01_01_001.png": ([lesion, other], [false, hit])}
    assert sensitivities(slices) == [0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert sensitivities({"000001_01_01_001.png": ([lesion], [])}) == [0] * 6


def test_images_without_detections_count() -> None:
    lesion = (10.0, 10.0, 30.0, 30.0)
    slices: Slices = {
        "000001_01_01_001.png": ([lesion], [((40.0, 40.0, 45.0, 45.0), 0.9), (lesion, 0.5)]),
        "000002_01_01_001.png": ([lesion], []),
    }
    assert sensitivities(slices)[0] == 0.5  # one false positive on two images
