"""ImageNet, then key slices with boxes, then volumes with masks: what each run hands on to the next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_detectors import made, small_config
from small_runs import small_recipe, write_boxed_store, write_store

from volattn.checkpoints import load_folder, read_folder
from volattn.datasets.open import open_dataset
from volattn.models.registry import build_model
from volattn.phantoms.write import write_phantoms
from volattn.preprocessing.prepare import prepare_dataset
from volattn.training.recipe import Recipe, load_recipe
from volattn.training.run import train

STILL = ["schedule.length=1", "optimiser.name=sgd", "optimiser.lr=1e-30", "optimiser.weight_decay=0"]


@pytest.mark.parametrize("attention", [False, True])
def test_masks_start_from_a_run_of_boxes(tmp_path: Path, attention: bool) -> None:
    """A rate at which nothing moves shows what was handed on."""
    boxed, masked = write_boxed_store(tmp_path / "boxed"), write_store(tmp_path / "masked")
    first = small_recipe(model=small_config(3, "faster_rcnn")).updated(["schedule.length=4", "step.targets=1"])
    train(first, boxed.path, tmp_path / "first", device="cpu")
    second = small_recipe(model=small_config(5)).updated([*STILL, f"attention_weights={attention}"])
    said: list[str] = []
    train(second, masked.path, tmp_path / "second", weights=str(tmp_path / "first"), device="cpu", announce=said.append)

    earlier, later = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    torch.manual_seed(second.seed)
    new = made(small_config(5), dtype=torch.float32).state_dict().keys()
    assert later.keys() == new
    for key, value in later.items():
        part = key.split(".")[0]
        taken = part in ("backbone", "rpn") or (attention and part == "attention")
        theirs = earlier.get(key, torch.empty(0))
        same = theirs.shape == value.shape and torch.allclose(theirs, value, rtol=0, atol=1e-20)
        if taken:
            assert same, key
        elif len(value.unique()) > 1:  # initial biases and norms are all alike
            assert not same, key
    (words,) = [line for line in said if line.startswith(f"starts from {tmp_path / 'first'}: ")]
    assert words.endswith(" new (roi_heads)" if attention else " new (attention, roi_heads)")


def test_the_epsilon_of_the_frozen_norm_goes_along(tmp_path: Path) -> None:
    """Weights of ImageNet need 1e-5, and so does every run that starts from them, also once the first is gone."""
    store = write_store(tmp_path / "store")
    torch.manual_seed(0)
    file = tmp_path / "weights.safetensors"
    model = small_config(3, changes={"backbone": {"norm": "frozen", "norm_eps": 1e-5}})
    save_file(build_model(model, store.classes).state_dict(), file)
    first = small_recipe(model=model, weights=str(file)).updated(["schedule.length=1"])
    train(first, store.path, tmp_path / "first", device="cpu")

    plain = small_recipe(model=small_config(3, changes={"backbone": {"norm": "frozen"}}))
    second = plain.updated(["schedule.length=2", "save_every=1", f"weights={tmp_path / 'first'}"])
    assert second.model.backbone.norm_eps == 0

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("train", 2):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(second, store.path, tmp_path / "second", device="cpu", progress=stop)
    shutil.rmtree(tmp_path / "first")
    train(second, store.path, tmp_path / "second", device="cpu", resume=True)
    assert read_folder(tmp_path / "second").model.backbone.norm_eps == 1e-5
    assert Recipe.read(tmp_path / "second" / "recipe.yaml").model.backbone.norm_eps == 1e-5


@pytest.mark.slow
def test_the_chain_on_phantoms(tmp_path: Path) -> None:
    """The commands of the how-to, with the recipes of the package at their smallest."""
    small = ["schedule.length=2", "validation.cases=1", "step.slabs=1", "plan.size=96", "plan.z_spacing=5"]
    write_phantoms(tmp_path / "key-slices", 4, seed=3, size=96, kind="deeplesion")
    write_phantoms(tmp_path / "cts", 2, seed=4, size=96)
    source = "none"
    for name, data in (("tiny-boxes", "key-slices"), ("tiny", "cts")):
        recipe = load_recipe(name).updated(small)
        store = prepare_dataset(open_dataset(tmp_path / data), recipe.plan, tmp_path / f"{data}-store").store
        train(recipe, store.path, tmp_path / name, weights=source, device="cpu")
        source = str(tmp_path / name)
    model, folder = load_folder(tmp_path / "tiny")
    assert folder.model.name == "mask_rcnn"
    assert folder.classes == ("liver", "lesion")
    assert Recipe.read(tmp_path / "tiny" / "recipe.yaml").weights == str(tmp_path / "tiny-boxes")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
