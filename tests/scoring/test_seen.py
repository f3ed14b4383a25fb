"""What `predict` noted of a case is what its score says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from volattn.scoring.pairing import trained_on


@pytest.mark.parametrize(
    ("split", "known_by", "expected"),
    [("training", "content", True), ("training", "name", True), ("validation", "content", False)],
)
def test_only_a_training_case_counts(tmp_path: Path, split: str, known_by: str, expected: bool) -> None:
    seen = {"subset": split, "case": "volume-3", "known_by": known_by}
    (tmp_path / "ct.json").write_text(json.dumps({"seen_in_training": seen}))
    assert trained_on(tmp_path / "ct.nii.gz") == expected


def test_an_unknown_case_is_a_test(tmp_path: Path) -> None:
    assert not trained_on(tmp_path / "ct.nii.gz")
    (tmp_path / "ct.json").write_text(json.dumps({"seen_in_training": None}))
    assert not trained_on(tmp_path / "ct.nii.gz")
    (tmp_path / "ct.json").write_text(json.dumps({"shape": [1, 2, 3]}))  # other programs write JSON too
    assert not trained_on(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        *(
            f'{{"seen_in_training": {seen}}}'
            for seen in ('{"split": "training"}', "[]", '"yes"', "true", '{"split": 3}')
        ),
    ],
)
def test_another_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "ct.json").write_text(text)
    with pytest.raises(ValueError, match=r"ct\.json: .*is not what"):
        trained_on(tmp_path / "ct.nii.gz")
