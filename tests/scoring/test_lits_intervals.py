"""Intervals of LiTS scores: as if every sample of cases had been pooled by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pytest
from scored_cases import SPACING, label_map

from volattn.scoring.lesions import Counts
from volattn.scoring.lits import LitsCase, score_lits
from volattn.scoring.lits_folders import pool_lits
from volattn.scoring.overlap import LabelPair, Overlap
from volattn.scoring.statistics import resamples
from volattn.structures.geometry import Geometry

SEED = 3


def _case(reference: np.ndarray, prediction: np.ndarray, *, liver: bool = True) -> LitsCase:
    pair = LabelPair.cropped(reference, prediction, Geometry.aligned(reference.shape, SPACING))
    return score_lits("a", pair, SPACING, liver=liver)


@pytest.fixture(scope="module")
def cases() -> list[LitsCase]:
    """A good one, one with a missed and a false lesion, one without a prediction, one without a lesion."""
    small, medium = (8, 8, 6), (20, 20, 18)
    return [
        _case(label_map(small, medium), label_map((8, 9, 6), (21, 20, 18))),
        _case(label_map(small, medium), label_map((30, 8, 4), (20, 24, 18))),
        _case(label_map(small), np.minimum(label_map(), 1)),
        _case(label_map(), label_map((30, 30, 5))),
    ]


def _pooled(cases: Sequence[LitsCase]) -> dict[str, float]:
    counts = reduce(Counts.__add__, [case.detection[0.5] for case in cases])
    lesions = [lesion for case in cases for lesion in case.score.lesionwise.lesions]
    medium = [lesion.dice for lesion in lesions if lesion.size == "medium"]
    overlaps = [case.score.lesion for case in cases]
    undefined = float("nan")
    recall = counts.detected / counts.references if counts.references else undefined
    precision = counts.taking_part / counts.predictions if counts.predictions else undefined
    livers = [case.liver for case in cases if case.liver is not None]
    scored = [score for case in cases for score in case.scored]
    return {
        "recall": recall,
        "precision": precision,
        "f1": 2 * recall * precision / (recall + precision) if recall + precision > 0 else 0.0,
        "assd": float(np.mean([score.assd for score in scored])) if scored else undefined,
        "dice_global": reduce(Overlap.__add__, overlaps).dice,
        "dice_per_case": float(np.mean([overlap.dice for overlap in overlaps])),
        "burden_rmse": float(np.sqrt(np.mean([liver.burden_difference**2 for liver in livers]))),
        "medium_dice": float(np.mean(medium)) if medium else undefined,
        "false_positives": float(np.mean([case.score.lesionwise.false_positives for case in cases])),
    }


def test_as_pooling_each_sample(cases: list[LitsCase]) -> None:
    drawn = [
        _pooled([case for case, times in zip(cases, weights.astype(int), strict=True) for _ in range(times)])
        for weights in resamples(len(cases), SEED)
    ]
    expected = {
        key: pytest.approx(np.nanpercentile([one[key] for one in drawn], [2.5, 97.5]).tolist()) for key in drawn[0]
    }
    found = pool_lits(cases, seed=SEED)["intervals"]
    assert {
        **{key: found["lesion_detection"][key] for key in ("recall", "precision", "f1")},
        **{key: found["lesion"][key] for key in ("assd", "dice_global", "dice_per_case")},
        "burden_rmse": found["tumor_burden"]["rmse"],
        "medium_dice": found["by_size"]["medium"]["dice"],
        "false_positives": found["false_positives_per_case"],
    } == expected


def test_keys_are_those_of_the_scores(cases: list[LitsCase]) -> None:
    content = pool_lits(cases, seed=SEED)
    without = {"tumor_burden": {"max"}, "by_size": set[str]()}
    for section, ends in content["intervals"].items():
        if isinstance(ends, dict) and section not in ("by_size", "all_sizes"):
            assert ends.keys() == content[section].keys() - without.get(section, set()), section
    for size, ends in content["intervals"]["by_size"].items():
        assert ends.keys() <= content["by_size"][size].keys()
        if content["by_size"][size]["lesions"] == 0:
            assert set(ends.values()) == {None}
    assert content["bootstrap"]["seed"] == SEED
    assert pool_lits(cases, seed=SEED + 1)["intervals"] != content["intervals"]


def test_one_case_has_no_interval(cases: list[LitsCase]) -> None:
    found = pool_lits(cases[:1], seed=SEED)["intervals"]
    assert set(found["lesion"].values()) == set(found["liver"].values()) == {None}
    assert found["false_positives_per_case"] is None


def test_without_a_liver() -> None:
    maps = label_map((8, 8, 6)), label_map((8, 9, 6))
    cases = [_case(*maps, liver=False), _case(*maps[::-1], liver=False)]
    found = pool_lits(cases, seed=SEED)["intervals"]
    assert (found["liver"], found["tumor_burden"]) == (None, None)
    assert found["lesion"]["dice_per_case"] is not None
