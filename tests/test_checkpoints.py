"""Model folders: what is saved is what is loaded, and every fault is named."""

from __future__ import annotations

import copy
import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_detectors import CLASSES, images_of, made, small_config

from volattn.checkpoints import ModelFolder, fingerprint, load_folder, read_folder, save_folder
from volattn.models.config import ModelConfig
from volattn.models.registry import build_model
from volattn.models.segmenters.crf import CrfConfig
from volattn.preprocessing.plan import Plan
from volattn.provenance import Provenance


def saved(folder: Path, config: ModelConfig) -> Path:
    described = ModelFolder(
        model=config,
        plan=Plan(size=64),
        classes=CLASSES,
        threshold=0.4,
        provenance=Provenance(recipe="tiny", dataset="phantom", fingerprint="0" * 64, cases=("volume-1",)),
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
    assert described.provenance.cases == ("volume-1",)
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
            assert described.model.refinement == expected
            assert isinstance(model.config, ModelConfig)
            assert model.config.refinement == expected


def test_a_detector_has_no_refinement(folder: Path) -> None:
    for asked in ("none", "crf"):
        with pytest.raises(ValueError, match="mask_rcnn has no refinement; leave out --refine"):
            load_folder(folder, asked)


def test_the_fingerprint_knows_weights_and_configuration(folder: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    described = read_folder(folder).model_copy(update={"threshold": 0.5})
    save_folder(folder, load_folder(folder)[0], described)
    assert fingerprint(folder) != before


def test_nothing_but_the_files_is_left(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "provenance.json"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("absent", "no such model folder"),
        ("empty", "is not a model folder"),
        ("truncated", r"model.safetensors: cannot be read as weights"),
        ("garbage", r"config.json: is not valid JSON"),
        ("unknown", r"unknown key 'colour'"),
        ("other", r"model.safetensors: does not fit"),
        ("old", r"was made by volattn 0.1; train it again$"),
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
    elif fault == "old":
        config.write_text(config.read_text().replace('"threshold"', '"training": {}, "threshold"'))
    elif fault == "other":
        config.write_text(config.read_text().replace('"width": 16', '"width": 24'))
    with pytest.raises(ValueError, match=message) as caught:
        load_folder(folder)
    assert "\n" not in str(caught.value)


def numbers(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers of a configuration stand."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(below, (*above, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield above


@pytest.mark.parametrize("number", [10**9, 10**30, 1e300, -1])
@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet", "unet_3d", "h_dense_unet"])
def test_an_absurd_size_is_refused_before_it_takes_memory(tmp_path: Path, name: str, number: float) -> None:
    folder = saved(tmp_path / "run", small_config(name=name))
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for *above, last in numbers(content):
        changed = copy.deepcopy(content)
        place: Any = changed
        for key in above:
            place = place[key]
        place[last] = number
        path.write_text(json.dumps(changed))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            ModelFolder.read(path)
        except ValueError as error:
            line = str(error)
        else:
            assert number == -1, last
            assert {"mean", "window"} & {*above}, last
            continue
        assert line.isprintable(), line
        assert len(line) < 1000, line
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17, last


def test_widths_within_their_bounds_are_not_allocated_either(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"width": 16', '"width": 16384'))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"model.safetensors: does not fit its configuration"):
        load_folder(folder)
    with pytest.raises(ValueError, match="make it narrower"):
        build_model(ModelFolder.read(path).model, CLASSES)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17


@pytest.mark.parametrize("fault", ["type", "NaN", "more", "fewer"])
def test_weights_of_another_kind_are_refused(folder: Path, fault: str) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    name = next(iter(state))
    if fault == "type":
        state[name] = state[name].long()
    elif fault == "NaN":
        state[name].flatten()[0] = torch.nan
    elif fault == "more":
        state["more"] = torch.ones(1)
    else:
        del state[name]
    save_file(state, path)
    with pytest.raises(ValueError, match=rf"{path}: .*{'more' if fault == 'more' else name}"):
        load_folder(folder)
