"""A folder belongs to one study with one set of settings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from volattn.studies.manifest import claim_study
from volattn.studies.study_run import StudyRun


def test_stages_add_up_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "study.json"
    for resume in (False, True):
        with claim_study(path, "study", {"seed": 1}, resume=resume) as manifest:
            with manifest.stage("first"):
                pass
            manifest.seconds["first"] = 3.0
            manifest.finish({"dice": 0.5})
    with claim_study(path, "study", {"seed": 1}, resume=True) as again, again.stage("first"):
        pass
    content = json.loads(path.read_text())
    assert content["seconds"]["first"] >= 3.0
    assert content["results"] == {"dice": 0.5}
    assert "python" in content["versions"]


def test_an_interrupted_stage_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    with (
        pytest.raises(KeyboardInterrupt),
        claim_study(path, "study", {}, resume=False) as manifest,
        manifest.stage("first"),
    ):
        raise KeyboardInterrupt
    assert json.loads(path.read_text())["seconds"].keys() == {"first"}


def test_other_settings_are_refused_and_the_same_ones_without_resume(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    for settings, resume, message in (
        ({"seed": 1, "steps": 2}, False, None),
        ({"seed": 1, "steps": 2}, False, "already holds a study; continue it with --resume"),
        ({"seed": 3, "steps": 2}, True, r"another seed \(1, now 3\)"),
        ({"seed": 1, "steps": 2}, True, None),
    ):
        if message is None:
            with claim_study(path, "study", settings, resume=resume):
                continue
        with pytest.raises(ValueError, match=message), claim_study(path, "study", settings, resume=resume):
            pass


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"settings": [], "seconds": {}}', '{"settings": {}, "seconds": {"a": "x"}}']
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.json"
    path.write_text(text)
    with (
        pytest.raises(ValueError, match=r"study\.json: .*(not the manifest|not valid JSON)"),
        claim_study(path, "study", {}, resume=True),
    ):
        pass


@pytest.mark.parametrize("name", ["result.json", "failed.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"reason": 3}', '{"cases": [{}]}'])
def test_a_damaged_result_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    run = StudyRun("plain", 0, tmp_path, tmp_path / "recipe.yaml", tmp_path / "store", "masks")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))) as caught:
        _ = run.result, run.failure
    assert str(caught.value).isprintable()
