"""Scores as tables: the right numbers in the right columns."""

from __future__ import annotations

import pytest
from scored_cases import case, label_map

from volattn.report.tables import case_table, size_table
from volattn.scoring.cases import summarise

CASES = [
    case("volume-1", label_map((10, 10, 8), (25, 25, 16)), label_map((10, 10, 8), (40, 10, 3))),
    case("volume-2", label_map((10, 10, 25)), label_map((10, 10, 25)), trained_on=True),
]
ROWS = [score.as_json() for score in CASES]


def test_case_by_case() -> None:
    table = case_table(ROWS, organ="liver", upper_bounds=[row["lesion"]["dice"] for row in ROWS[::-1]])
    assert [column.title for column in table.columns[:4]] == ["Case", "Liver Dice", "Lesion Dice", "Upper bound"]
    dice = 2 * 64 / (64 + 256 + 64 + 9)
    assert table.rows[0] == (
        "volume-1",
        1.0,
        pytest.approx(dice),
        1.0,
        "1 of 2",
        1,
        pytest.approx(320 * 5 / 1000),
        pytest.approx(73 * 5 / 1000),
    )
    assert table.rows[1][0] == "volume-2 (trained on)"
    assert table.foot[0][:6] == (
        "Mean of 2",
        1.0,
        pytest.approx((1 + dice) / 2),
        pytest.approx((1 + dice) / 2),
        "2 of 3",
        0.5,
    )


def test_lesion_only_data_have_no_organ_column() -> None:
    alone = case("a", label_map((10, 10, 8)), label_map(), organ=False)
    table = case_table([alone.as_json()], organ=None)
    assert [column.title for column in table.columns[:3]] == ["Case", "Lesion Dice", "Lesions found"]
    assert table.foot == (), "the mean of one case is that case"


def test_size_by_size() -> None:
    summary = summarise(CASES)
    assert size_table(summary.as_json()).rows == (
        ("small (< 15 mm)", 1, 1, 1.0, 1.0),
        ("medium (15-30 mm)", 1, 0, 0.0, 0.0),
        ("large (> 30 mm)", 1, 1, 1.0, 1.0),
    )
