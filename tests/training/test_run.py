"""A run: what it leaves behind, and what keeps it from starting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import PLAN, small_recipe, write_store

from volattn.checkpoints import load_folder
from volattn.datasets.splits import Split, make_split
from volattn.io.output import LOCK
from volattn.preprocessing.store import Store
from volattn.training.recipe import Recipe
from volattn.training.run import train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store")


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_model_folder_and_its_story(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    told: list[tuple[str, int, int]] = []
    run = tmp_path / "run"
    result = train(
        small_recipe(), store.path, run, device="cpu", announce=said.append, progress=lambda *row: told.append(row)
    )
    assert sorted(path.name for path in run.iterdir()) == [
        LOCK,
        "config.json",
        "last.safetensors",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
        "provenance.json",
        "recipe.yaml",
        "resume",
        "split.json",
    ]
    assert [path.name for path in sorted((run / "resume").iterdir())] == ["000000008", "latest"]

    model, folder = load_folder(run)
    split = make_split(store.names, 0)
    assert Split.read(run / "split.json") == split
    assert folder.provenance.cases == split.train
    assert folder.provenance.validation == split.validation
    assert set(folder.provenance.sources) == {*split.train, *split.validation}
    assert folder.provenance.fingerprint == store.fingerprint
    assert folder.threshold == result.validation.threshold
    assert folder.provenance.step == result.best_step
    assert model.config == small_recipe().model
    assert folder.plan == PLAN

    steps = [row for row in rows(run) if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 9))
    for row in steps:
        parts = ("classifier", "box_reg", "mask", "objectness", "rpn_box_reg")
        assert row["loss"] == pytest.approx(sum(row[f"loss_{part}"] for part in parts))
    validations = [row for row in rows(run) if "entropies" in row]
    assert [row["step"] for row in validations] == [4, 8]
    levels = [f"{kind}.{level}" for level in ("0", "1", "pool") for kind in ("channel", "spatial")]
    assert sorted(validations[0]["entropies"]) == sorted(levels)
    assert all(0 <= value <= 1 + 1e-6 for value in validations[0]["entropies"].values())

    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["fingerprint"] == store.fingerprint
    assert "torch" in manifest["sessions"][0]["versions"]
    assert any("8 steps, about" in line and "memory" in line for line in said)
    assert [row for row in told if row[0] == "train"] == [("train", step, 8) for step in range(1, 9)]
    assert told[-1] == ("validate", 14, 14)


@pytest.mark.slow
def test_a_run_learns_what_it_is_shown(store: Store, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = small_recipe(save_every=1000).updated(
        ["schedule.length=150", "validation.every=1000", "optimiser.lr=0.004"]
    )
    result = train(recipe, store.path, tmp_path / "run", device="cpu")
    assert result.validation.scores["organ_dice"] > 0.8
    assert result.validation.scores["lesion_dice"] > 0.1


def test_the_best_weights_are_kept_not_the_last(store: Store, tmp_path: Path) -> None:
    """A rate at which the network falls apart after its first validation."""
    recipe = small_recipe().updated(["schedule.decay=steps", "schedule.milestones=[]", "optimiser.name=sgd"])
    result = train(recipe, store.path, tmp_path / "run", device="cpu")
    best, last = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("model", "last"))
    same = all(torch.equal(best[key], last[key]) for key in best)
    assert same == (result.best_step == 8)
    found = [row for row in rows(tmp_path / "run") if "entropies" in row]
    scores = {row["step"]: (row["lesion_dice"], row["organ_dice"]) for row in found}
    assert scores[result.best_step] == max(scores.values())


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(store: Store, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        recipe = small_recipe(seed=seed).updated(["schedule.length=2", "validation.every=0"])
        train(recipe, store.path, tmp_path / name, device="cpu")
    a, b, c = (load_file(tmp_path / name / "last.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_runs_of_every_precision_follow_each_other_in_one_process(store: Store, tmp_path: Path) -> None:
    for place, precision in enumerate(("fp32", "bf16", "fp16", "fp32")):
        run = tmp_path / str(place)
        recipe = small_recipe(precision=precision).updated(["schedule.length=1"])
        train(recipe, store.path, run, device="cpu")
        state = json.loads(next((run / "resume").glob("*/state.json")).read_text())
        assert (state["scaler"] is not None) == (precision == "fp16")


def test_precision_can_be_given_and_a_resumed_run_keeps_it(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe().updated(["schedule.length=1"])
    train(recipe, store.path, tmp_path / "run", device="cpu", precision="bf16")
    assert Recipe.read(tmp_path / "run" / "recipe.yaml").precision == "bf16"
    train(recipe, store.path, tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(ValueError, match=r"another recipe \(precision: bf16, now fp32\)"):
        train(recipe, store.path, tmp_path / "run", device="cpu", resume=True, precision="fp32")


def test_a_device_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"device 'cuda:99' is not there"):
        train(small_recipe(), store.path, tmp_path / "run", device="cuda:99")


def test_a_dry_run_needs_no_weights_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    frozen = ["model.backbone.norm=frozen", "weights=nowhere.safetensors"]
    said: list[str] = []
    result = train(
        small_recipe().updated(frozen), store.path, tmp_path / "run", device="cpu", dry_run=True, announce=said.append
    )
    assert (result.steps, result.validation.scores) == (0, {})
    assert len(said) == 1
    assert said[0].startswith("8 steps, about ")
    assert "of memory" in said[0]
    assert not (tmp_path / "run").exists()


def test_runs_on_phantoms_say_so(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", cases=2)
    described = store.description.model_copy(update={"phantoms": True})
    (store.path / "store.json").write_text(described.text("json"))
    train(small_recipe().updated(["schedule.length=1"]), store.path, tmp_path / "run", device="cpu")
    assert load_folder(tmp_path / "run")[1].phantoms_only


def test_better_weights_do_not_read_every_case_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    case = Store.case
    monkeypatch.setattr(Store, "case", lambda store, name: read.append(name) or case(store, name))
    often = []
    for every in (1, 3):
        read.clear()
        recipe = small_recipe().updated(["schedule.length=3", f"validation.every={every}", "optimiser.lr=1e-9"])
        result = train(recipe, store.path, tmp_path / str(every), device="cpu")
        assert result.best_step == 3  # level scores: every validation has written the folder
        often.append([name for name in read if name in make_split(store.names, 0).train])
    assert often[0] == often[1]


def test_workers_change_nothing(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe().updated(["schedule.length=3", "validation.every=0"])
    for workers in (0, 1):
        train(recipe, store.path, tmp_path / str(workers), workers=workers, device="cpu")
    here, there = (load_file(tmp_path / name / "last.safetensors") for name in "01")
    assert all(torch.equal(here[key], there[key]) for key in here)


def test_one_case_alone_trains_and_says_what_its_threshold_is_worth(tmp_path: Path) -> None:
    write_store(tmp_path / "store", cases=1)
    said: list[str] = []
    recipe = small_recipe().updated(["schedule.length=1"])
    train(recipe, tmp_path / "store", tmp_path / "run", device="cpu", announce=said.append)
    assert any("training case volume-0" in line for line in said)
    folder = load_folder(tmp_path / "run")[1]
    assert folder.provenance.cases == folder.provenance.validation == ("volume-0",)


def test_a_fold_validates_its_own_cases(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe().updated(["schedule.length=1"])
    train(recipe, store.path, tmp_path / "run", fold="2/4", device="cpu")
    assert Split.read(tmp_path / "run" / "split.json") == make_split(store.names, 0, fold="2/4")


def test_a_run_goes_on_from_another_runs_weights(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe().updated(["schedule.length=1"])
    train(recipe, store.path, tmp_path / "first", device="cpu")
    said: list[str] = []
    still = recipe.updated(["optimiser.lr=1e-30", "optimiser.weight_decay=0", "optimiser.name=sgd"])
    source = str(tmp_path / "first")
    train(still, store.path, tmp_path / "second", weights=source, device="cpu", announce=said.append)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.allclose(first[key], second[key], rtol=0, atol=1e-20) for key in first)
    assert any(f"{len(first)} tensors copied, none new" in line for line in said)
    assert Recipe.read(tmp_path / "second" / "recipe.yaml").weights == source


def test_tensorboard_on_request(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recipe = small_recipe().updated(["schedule.length=1"])
    train(recipe, store.path, tmp_path / "run", device="cpu", tensorboard=True)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (["plan.size=96"], {}, r"prepared with another plan .* \(plan.size: 64, now 96\)"),
        (["model.backbone.norm=frozen"], {}, "frozen norm needs pretrained weights"),
        ([], {"fold": "9/10"}, "only 4 patients"),
        ([], {"weights": "nowhere.safetensors"}, "nowhere.safetensors: no such file"),
    ],
)
def test_what_does_not_fit_stops_before_anything_is_written(
    store: Store, tmp_path: Path, settings: list[str], options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(small_recipe().updated(settings), store.path, tmp_path / "run", device="cpu", **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_belongs_to_one_run(store: Store, tmp_path: Path) -> None:
    recipe, run = small_recipe().updated(["schedule.length=1"]), tmp_path / "run"
    train(recipe, store.path, run, device="cpu")
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds a run already; give --resume"):
        train(recipe, store.path, run, device="cpu")
    with pytest.raises(ValueError, match=r"another recipe \(optimiser.lr: 0.002, now 0.1\)"):
        train(recipe.updated(["optimiser.lr=0.1"]), store.path, run, resume=True, device="cpu")
    with pytest.raises(ValueError, match="other cases or another fold"):
        train(recipe, store.path, run, resume=True, fold="1/4", device="cpu")
    (run / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        train(recipe, store.path, run, device="cpu")
    assert (run / "model.safetensors").read_bytes() == before


def test_metrics_say_what_json_can(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe().updated(["schedule.length=1", "optimiser.clip=null"])
    train(recipe, store.path, tmp_path / "run", device="cpu")
    for row in rows(tmp_path / "run"):
        for value in row.values():
            assert not isinstance(value, float) or np.isfinite(value)
