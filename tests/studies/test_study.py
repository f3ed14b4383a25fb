"""Seeds add up, failures stop nothing, settings are checked, and no row is trained on what is scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_studies import CASES, mask_recipe, small_study
from training.small_runs import write_store

from volattn.checkpoints import read_folder
from volattn.datasets.splits import Split
from volattn.models.registry import MODELS
from volattn.preprocessing.store import Store
from volattn.studies import study_run
from volattn.studies.definition import Overrides, Study, load_study, resolve
from volattn.studies.executor import Executor, ProcessShard
from volattn.studies.run import StudyOutcome, run_study
from volattn.studies.stores import SplitConfig, cases_of, split_store
from volattn.studies.study_run import StudyRun

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

    def run(study: Study | None = None, out: Path = tmp_path / "out", **options: Any) -> StudyOutcome:
        defaults: dict[str, Any] = {"overrides": Overrides(recipe=str(data / "recipe.yaml"))}
        executor = Executor(0, device="cpu")
        return run_study("small", study or small_study(), [data / "store"], out, executor, **defaults | options)

    return run


@pytest.fixture(scope="module")
def finished(data: Path) -> Path:
    """The folder of the small study; tests only read it."""
    overrides = Overrides(recipe=str(data / "recipe.yaml"))
    out = data / "finished"
    assert not run_study(
        "small", small_study(), [data / "store"], out, Executor(0, device="cpu"), overrides=overrides
    ).failed
    return out


def test_seeds_add_up_and_finished_runs_are_kept(
    go: Callable[..., StudyOutcome], finished: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "out", symlinks=True)
    (tmp_path / "out" / "data" / "0" / "cases").unlink()
    (tmp_path / "out" / "data" / "0" / "cases").symlink_to(data / "store" / "cases")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/runs/*/*/result.json")}
    assert len(before) == 2
    with pytest.raises(ValueError, match="continue it with --resume"):
        go()
    go(seeds=(1,), resume=True)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/runs/*/*/result.json")}
    assert len(after) == 4
    assert before.items() <= after.items()
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["seeds"] == [0, 1]
    for row in content["rows"]:
        by_seed = row["scores"]["dice_per_case"]["by_seed"]
        assert row["scores"]["dice_per_case"]["value"] == pytest.approx(sum(by_seed.values()) / 2)
    with pytest.raises(ValueError, match=r"another settings \(\[\], now \['optimiser.lr=1'\]\)"):
        go(overrides=Overrides(recipe=str(data / "recipe.yaml"), settings=("optimiser.lr=1",)), resume=True)


def test_a_failed_row_stops_nothing_and_is_tried_again(go: Callable[..., StudyOutcome], tmp_path: Path) -> None:
    rows = [*small_study().model_dump(mode="json")["rows"][:1], FAILING]
    study = small_study(rows=rows)
    outcome = go(study)
    assert outcome.failed == {
        "broken seed 0": f"row broken: model.name must be one of {', '.join(MODELS)}, found 'unet_4d'"
    }
    assert outcome.runs == 2
    page = outcome.table.read_text()
    assert "Broken, seed 0: failed: row broken: model.name must be one of" in page
    assert "1 of 2 runs done" in page
    assert (tmp_path / "out" / "runs" / "plain" / "seed-0" / "result.json").is_file()


def test_a_run_that_fails_says_why_and_is_resumed(
    go: Callable[..., StudyOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study_run.train_and_test

    def explode(run: StudyRun, **options: Any) -> dict[str, Any]:
        if run.row == "plain":
            raise RuntimeError("no such luck")
        return whole(run, **options)

    monkeypatch.setattr(study_run, "train_and_test", explode)
    assert go().failed == {"plain seed 0": "RuntimeError: no such luck"}
    assert "0 of 1, 1 failed" in (tmp_path / "out" / "table.md").read_text()
    monkeypatch.setattr(study_run, "train_and_test", whole)
    assert not go(resume=True).failed
    assert "failed" not in (tmp_path / "out" / "table.md").read_text()


def test_a_killed_process_costs_its_own_run_only(
    go: Callable[..., StudyOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_first(function: Callable[..., None], runs: list[StudyRun], *_: Any, **__: Any) -> Iterator[Any]:
        yield runs[0], ValueError("killed")
        yield runs[1], function(runs[1])

    monkeypatch.setattr("volattn.studies.executor.map_items", kill_first)
    outcome = go()
    assert outcome.failed.keys() == {"plain seed 0"}
    assert "its process was killed twice" in outcome.failed["plain seed 0"]
    assert not outcome.unfinished


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(finished: Path, data: Path, tmp_path: Path) -> None:
    overrides = Overrides(recipe=str(data / "recipe.yaml"))
    seen: list[str] = []
    outcome = run_study(
        "small",
        small_study(),
        [data / "store"],
        tmp_path / "out",
        Executor(2, device="cpu"),
        overrides=overrides,
        progress=lambda what, done, total: seen.append(what),
    )
    assert not outcome.failed
    assert {"plain seed 0: train", "attention seed 0: train"} <= {*seen}
    for row in ("plain", "attention"):
        one, two = (
            json.loads((out / "runs" / row / "seed-0" / "result.json").read_text())
            for out in (finished, tmp_path / "out")
        )
        assert one["cases"] == two["cases"]
        assert two["peak_bytes"] > 0


def test_no_row_is_trained_on_what_is_scored(finished: Path, data: Path) -> None:
    store = Store.open(finished / "data" / "0")
    assert store.names == Store.open(data / "store").names
    held_out = set(cases_of(store.subsets, "test"))
    assert len(held_out) == 2
    for row in ("plain", "attention"):
        run = finished / "runs" / row / "seed-0" / "train"
        split = Split.read(run / "split.json")
        assert set(split.train) | set(split.validation) == set(store.names) - held_out
        assert split.validation
        training = read_folder(run).provenance
        known = set(training.sources.values())
        assert not known & {store.case(name).description.image_sha256 for name in held_out}
        tested = json.loads((run.parent / "result.json").read_text())["cases"]
        assert {case["name"] for case in tested} == held_out


def test_rows_start_from_the_same_tensors_and_from_none_trained_on_the_test(
    go: Callable[..., StudyOutcome], finished: Path, data: Path, tmp_path: Path
) -> None:
    run = finished / "runs" / "plain" / "seed-0" / "train"
    overrides = Overrides(recipe=str(data / "recipe.yaml"), weights=str(run))
    assert not go(overrides=overrides).failed
    start = load_file(tmp_path / "out" / "start.safetensors")
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
        go(out=tmp_path / "other", overrides=overrides, split=SplitConfig(seed=3))


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
    described = store.description.model_copy(update={"subsets": official})
    assert split_store(Store(store.path, described), SplitConfig()) == official
    with pytest.raises(ValueError, match="at least three"):
        split_store(write_store(tmp_path / "two", cases=2, depth=3), SplitConfig())


def test_processes_of_torchrun_share_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volattn.studies.executor.attempt", lambda run, **_: None)
    runs: list[Any] = list(range(7))
    environments: list[dict[str, str]] = [{"RANK": str(rank), "WORLD_SIZE": "3"} for rank in range(3)]
    shards = [list(Executor(0, ProcessShard.of(environment)).run(runs)) for environment in environments]
    assert sorted(run for shard in shards for run in shard) == runs
    assert list(Executor(0, ProcessShard.of({})).run(runs)) == runs


def test_equal_budget_is_equal_target_slices(data: Path) -> None:
    overrides = Overrides(recipe=str(data / "recipe.yaml"), settings=("schedule.length=30", "plain:step.accumulate=3"))
    plain, attention = (one.recipe for one in resolve(small_study(), overrides))
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
        resolve(small_study(), Overrides(recipe=str(data / "recipe.yaml"), settings=(setting,)))


def test_a_study_is_strict() -> None:
    with pytest.raises(ValueError, match="unknown key 'colour'"):
        small_study(colour="red")
    with pytest.raises(ValueError, match="metric 'dice' is unknown"):
        small_study(metrics=["dice"])
    with pytest.raises(ValueError, match="baseline 'none' is no row"):
        small_study(baseline="none")
    with pytest.raises(ValueError, match="did you mean table-2d"):
        load_study("table-2dd")
