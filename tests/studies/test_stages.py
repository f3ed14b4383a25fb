"""A folder belongs to one study with one set of settings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from volattn.studies.cell import Cell
from volattn.studies.stages import StageLog


def test_stages_add_up_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "study.json"
    for _ in range(2):
        log = StageLog.claim(path, "study", {"seed": 1})
        with log.stage("first"):
            pass
    log.seconds["first"] = 3.0
    log.finish({"dice": 0.5})
    again = StageLog.claim(path, "study", {"seed": 1})
    with again.stage("first"):
        pass
    assert again.seconds["first"] == pytest.approx(3.0, abs=0.1)
    content = json.loads(path.read_text())
    assert content["results"] == {"dice": 0.5}
    assert "python" in content["versions"]


def test_an_interrupted_stage_is_noted(tmp_path: Path) -> None:
    log = StageLog.claim(tmp_path / "study.json", "study", {})
    with pytest.raises(KeyboardInterrupt), log.stage("first"):
        raise KeyboardInterrupt
    assert json.loads(log.path.read_text())["seconds"].keys() == {"first"}


def test_other_settings_are_refused(tmp_path: Path) -> None:
    StageLog.claim(tmp_path / "study.json", "study", {"seed": 1, "steps": 2})
    with pytest.raises(ValueError, match=r"another seed \(1, now 3\)"):
        StageLog.claim(tmp_path / "study.json", "study", {"seed": 3, "steps": 2})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"settings": [], "seconds": {}}', '{"settings": {}, "seconds": {"a": "x"}}']
)
def test_a_spoilt_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ValueError, match=r"study\.json: .*(not the manifest|not valid JSON)"):
        StageLog.claim(tmp_path / "study.json", "study", {})


@pytest.mark.parametrize("name", ["cell.json", "failed.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"reason": 3}', '{"cases": [{}]}'])
def test_a_spoilt_cell_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    cell = Cell("plain", 0, tmp_path, tmp_path / "recipe.yaml", tmp_path / "store", "masks")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))) as caught:
        _ = cell.result, cell.failure
    assert str(caught.value).isprintable()
