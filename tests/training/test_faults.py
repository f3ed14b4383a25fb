"""What a run says when it cannot go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import small_recipe, write_store

from volattn.models.registry import build_model
from volattn.preprocessing.store import Store
from volattn.slabs.loader import SlabDataset
from volattn.slabs.slab import Slab
from volattn.training.faults import memory_advice, reading_workers, targets_at_fault
from volattn.training.recipe import load_recipe
from volattn.training.run import train


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_store(tmp_path / "store")


def test_the_target_at_fault_is_the_one_whose_own_loss_is_not_finite(store: Store) -> None:
    recipe = small_recipe().updated(["step.targets=4"])
    torch.manual_seed(0)
    model = build_model(recipe.model, store.classes).train()
    dataset = SlabDataset(store, store.names, recipe.slabs)
    slab = next(slab for slab in (dataset[index] for index in range(len(dataset))) if len(slab.targets) > 2)
    assert targets_at_fault(model, slab) == []
    slab.targets[1]["boxes"][0] = float("nan")
    assert targets_at_fault(model, slab) == [slab.origins[1]]


def test_a_nan_stops_the_run_with_its_slices_and_leaves_the_last_state_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe().updated(["schedule.length=4", "save_every=1"])
    build, poisoned = SlabDataset.__getitem__, []

    def poison(dataset: SlabDataset, index: int) -> Slab:
        slab = build(dataset, index)
        if index == 2:
            slab.images[:] = float("nan")
            poisoned.extend(slab.origins)
        return slab

    monkeypatch.setattr(SlabDataset, "__getitem__", poison)
    with pytest.raises(ValueError, match="not finite") as caught:
        train(recipe, store.path, tmp_path / "run", device="cpu")
    assert str(caught.value).startswith("step 3: ")
    assert all(f"{case} slice {z}" in str(caught.value) for case, z in poisoned)
    assert "\n" not in str(caught.value)
    kept = load_file(tmp_path / "run" / "last.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())

    monkeypatch.undo()
    train(recipe, store.path, tmp_path / "run", resume=True, device="cpu")
    train(recipe, store.path, tmp_path / "calm", device="cpu")
    ours, calm = (load_file(tmp_path / name / "last.safetensors") for name in ("run", "calm"))
    assert all(torch.equal(ours[key], calm[key]) for key in calm)


def test_a_run_that_falls_apart_names_the_step_and_a_way_out(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe().updated(["optimiser.name=sgd", "optimiser.lr=1e25", "schedule.warmup=0"])
    with pytest.raises(ValueError, match=r"step \d+: .* not finite; caused by volume-.* lower optimiser.lr"):
        train(recipe, store.path, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        (["step.slabs=2", "step.accumulate=3"], "step.slabs from 2 to 1 and raise step.accumulate to 6"),
        ([], "model.context_grad to checkpoint"),
        (["model.context_grad=checkpoint"], "step.targets from 2 to 1"),
        (["model.attention.kind=none", "step.targets=1"], "precision to bf16"),
        (["model.attention.kind=none", "step.targets=1", "precision=bf16"], "plan.size from 64"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_setting_to_lower(settings: list[str], setting: str, error: BaseException) -> None:
    with (
        pytest.raises(ValueError, match=f"out of memory: .*{setting}"),
        memory_advice(small_recipe().updated(settings)),
    ):
        raise error


def test_reading_ahead_is_for_gpus_and_fits_into_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volattn.training.faults.available_cores", lambda: 16)
    recipe = load_recipe("lits")
    found = []
    for free in (0, 2**32, 2**40):
        monkeypatch.setattr("volattn.training.faults._free_shared_memory", lambda free=free: free)
        found.append(reading_workers(recipe, True, 1))
    assert found[0] == 0 < found[1] <= found[2] == 4
    assert reading_workers(recipe, True, 16) == 0
    assert reading_workers(recipe, False, 1) == 0


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_advice(small_recipe()):
        raise RuntimeError("shape mismatch")


def test_what_the_allocator_really_says() -> None:
    with pytest.raises(ValueError, match="out of memory"), memory_advice(small_recipe()):
        torch.empty(2**60)
