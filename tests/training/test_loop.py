"""The loop: every target weighs the same, however slabs, calls and processes share the work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small_detectors import CLASSES, randomise, small_config
from small_runs import small_recipe, write_store

from volattn.models.bag_backbone import BagBackbone
from volattn.models.registry import build_model
from volattn.preprocessing.store import Store
from volattn.slabs.loader import SlabDataset
from volattn.training.loop import (
    Step,
    check_boxes,
    make_accelerator,
    make_optimiser,
    make_timetable,
    own_accelerate,
    slab_losses,
    train_steps,
)
from volattn.training.recipe import Recipe


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return write_store(tmp_path_factory.mktemp("data") / "store")


@own_accelerate()
def run_steps(store: Store, recipe: Recipe, count: int) -> tuple[BagBackbone, list[Step]]:
    """The first steps of a run, without its folder."""
    accelerator = make_accelerator(recipe.precision, device="cpu")
    dataset = SlabDataset(store, store.names, recipe.slabs, augment=recipe.augment, seed=recipe.seed)
    torch.manual_seed(0)
    model = build_model(recipe.model, store.classes)
    randomise(model)
    prepared = accelerator.prepare(model, make_optimiser(recipe.optimiser, model))
    steps = train_steps(*prepared, dataset, recipe, make_timetable(recipe, dataset), accelerator)
    return model, list(islice(steps, count))


@pytest.mark.parametrize(
    ("factor", "attention"),
    [(1, ["kind=both"]), (5, ["kind=both"]), (5, ["kind=stacked"]), (5, ["kind=both", "location=roi"])],
)
def test_a_step_is_the_mean_gradient_over_its_targets_scaled_linearly(
    store: Store, factor: int, attention: list[str]
) -> None:
    """By hand: W - lr * targets / reference * mean over targets of the gradient, for plain SGD."""
    recipe = small_recipe().updated(
        ["optimiser.name=sgd", "optimiser.momentum=0", "optimiser.weight_decay=0", "optimiser.clip=null"]
    )
    recipe = recipe.updated([f"model.attention.{setting}" for setting in attention])
    recipe = recipe.updated([f"optimiser.attention_lr_factor={factor}"])
    recipe = recipe.updated(["schedule.warmup=0", "schedule.decay=steps", "step.accumulate=3", "augment=null"])
    moved, (step,) = run_steps(store, recipe, 1)
    assert step.lr == pytest.approx(0.002 * (2 * 3) / 2)

    torch.manual_seed(0)
    model = build_model(recipe.model, CLASSES).train()
    randomise(model)
    dataset = SlabDataset(store, store.names, recipe.slabs)
    targets, mean = 0, 0.0
    for index in range(3):
        slab = dataset[index]
        losses = slab_losses(model, slab, (recipe.seed, 0, index))
        (torch.stack(list(losses.values())).sum() * len(slab.targets)).backward()
        mean += sum(loss.item() for loss in losses.values()) * len(slab.targets)
        targets += len(slab.targets)
    assert step.targets == targets
    assert step.losses["loss"] == pytest.approx(mean / targets, rel=1e-5)
    for ours, (name, parameter) in zip(moved.parameters(), model.named_parameters(), strict=True):
        assert parameter.grad is not None
        rate = 0.002 * (factor if "attention." in name else 1)
        expected = parameter.detach() - rate / 2 * parameter.grad
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-4, atol=1e-7)


def test_the_gradient_is_clipped(store: Store) -> None:
    recipe = small_recipe().updated(
        ["optimiser.name=sgd", "optimiser.momentum=0", "optimiser.weight_decay=0", "optimiser.clip=0.01"]
    )
    recipe = recipe.updated(["optimiser.lr=10"])  # large enough a step to be measured in float32
    torch.manual_seed(0)
    before = build_model(recipe.model, CLASSES)
    randomise(before)
    after, (step,) = run_steps(store, recipe, 1)
    moved = [(a - b).detach().flatten() for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert step.gradient_norm > 0.01
    assert float(torch.cat(moved).norm()) == pytest.approx(step.lr * 0.01, rel=1e-3)


def test_a_step_does_not_depend_on_what_came_before_it_but_the_weights(store: Store) -> None:
    """Random numbers drawn elsewhere between two steps change nothing."""
    recipe = small_recipe()
    _, calm = run_steps(store, recipe, 3)
    torch.manual_seed(99)
    _, again = run_steps(store, recipe, 3)
    assert [step.losses for step in calm] == [step.losses for step in again]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_is_near_full_precision(store: Store, precision: str) -> None:
    """On a CPU; CUDA runs the same autocast and scaler, with float16 kernels of its own."""
    _, full = run_steps(store, small_recipe(), 1)
    model, mixed = run_steps(store, small_recipe(precision=precision), 1)
    assert mixed[0].losses != full[0].losses
    assert mixed[0].gradient_norm == pytest.approx(full[0].gradient_norm, rel=0.2)  # no longer scaled
    for name, value in full[0].losses.items():
        assert mixed[0].losses[name] == pytest.approx(value, rel=0.05, abs=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_where_float16_overflows_a_step_is_skipped_and_gradients_are_scaled_less(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers: list[torch.amp.GradScaler] = []
    made = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device: scalers.append(made(device, init_scale=2.0**40)) or scalers[-1]
    )
    recipe = small_recipe(precision="fp16")
    untouched, _ = run_steps(store, recipe, 0)
    model, steps = run_steps(store, recipe, 2)
    assert not any(np.isfinite(step.gradient_norm) for step in steps)
    assert scalers[-1].get_scale() == 2.0**38
    assert all(
        torch.equal(ours, before) for ours, before in zip(model.parameters(), untouched.parameters(), strict=True)
    )


def test_a_function_with_its_own_accelerator_leaves_that_of_others_alone() -> None:
    @own_accelerate()
    def precision_of_another(fails: bool = False) -> str:
        found = make_accelerator("bf16", device="cpu").mixed_precision
        if fails:
            raise InterruptedError
        return found

    @own_accelerate()
    def check() -> None:
        ours = Accelerator(mixed_precision="no")
        # As after a run on a GPU: accelerate would not go back to the CPU.
        ours.state.device = torch.device("meta")
        assert precision_of_another() == precision_of_another() == "bf16"
        with pytest.raises(InterruptedError):
            precision_of_another(fails=True)
        assert (ours.mixed_precision, ours.device.type) == ("no", "meta")

    check()


def test_processes_wait_for_each_other_longer_than_a_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL waits 10 minutes by default, and the longest cases of a process may take more."""
    given: list[timedelta] = []
    monkeypatch.setattr(
        "volattn.training.loop.Accelerator",
        lambda **options: given.append(options["kwargs_handlers"][0].timeout) or Accelerator(cpu=True),
    )
    own_accelerate()(make_accelerator)("fp32", device="cpu")
    assert given[0] >= timedelta(hours=1)


@pytest.mark.parametrize("mode", ["checkpoint", "none"])
def test_recomputing_the_context_changes_memory_not_the_step(store: Store, mode: str) -> None:
    _, full = run_steps(store, small_recipe(), 2)
    _, other = run_steps(store, small_recipe().updated([f"model.context_grad={mode}"]), 2)
    assert other[0].losses["loss"] == pytest.approx(full[0].losses["loss"], rel=1e-5)
    same = other[0].gradient_norm == pytest.approx(full[0].gradient_norm, rel=1e-4)
    assert same == (mode == "checkpoint")


def test_frozen_stages_do_not_move(store: Store) -> None:
    recipe = small_recipe().updated(["model.backbone.norm=frozen", "model.backbone.trainable_layers=3"])
    torch.manual_seed(0)
    before = build_model(recipe.model, CLASSES).state_dict()
    after, _ = run_steps(store, recipe, 1)
    stem = [key for key in before if (".conv1.weight" in key and "layer" not in key) or ".layer1." in key]
    assert stem
    assert all(torch.equal(after.state_dict()[key], before[key]) for key in stem)
    key = "backbone.body.layer2.0.conv1.weight"
    assert not torch.equal(after.state_dict()[key], before[key])


def test_a_degenerate_box_never_reaches_the_loss(store: Store) -> None:
    slab = SlabDataset(store, store.names, small_recipe().slabs)[0]
    check_boxes(slab)
    slab.targets[0]["boxes"][0, 2] = slab.targets[0]["boxes"][0, 0]
    with pytest.raises(AssertionError, match="under 1 pixel"):
        check_boxes(slab)


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(store: Store, tmp_path: Path) -> None:
    """The same slabs with the same random numbers, shared out by DDP over gloo or taken in turn."""
    settings = ["schedule.length=3", "validation.every=0"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += [f"--master-port={port}", small_runs.__file__, str(store.path), str(tmp_path / "two")]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]

    from volattn.training.run import train

    one = small_recipe().updated([*settings, "step.accumulate=2"])
    train(one, store.path, tmp_path / "one", device="cpu")
    two, single = (load_file(tmp_path / name / "last.safetensors") for name in ("two", "one"))
    for key in single:
        torch.testing.assert_close(two[key], single[key], rtol=1e-4, atol=1e-6)
    metrics = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("two", "one")]
    assert metrics == [4, 4]


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "fcos", "three_dce", "data_level_fusion"])
def test_detectors_of_boxes_train_on_the_same_slabs(store: Store, name: str) -> None:
    model = small_config(bag=1 if name == "data_level_fusion" else 3, name=name)
    moved, steps = run_steps(store, small_recipe(model=model), 2)
    for step in steps:
        assert "loss_mask" not in step.losses
        assert step.losses["loss"] == pytest.approx(sum(v for k, v in step.losses.items() if k != "loss"))
        assert step.gradient_norm > 0
    assert moved.config == model
