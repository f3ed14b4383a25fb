"""Every study in the package runs through on a miniature, and says what the paper says."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small_studies import CASES, box_recipe, cheap_settings, mask_recipe
from training.small_runs import write_boxed_store, write_store

from volattn.models.registry import MODELS
from volattn.studies.definition import Overrides, Study, load_study, resolve, shipped
from volattn.studies.executor import Executor
from volattn.studies.run import run_study
from volattn.training.recipe import Recipe

STUDIES = {name: load_study(name)[1] for name in shipped()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    write_store(folder / "masks", cases=CASES, depth=6)
    write_boxed_store(folder / "boxes", cases=6, depth=6)
    (folder / "masks.yaml").write_text(mask_recipe().text())
    (folder / "boxes.yaml").write_text(box_recipe().text())
    return folder


def unavailable(study: Study) -> set[str]:
    """Rows whose network is not there: no such name, or an extra that is not installed."""
    found = set()
    for row in study.runnable:
        name = row.changes.get("model.name", "mask_rcnn")
        model = MODELS.get(name)
        package = None if model is None else model.config.package
        if model is None or (package is not None and find_spec(package) is None):
            found.add(row.key)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_every_study_runs_through(data: Path, tmp_path: Path, name: str) -> None:
    study = STUDIES[name]
    missing = unavailable(study)
    if missing == {row.key for row in study.runnable}:
        pytest.skip(f"no network of {name} is there")
    settings = ("plan.size=64", "weights=none", *cheap_settings(study))
    overrides = Overrides(recipe=str(data / f"{study.kind}.yaml"), settings=settings)
    outcome = run_study(
        name, study, [data / study.kind], tmp_path / "out", Executor(0, device="cpu"), overrides=overrides
    )
    assert outcome.failed.keys() == {f"{key} seed 0" for key in missing}
    assert not outcome.unfinished
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    for row in content["rows"]:
        done = row["key"] not in missing and row["state"] != "quoted"
        assert all((score["value"] is not None) <= done for score in row["scores"].values())
        assert not done or row["scores"][study.metrics[0]]["value"] is not None
    page = outcome.table.read_text()
    assert all(note in page for note in study.notes)
    assert (tmp_path / "out" / "table.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", shipped())
def test_at_full_scale_every_row_is_a_recipe_with_an_equal_budget(name: str) -> None:
    study = STUDIES[name]
    asked = tuple(f"{row.key}:{key}=none" for row in study.rows for key in row.asks)
    rows = resolve(study, Overrides(settings=asked))
    missing = {row.key for row in study.runnable if row.changes.get("model.name", "mask_rcnn") not in MODELS}
    assert {one.row.key for one in rows if one.recipe is None} == missing
    recipes = [one.recipe for one in rows if one.recipe is not None]
    assert len({(one.schedule.unit, one.schedule.length) for one in recipes}) <= 1
    assert len({one.plan for one in recipes}) == (4 if name == "table-2c" else 1) or missing


def test_the_papers_numbers_are_transcribed() -> None:
    """Sums over columns of the paper's tables, added up by hand from its text."""

    def total(name: str, metric: str) -> float:
        return round(sum(row.paper.get(metric, 0) for row in STUDIES[name].rows), 1)

    assert total("table-1", "dice_per_case") == 604.5
    assert total("table-2a", "dice_per_case") == 201.0
    assert total("table-2a", "dice_small") == 153.2
    assert total("table-2b", "dice_per_case") == 186.0
    assert total("table-2c", "dice_medium") == 283.9
    assert total("table-2d", "dice_large") == 237.4
    assert total("table-2e", "dice_medium") == 216.1
    assert total("table-2f", "dice_small") == 212.5
    assert total("table-3", "sensitivity_at_fp_per_image.0.5") == 486.1
    assert total("table-4", "ap50") == 505.0


def test_the_contradictions_are_said() -> None:
    said = {name: " ".join(study.notes) for name, study in STUDIES.items()}
    assert "N = 9 (27 slices)" in said["table-2d"]
    assert all("ImageNet only" in said[name] for name in ("table-2b", "table-2d", "table-2e"))
    assert "5.1" in said["table-2e"]
    assert "7.2 and 5.2" in said["table-2e"]
    assert "77.22" in said["table-3"]
    assert all("4,427 patients" in said[name] for name in ("table-3", "table-4"))
    assert all("train and val parts" in said[name] for name in ("table-3", "table-4"))


def test_only_the_named_thing_changes() -> None:
    rows = {one.row.key: one.recipe for one in resolve(STUDIES["table-2d"], Overrides(recipe="tiny"))}
    plain, both = rows["baseline"], rows["both"]
    assert isinstance(plain, Recipe)
    assert isinstance(both, Recipe)
    attention = both.model.attention.model_copy(update={"kind": "none"})
    model = both.model.model_copy(update={"attention": attention})
    assert both.model_copy(update={"model": model, "name": plain.name, "row": plain.row}) == plain
