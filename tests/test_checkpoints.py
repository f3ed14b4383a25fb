"""Model folders: what is saved is what is loaded, and every fault is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_detectors import CLASSES, images_of, made, small_config

from volattn.checkpoints import ModelFolder, Training, fingerprint, load_folder, read_folder, save_folder
from volattn.models.config import ModelConfig
from volattn.models.segmentation_config import CrfConfig
from volattn.preprocessing.plan import Plan


def saved(folder: Path, config: ModelConfig) -> Path:
    described = ModelFolder(
        model=config,
        plan=Plan(size=64),
        classes=CLASSES,
        threshold=0.4,
        training=Training(recipe="tiny", dataset="phantom", fingerprint="0" * 64, cases=("volume-1",)),
    )
    save_folder(folder, made(config, dtype=torch.float32), described)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "run", small_config())


def test_a_model_survives_its_folder(folder: Path) -> None:
    model, described = load_folder(folder)
    assert not model.training
    assert described.threshold == 0.4
    assert described.training.cases == ("volume-1",)
    original = made(small_config(), dtype=torch.float32).eval()
    images, bags, at = images_of(5).float(), torch.arange(5)[None], torch.tensor([2])
    with torch.no_grad():
        torch.testing.assert_close(model(images, bags, at), original(images, bags, at), rtol=0, atol=0)


def test_a_cascade_is_refined_as_it_is_asked_for(tmp_path: Path) -> None:
    of_two = CrfConfig(radius=2)
    configs = {
        None: small_config(name="cascade"),
        of_two: small_config(name="cascade", changes={"segmentation": {"crf": {"radius": 2}}}),
    }
    for trained, config in configs.items():
        path = saved(tmp_path / f"cascade-{trained is None}", config)
        for asked, expected in ((None, trained), ("none", None), ("crf", trained or CrfConfig())):
            model, described = load_folder(path, asked)
            assert described.model.segmentation.crf == expected
            assert isinstance(model.config, ModelConfig)
            assert model.config.segmentation.crf == expected


def test_a_detector_knows_no_refinement(folder: Path) -> None:
    for asked in ("none", "crf"):
        with pytest.raises(ValueError, match="mask_rcnn knows no refinement; leave out --refine"):
            load_folder(folder, asked)


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
        ("garbage", r"config.json: is not valid JSON"),
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
