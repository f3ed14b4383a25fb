"""Runs on a GPU: stopped and gone on with, and in one precision after another. Without a GPU on the CPU alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import small_recipe, write_store
from torch import Tensor

from volattn.models.registry import build_model
from volattn.training.folder import STATES, read_metrics
from volattn.training.run import train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_store(tmp_path_factory.mktemp("data") / "store").path


def losses_of(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run) if "loss" in row]


def flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(device: str, precision: str, store: Path, tmp_path: Path) -> None:
    """To rounding: CUDA adds gradients up in any order. Slabs, samples, optimiser and fp16's scaler are the same."""
    recipe = small_recipe().updated(
        ["schedule.length=10", "validation.every=10", "save_every=2", f"precision={precision}"]
    )
    train(recipe, store, tmp_path / "whole", device=device)

    def stop(what: str, done: int, total: int) -> None:
        if what == "train" and done == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(recipe, store, tmp_path / "run", device=device, progress=stop)
    train(recipe, store, tmp_path / "run", device=device, resume=True)

    torch.manual_seed(recipe.seed)
    start = flat(build_model(recipe.model, ("liver", "lesion")).state_dict())
    loss, most = (0.01, 0.05) if precision == "fp32" else (0.1, 0.3)
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(tmp_path / "whole"), rel=loss)
    ours, whole = (flat(load_file(tmp_path / name / "last.safetensors")) for name in ("run", "whole"))
    assert float((ours - whole).norm() / (whole - start).norm()) < most
    states = [
        json.loads(next((tmp_path / name / STATES).glob("*/state.json")).read_text()) for name in ("run", "whole")
    ]
    assert states[0]["step"] == 10
    assert states[0]["scaler"] == states[1]["scaler"]
    assert (states[0]["scaler"] is None) == (precision == "fp32")


@pytest.mark.slow
def test_one_process_trains_in_one_precision_after_another(device: str, store: Path, tmp_path: Path) -> None:
    found = []
    for place, precision in (("cpu", "fp32"), (device, "bf16"), (device, "fp16"), (device, "fp32"), ("cpu", "fp32")):
        run = tmp_path / str(len(found))
        result = train(small_recipe().updated(["schedule.length=3"]), store, run, device=place, precision=precision)
        assert result.steps == 3
        found.append(losses_of(run))
    exact = found[0]
    assert found[4] == exact
    assert all(np.isfinite(losses).all() for losses in found)
    # The samples of a GPU are drawn by other random numbers.
    assert found[3] == pytest.approx(exact, rel=1e-6 if device == "cpu" else 0.3)
    for mixed in found[1:3]:
        assert mixed == pytest.approx(found[3], rel=0.1)
        assert mixed != found[3]
