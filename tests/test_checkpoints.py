"""Model folders: what is saved is what is loaded, and every fault is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_detectors import CLASSES, images_of, made, small_config

from volattn.checkpoints import ModelFolder, Training, fingerprint, load_folder, read_folder, save_folder
from volattn.preprocessing.plan import Plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    described = ModelFolder(
        model=small_config(),
        plan=Plan(size=64),
        classes=CLASSES,
        threshold=0.4,
        training=Training(recipe="tiny", dataset="phantom", fingerprint="0" * 64, cases=("volume-1",)),
    )
    save_folder(tmp_path / "run", made(small_config(), dtype=torch.float32), described)
    return tmp_path / "run"


def test_a_model_survives_its_folder(folder: Path) -> None:
    model, described = load_folder(folder)
    assert not model.training
    assert described.threshold == 0.4
    assert described.training.cases == ("volume-1",)
    original = made(small_config(), dtype=torch.float32).eval()
    images, bags, at = images_of(5).float(), torch.arange(5)[None], torch.tensor([2])
    with torch.no_grad():
        torch.testing.assert_close(model(images, bags, at), original(images, bags, at), rtol=0, atol=0)


def test_the_fingerprint_knows_weights_and_configuration(folder: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    described = read_folder(folder).model_copy(update={"threshold": 0.5})
    (folder / "config.json").write_text(described.text("json"))
    assert fingerprint(folder) != before


def test_nothing_but_the_two_files_is_left(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("absent", "no such model folder"),
        ("empty", "is not a model folder"),
        ("truncated", r"model.safetensors: cannot be read as weights"),
        ("garbage", r"config.json: is not valid json"),
        ("unknown", r"unknown key 'colour'"),
        ("other", r"model.safetensors: does not fit"),
    ],
)
def test_a_folder_that_is_none_is_named(folder: Path, fault: str, message: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if fault in ("absent", "empty"):
        shutil.rmtree(folder)
    if fault == "empty":
        folder.mkdir()
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif fault == "garbage":
        config.write_text("{")
    elif fault == "unknown":
        config.write_text(config.read_text().replace('"threshold"', '"colour": 1, "threshold"'))
    elif fault == "other":
        config.write_text(config.read_text().replace('"width": 16', '"width": 24'))
    with pytest.raises(ValueError, match=message) as caught:
        load_folder(folder)
    assert "\n" not in str(caught.value)
