"""Two evaluations side by side."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from key_slices import Slices, random_slices, write_found, write_info

from volattn.scoring.comparison import compare
from volattn.scoring.deeplesion import score_deeplesion


def masks(seed: int = 0, count: int = 20, better: float = 0.0) -> dict[str, Any]:
    """Scores case by case, as an evaluation of masks writes them."""
    generator = np.random.default_rng(seed)
    base = generator.random((count, 2))
    return {
        "kind": "lits",
        "cases": [
            {
                "name": f"case-{number}",
                "lesion": {"dice": float(dice) + better, "assd": None if number == 3 else float(assd)},
                "trained_on": False,
                "lesions": [1, 2],
            }
            for number, (dice, assd) in enumerate(base)
        ],
    }


def boxes(folder: Path, slices: Slices) -> dict[str, Any]:
    info = write_info(folder / "DL_info.csv", slices)
    return score_deeplesion(info, write_found(folder / "detections.csv", slices)).content


@pytest.mark.usefixtures("few_resamples")
def test_a_file_against_itself_has_no_difference(tmp_path: Path) -> None:
    for content in (masks(), boxes(tmp_path, random_slices(5))):
        rows = compare(content, content).rows
        assert rows
        for row in rows:
            assert (row.difference, row.interval, row.p, row.significant) == (0, (0, 0), None, False)
            assert row.a == row.b


def test_a_gain_in_every_case_is_significant() -> None:
    result = compare(masks(), masks(better=0.1))
    dice, assd = result.rows
    assert (dice.metric, assd.metric) == ("lesion.dice", "lesion.assd")
    assert dice.difference == pytest.approx(0.1)
    assert dice.interval == pytest.approx((0.1, 0.1))
    assert dice.significant
    assert (dice.n, assd.n) == (20, 19)
    assert not assd.significant
    assert not compare(masks(), masks(seed=1)).rows[0].significant


def test_a_measure_under_two_names_is_tested_once() -> None:
    first, second = masks(), masks(seed=1)
    alone = compare(first, second).rows
    for content in (first, second):
        for case in content["cases"]:
            case["lesion"]["dice_per_case"] = case["lesion"]["dice"]
    dice, assd, alias = compare(first, second).rows
    assert (dice, assd) == alone
    assert (alias.metric, alias.p_holm) == ("lesion.dice_per_case", dice.p_holm)


def test_intervals_are_of_a_seed() -> None:
    first, second = masks(), masks(seed=1)
    assert compare(first, second, seed=4) == compare(first, second, seed=4)
    assert compare(first, second, seed=4).rows[0].interval != compare(first, second, seed=5).rows[0].interval
    one, other = compare(first, second).rows[0], compare(second, first).rows[0]
    assert one.interval is not None
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))


def test_cases_of_one_patient_are_one_unit() -> None:
    first, second = masks(), masks(better=0.1)
    for content in (first, second):
        for number, case in enumerate(content["cases"]):
            case["patient"] = str(number // 10)
    row = compare(first, second).rows[0]
    assert row.n == 2
    assert row.p is not None
    assert row.p > 0.05
    assert not row.significant


def test_few_cases_prove_nothing() -> None:
    row = compare(masks(count=1), masks(count=1, better=0.1)).rows[0]
    assert (row.interval, row.significant) == (None, False)
    assert not compare(masks(count=3), masks(count=3, better=0.1)).rows[0].significant


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.slow
def test_detections_are_compared_by_what_is_pooled(tmp_path: Path) -> None:
    slices = random_slices(5, count=24)
    without: Slices = {name: (lesions, []) for name, (lesions, _) in slices.items()}
    first, second = boxes(tmp_path, without), boxes(tmp_path, slices)
    rows = {row.metric: row for row in compare(first, second).rows}
    assert rows["ap50"].b == second["ap50"]
    assert rows["mean_sensitivity"].difference == second["mean_sensitivity"]
    level = rows["sensitivity_at_fp_per_image.4"]
    assert (level.a, level.b, level.n) == (0, second["sensitivity_at_fp_per_image"]["4"], 12)
    assert level.interval == pytest.approx(second["intervals"]["sensitivity_at_fp_per_image"]["4"])
    assert level.significant


def test_other_cases_are_refused() -> None:
    first, second = masks(), masks(count=18)
    with pytest.raises(ValueError, match=r"only one of them has case-18, case-19; .* --common"):
        compare(first, second)
    result = compare(first, second, common=True)
    assert (result.cases, result.left_out) == (18, 2)
    second["cases"] = [{"name": "else"}]
    with pytest.raises(ValueError, match="no case in common"):
        compare(first, second, common=True)


@pytest.mark.usefixtures("few_resamples")
def test_other_kinds_settings_and_references_are_refused(tmp_path: Path) -> None:
    content = boxes(tmp_path, random_slices(5))
    with pytest.raises(ValueError, match="of different kind: lits and deeplesion"):
        compare(masks(), content)
    other = copy.deepcopy(content)
    other["settings"]["iou"] = 0.3
    with pytest.raises(ValueError, match=r"of different settings: iou 0\.5 and 0\.3"):
        compare(content, other)
    other = copy.deepcopy(content)
    other["cases"][2]["lesions"].append({})
    with pytest.raises(ValueError, match="has other lesions in each"):
        compare(content, other)
