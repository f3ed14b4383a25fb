"""The estimate before a run: near what it measures, and without a trace in the model."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from accelerate import Accelerator
from small_detectors import small_config
from small_runs import small_recipe, write_store

from volattn.models.registry import build_model
from volattn.slabs.loader import SlabDataset
from volattn.training.estimate import Estimate, estimate
from volattn.training.loop import make_timetable
from volattn.training.recipe import Recipe
from volattn.training.validate import Workload, evaluate_case, workload
from volattn.training.validate_masks import MaskEvaluator


def estimated(recipe: Recipe, folder: Path, **options: int) -> Estimate:
    store = write_store(folder / f"store{len(list(folder.iterdir()))}")
    dataset = SlabDataset(store, store.names, recipe.slabs)
    torch.manual_seed(0)
    model = build_model(recipe.model, store.classes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    table = make_timetable(recipe, dataset)
    found = estimate(model, dataset, recipe, table, Accelerator(cpu=True), **options)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    return found


def test_memory_grows_with_what_is_held_at_once(tmp_path: Path) -> None:
    one = estimated(small_recipe(), tmp_path).memory
    two = estimated(small_recipe().updated(["step.slabs=2"]), tmp_path).memory
    accumulated = estimated(small_recipe().updated(["step.accumulate=2"]), tmp_path).memory
    lighter = estimated(small_recipe().updated(["model.context_grad=none"]), tmp_path).memory
    assert 1.5 * one < two < 2.2 * one
    assert accumulated == one
    assert lighter < 0.8 * one


def test_time_grows_with_what_is_left_to_do(tmp_path: Path) -> None:
    whole = estimated(small_recipe().updated(["schedule.length=1000"]), tmp_path)
    assert whole.steps == 1000
    late = estimated(small_recipe().updated(["schedule.length=1000"]), tmp_path, start=900)
    assert late.steps == 100
    assert late.seconds < 0.5 * whole.seconds


@pytest.mark.parametrize("name", ["mask_rcnn", "unet_3d"])
def test_a_validation_streams_what_its_workload_says(name: str, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", cases=1, depth=17)
    model = build_model(small_config(3, name), store.classes).eval()
    encode, attend = model.encode, model.attend
    images, targets = [], []
    model.encode = lambda one: images.append(len(one)) or encode(one)
    model.attend = lambda target, context, bags: targets.append(len(bags)) or attend(target, context, bags)
    evaluate_case(MaskEvaluator(), model, store, store.names[0], torch.device("cpu"), batch=2)
    assert workload(store, store.names, model) == Workload(sum(images), sum(targets))
    assert sum(targets) == (17 if name == "mask_rcnn" else 4)


@pytest.mark.parametrize(
    ("memory", "program", "seconds", "text"),
    [
        (2**20 * 5 + 1, 0, 30, "9 steps, about 1 min, about 6 MiB of memory on each process"),
        (2 * 2**30, 2**30, 5400, "9 steps, about 1.5 h, about 3.0 GiB of memory on each process"),
    ],
)
def test_in_words(memory: int, program: int, seconds: float, text: str) -> None:
    assert Estimate(memory, program, seconds, 9).text == text


def test_on_a_cpu_the_program_itself_counts(tmp_path: Path) -> None:
    """torch alone takes some hundred MiB: who has less should read it."""
    store = write_store(tmp_path / "store")
    recipe = small_recipe()
    dataset = SlabDataset(store, store.names, recipe.slabs)
    model = build_model(recipe.model, store.classes)
    found = estimate(model, dataset, recipe, make_timetable(recipe, dataset), Accelerator(cpu=True))
    assert 100 * 2**20 < found.program < psutil.Process().memory_info().rss + 2**28
