"""Runs as tasks of a local Ray; skipped where Ray is not installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from small_studies import CASES, mask_recipe, small_study
from training.small_runs import write_store

from volattn.studies.definition import Overrides
from volattn.studies.executor import Executor
from volattn.studies.run import run_study


def test_missing_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volattn.studies.executor.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install volattn\[ray\]"):
        list(Executor(ray="local").run([]))


def test_a_device_that_cannot_be_is_refused_before_any_run() -> None:
    with pytest.raises(ValueError, match="device 'cuda:99' is not there"):
        Executor(device="cuda:99")
    with pytest.raises(ValueError, match="--device cuda:1: with --ray each run has a GPU of its own"):
        Executor(device="cuda:1", ray="local")


@pytest.mark.slow
def test_a_local_ray_trains_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    torch.set_num_threads(1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")]))
    write_store(tmp_path / "store", cases=CASES, depth=6)
    (tmp_path / "recipe.yaml").write_text(mask_recipe().text())
    outcome = run_study(
        "small",
        small_study(),
        [tmp_path / "store"],
        tmp_path / "out",
        Executor(2, ray="local", device="cpu"),
        overrides=Overrides(recipe=str(tmp_path / "recipe.yaml")),
    )
    assert not outcome.failed
    assert not outcome.unfinished
    assert "Unfinished" not in outcome.table.read_text()
