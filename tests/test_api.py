"""The functions of the package do what the commands of their names do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_detectors import small_config

import volattn
from volattn.preprocessing.plan import Plan
from volattn.training.recipe import Recipe, ScheduleConfig


def test_from_a_data_set_to_scores(write_lits_case: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    for number in range(3):
        write_lits_case(number, shape=(8, 64, 64))
    data, store, run, out = tmp_path / "lits", tmp_path / "store", tmp_path / "run", tmp_path / "out"
    recipe = Recipe(
        name="small",
        plan=Plan(z_spacing=2.0, size=64),
        model=small_config(bag=3),
        schedule=ScheduleConfig(unit="steps", length=2, decay="cosine", warmup=0),
    )
    said: list[str] = []
    prepared = volattn.prepare(data, store, recipe=recipe, workers=0, announce=said.append)
    assert (prepared.prepared, prepared.failed) == (("volume-0", "volume-1", "volume-2"), {})
    assert said[0].startswith("lits: 3 cases, about ")
    with pytest.raises(ValueError, match="--resume"):
        volattn.prepare(data, store, recipe=recipe, workers=0)

    result = volattn.train(recipe, store, run, settings=["schedule.length=1"], device="cpu", announce=said.append)
    assert (result.path, result.steps) == (run, 1)

    predictor = volattn.load(run, device="cpu", precision="fp32")
    outcomes = volattn.predict(predictor, [data / "volume-0.nii.gz", data / "volume-1.nii.gz"], out, threshold=0.0)
    assert [(one.name, one.status) for one in outcomes] == [("volume-0", "predicted"), ("volume-1", "predicted")]

    done = volattn.evaluate(data, out, tmp_path / "scores.json", organ=1, lesion=2)
    assert done.scores == json.loads((tmp_path / "scores.json").read_text())
    assert done.cases == 3
    assert list(done.failed) == ["segmentation-2"]
