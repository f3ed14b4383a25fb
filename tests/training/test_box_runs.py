"""Runs of detectors of boxes: on key slices and on label maps, validated as they will be scored."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from safetensors.torch import load_file
from small_detectors import small_config
from small_runs import small_recipe, write_boxed_store, write_store

from volattn.checkpoints import load_folder
from volattn.models.registry import MODELS
from volattn.preprocessing.store import Store
from volattn.training.recipe import Recipe
from volattn.training.run import train

BOXES = [name for name, model in MODELS.items() if model.config.output == "boxes"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return write_boxed_store(tmp_path_factory.mktemp("data") / "store")


def box_recipe(name: str, **changes: object) -> Recipe:
    """A run of key slices; four of them are validated."""
    recipe = small_recipe(model=small_config(3, name), augment=None, **changes)
    return recipe.updated(["step.targets=1", "step.slabs=2", "validation.cases=4"])


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.slow
def test_every_detector_learns_from_key_slices(store: Store, tmp_path: Path, name: str) -> None:
    recipe = box_recipe(name, save_every=100).updated(["schedule.length=16", "validation.every=100"])
    result = train(recipe, store.path, tmp_path / "run", device="cpu")
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    assert list(result.validation.scores) == ["mean_sensitivity", "sensitivity_at_1", "ap50"]
    assert list(result.validation.cases) == ["key-8", "key-9", "key-10", "key-11"]
    (validated,) = [row for row in rows(tmp_path / "run") if "threshold" in row]
    assert validated["ap50"] == result.validation.scores["ap50"]
    assert load_folder(tmp_path / "run")[1].threshold == result.validation.threshold


@pytest.mark.slow
def test_it_finds_what_it_was_shown(store: Store, tmp_path: Path) -> None:
    recipe = box_recipe("faster_rcnn", save_every=1000).updated(
        ["schedule.length=150", "validation.every=1000", "optimiser.lr=0.003"]
    )
    found = train(recipe, store.path, tmp_path / "run", device="cpu").validation
    assert found.scores["sensitivity_at_1"] >= 0.5
    assert sum(case["found"] for case in found.cases.values()) >= 2


def test_of_weights_that_score_the_same_the_later_are_kept(store: Store, tmp_path: Path) -> None:
    settings = ["schedule.length=3", "validation.every=1", "optimiser.lr=1e-30", "optimiser.weight_decay=0"]
    result = train(box_recipe("retinanet").updated(settings), store.path, tmp_path / "run", device="cpu")
    assert (result.best_step, load_folder(tmp_path / "run")[1].provenance.step) == (3, 3)


def test_label_maps_serve_too_and_every_slice_is_an_image(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    told: list[tuple[str, int, int]] = []
    recipe = small_recipe(model=small_config(3, "retinanet")).updated(["schedule.length=2"])
    result = train(recipe, store.path, tmp_path / "run", device="cpu", progress=lambda *row: told.append(row))
    assert told[-1] == ("validate", 14, 14)
    (case,) = result.validation.cases.values()
    lesions = sum(1 for pixels in store.case(next(iter(result.validation.cases))).slices.lesion_pixels if pixels)
    assert case["lesions"] == lesions


def test_a_run_that_goes_on_is_the_uninterrupted_one(store: Store, tmp_path: Path) -> None:
    recipe = box_recipe("faster_rcnn")
    whole = train(recipe, store.path, tmp_path / "whole", device="cpu")

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("train", 7):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(recipe, store.path, tmp_path / "run", device="cpu", progress=stop)
    ours = train(recipe, store.path, tmp_path / "run", device="cpu", resume=True)
    assert (ours.best_step, ours.validation) == (whole.best_step, whole.validation)
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_two_processes_validate_as_one(store: Store, tmp_path: Path) -> None:
    """Key slices are shared out, and pooled again before anything is measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    recipe = box_recipe("faster_rcnn", save_every=100).updated(["schedule.length=2", "step.slabs=1"])
    (tmp_path / "recipe.yaml").write_text(recipe.text())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += [f"--master-port={port}", small_runs.__file__, str(store.path), str(tmp_path / "two")]
    command += ["--recipe", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = train(recipe.updated(["step.accumulate=2"]), store.path, tmp_path / "one", device="cpu")
    (two,) = [row for row in rows(tmp_path / "two") if "threshold" in row]
    assert sorted(two["cases"]) == sorted(one.validation.cases)
    for key, value in one.validation.scores.items():
        assert two[key] == pytest.approx(value, abs=1e-6)


def test_without_validation_cases_training_cases_choose_the_threshold(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = box_recipe("retinanet").updated(["schedule.length=1", "validation.cases=2"])
    result = train(recipe, store.path, tmp_path / "run", subsets=("train", "val"), device="cpu", announce=said.append)
    assert list(result.validation.cases) == ["key-0", "key-1"]
    assert any("no case is left for validation" in line and "key-0, key-1" in line for line in said)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mask_rcnn", [], r"no masks, from which mask_rcnn learns; .* --set model.name=\.\.\. \(faster_rcnn"),
        ("faster_rcnn", ["step.targets=2"], r"one labelled slice each, .* is 2; give --set step.targets=1"),
    ],
)
def test_a_recipe_that_key_slices_do_not_fit_is_refused_first(
    store: Store, tmp_path: Path, name: str, settings: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(box_recipe(name).updated(settings), store.path, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
