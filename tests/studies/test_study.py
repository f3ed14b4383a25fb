"""Cells add up, failures stop nothing, settings hold, and no row sees what is scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_studies import CASES, mask_recipe, small_study
from training.small_runs import write_store

from volattn.checkpoints import read_folder
from volattn.datasets.splits import Split
from volattn.preprocessing.store import Store
from volattn.studies.cell import Cell
from volattn.studies.definition import Options, Study, load_study, resolve
from volattn.studies.run import StudyOutcome, run_study
from volattn.studies.runners import Share, run_here
from volattn.studies.stores import SplitConfig, cases_of, split_store

FAILING = {"key": "broken", "title": "Broken", "changes": {"model.name": "unet_4d"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    write_store(folder / "store", cases=CASES + 2, depth=6)
    (folder / "recipe.yaml").write_text(mask_recipe().text())
    return folder


@pytest.fixture
def go(data: Path, tmp_path: Path) -> Callable[..., StudyOutcome]:
    """Runs the small study in this process."""

    def run(study: Study | None = None, **options: Any) -> StudyOutcome:
        defaults: dict[str, Any] = {"options": Options(recipe=str(data / "recipe.yaml"))}
        runner = partial(run_here, cpu=True)
        chosen = study or small_study()
        return run_study("small", chosen, [data / "store"], tmp_path / "out", runner, **defaults | options)

    return run


def test_seeds_add_up_and_finished_cells_are_kept(go: Callable[..., StudyOutcome], data: Path, tmp_path: Path) -> None:
    assert not go().failed
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/cells/*/*/cell.json")}
    assert len(before) == 2
    with pytest.raises(ValueError, match="give --resume"):
        go()
    go(seeds=(1,), resume=True)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/cells/*/*/cell.json")}
    assert len(after) == 4
    assert before.items() <= after.items()
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["seeds"] == [0, 1]
    for row in content["rows"]:
        by_seed = row["scores"]["dice_per_case"]["by_seed"]
        assert row["scores"]["dice_per_case"]["value"] == pytest.approx(sum(by_seed.values()) / 2)
    with pytest.raises(ValueError, match=r"another settings \(\[\], now \['optimiser.lr=1'\]\)"):
        go(options=Options(recipe=str(data / "recipe.yaml"), settings=("optimiser.lr=1",)), resume=True)


def test_a_failed_row_stops_nothing_and_is_tried_again(go: Callable[..., StudyOutcome], tmp_path: Path) -> None:
    rows = [*small_study().model_dump(mode="json")["rows"][:1], FAILING]
    study = small_study(rows=rows)
    outcome = go(study)
    assert outcome.failed == {
        "broken seed 0": "row broken: there is no model of the name unet_4d; `volattn info` lists them"
    }
    assert outcome.cells == 2
    page = outcome.table.read_text()
    assert "Broken, seed 0: failed: row broken: there is no model" in page
    assert "1 of 2 cells done" in page
    assert (tmp_path / "out" / "cells" / "plain" / "seed-0" / "cell.json").is_file()


def test_a_cell_that_fails_on_the_way_says_why_and_goes_on(
    go: Callable[..., StudyOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import volattn.studies.runners as runners

    whole = runners.run_cell

    def explode(cell: Cell, **options: Any) -> dict[str, Any]:
        if cell.row == "plain":
            raise RuntimeError("no such luck")
        return whole(cell, **options)

    monkeypatch.setattr(runners, "run_cell", explode)
    assert go().failed == {"plain seed 0": "RuntimeError: no such luck"}
    assert "0 of 1, 1 failed" in (tmp_path / "out" / "table.md").read_text()
    monkeypatch.setattr(runners, "run_cell", whole)
    assert not go(resume=True).failed
    assert "failed" not in (tmp_path / "out" / "table.md").read_text()


def test_no_row_has_seen_what_is_scored(go: Callable[..., StudyOutcome], data: Path, tmp_path: Path) -> None:
    go()
    store = Store.open(tmp_path / "out" / "data" / "0")
    assert store.names == Store.open(data / "store").names
    held_out = set(cases_of(store.parts, "test"))
    assert len(held_out) == 2
    for row in ("plain", "attention"):
        run = tmp_path / "out" / "cells" / row / "seed-0" / "run"
        split = Split.read(run / "split.json")
        assert set(split.train) | set(split.validation) == set(store.names) - held_out
        assert split.validation
        training = read_folder(run).training
        known = set(training.sources.values())
        assert not known & {store.case(name).description.image_sha256 for name in held_out}
        tested = json.loads((run.parent / "cell.json").read_text())["cases"]
        assert {case["name"] for case in tested} == held_out


def test_rows_start_from_the_same_tensors_and_from_none_that_know_the_test(
    go: Callable[..., StudyOutcome], data: Path, tmp_path: Path
) -> None:
    go()
    run = tmp_path / "out" / "cells" / "plain" / "seed-0" / "run"
    options = Options(recipe=str(data / "recipe.yaml"), weights=str(run))
    runner = partial(run_here, cpu=True)
    again = run_study("small", small_study(), [data / "store"], tmp_path / "again", runner, options=options)
    assert not again.failed
    start = load_file(tmp_path / "again" / "start.safetensors")
    whole = load_file(run / "model.safetensors")
    # The plain run is the plain row's very network: it would have taken the predictors too.
    assert any(name.startswith("rpn.") for name in start)
    assert {name.split(".")[1] for name in whole.keys() - start.keys()} == {
        "box_head",
        "box_predictor",
        "mask_head",
        "mask_predictor",
    }
    assert all(torch.equal(tensor, whole[name]) for name, tensor in start.items())
    with pytest.raises(ValueError, match="which this study scores"):
        run_study(
            "small",
            small_study(),
            [data / "store"],
            tmp_path / "other",
            runner,
            options=options,
            split=SplitConfig(seed=3),
        )


@pytest.mark.parametrize("cases", [3, 4, 9, 40])
def test_a_split_has_three_parts_and_moves_with_nothing_but_its_seed(tmp_path: Path, cases: int) -> None:
    store = write_store(tmp_path / "store", cases=cases, depth=3)
    parts = split_store(store, SplitConfig())
    assert set(parts.values()) == {"train", "val", "test"}
    assert len(cases_of(parts, "test")) == max(round(cases * 0.25), 1)
    again = Store(store.path, store.description.model_copy(update={"cases": store.names[::-1]}))
    assert split_store(again, SplitConfig()) == parts
    if cases > 4:
        assert split_store(store, SplitConfig(seed=1)) != parts


def test_official_parts_hold(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", cases=6, depth=3)
    official = dict(zip(store.names, ["train"] * 3 + ["val", "test", "test"], strict=True))
    described = store.description.model_copy(update={"parts": official})
    assert split_store(Store(store.path, described), SplitConfig()) == official
    with pytest.raises(ValueError, match="at least three"):
        split_store(write_store(tmp_path / "two", cases=2, depth=3), SplitConfig())


def test_torchrun_deals_cells_out() -> None:
    cells: Sequence[Any] = list(range(7))
    shares = [Share.of({"RANK": str(rank), "WORLD_SIZE": "3"}).of_cells(cells) for rank in range(3)]
    assert sorted(cell for share in shares for cell in share) == cells
    assert Share.of({}).of_cells(cells) == cells


def test_equal_budget_is_equal_target_slices(data: Path) -> None:
    options = Options(recipe=str(data / "recipe.yaml"), settings=("schedule.length=30", "plain:step.accumulate=3"))
    plain, attention = (one.recipe for one in resolve(small_study(), options))
    assert plain is not None
    assert attention is not None
    assert plain.schedule.length == 10
    assert attention.schedule.length == 30


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimiser.lr", "write it as KEY=VALUE"),
        ("nobody:optimiser.lr=1", "no row 'nobody'; rows: plain, attention"),
        ("optimiser.rl=1", "no row has such a key"),
    ],
)
def test_wrong_settings_are_one_line(data: Path, setting: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resolve(small_study(), Options(recipe=str(data / "recipe.yaml"), settings=(setting,)))


def test_a_study_is_strict() -> None:
    with pytest.raises(ValueError, match="unknown key 'colour'"):
        small_study(colour="red")
    with pytest.raises(ValueError, match="metric 'dice' is unknown"):
        small_study(metrics=["dice"])
    with pytest.raises(ValueError, match="baseline 'none' is no row"):
        small_study(baseline="none")
    with pytest.raises(ValueError, match="did you mean table-2d"):
        load_study("table-2dd")
