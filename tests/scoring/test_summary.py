"""Means over cases, with the numbers behind them."""

from __future__ import annotations

import json

import pytest
from scored_cases import case, label_map

from volattn.scoring.cases import summarise

CASES = [
    # 11.3 mm: hit exactly; 22.6 mm (16 px): missed; one false positive.
    case("a", label_map((10, 10, 8), (25, 25, 16)), label_map((10, 10, 8), (40, 10, 3))),
    # 35.4 mm, overlapped by half; trained on.
    case("b", label_map((10, 10, 25)), label_map((10, 10, 15)), trained_on=True),
    # No lesion, none predicted.
    case("c", label_map(), label_map()),
]


def test_by_size() -> None:
    sizes = summarise(CASES).sizes
    assert (sizes["small"].lesions, sizes["small"].found, sizes["small"].dice) == (1, 1, 1.0)
    assert (sizes["medium"].lesions, sizes["medium"].found, sizes["medium"].dice) == (1, 0, 0.0)
    assert sizes["large"].dice == pytest.approx(2 * 225 / (625 + 225))
    assert summarise(CASES).all_sizes.recall == pytest.approx(2 / 3)


def test_per_case_and_global() -> None:
    summary = summarise(CASES)
    first, second = 2 * 64 / (64 + 256 + 64 + 9), 2 * 225 / (625 + 225)
    assert summary.lesion.dice_per_case == pytest.approx((first + second + 1) / 3)
    assert summary.lesion.dice_global == pytest.approx(2 * (64 + 225) / (320 + 73 + 625 + 225))
    assert summary.false_positives_per_case == pytest.approx(1 / 3)
    assert (summary.cases, summary.trained_on) == (3, 1)


def test_a_size_without_lesions_has_no_mean() -> None:
    summary = summarise(CASES[2:])
    assert summary.sizes["small"].dice is None
    assert summary.sizes["small"].recall is None
    values = json.loads(json.dumps(summary.as_json(), allow_nan=False))
    assert values["sizes"]["small"] == {"lesions": 0, "found": 0, "dice": None, "recall": None}


def test_lesion_only_data_have_no_organ_score() -> None:
    assert summarise([case("a", label_map(), label_map(), organ=False)]).organ is None


def test_nothing_to_summarise() -> None:
    with pytest.raises(ValueError, match="no scored cases"):
        summarise([])
