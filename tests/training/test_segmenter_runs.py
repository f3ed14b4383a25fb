"""Runs of segmenters: the verbs and files of Mask R-CNN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_detectors import small_config
from small_runs import small_recipe, write_boxed_store, write_store

from volattn.inference.predict import load
from volattn.models.registry import MODELS
from volattn.preprocessing.store import Store
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume
from volattn.training.run import train

SEGMENTERS = [name for name, model in MODELS.items() if model.config.output == "label_map"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.mark.parametrize("name", SEGMENTERS)
def test_every_segmenter_learns_and_predicts(store: Store, tmp_path: Path, name: str) -> None:
    changes = {"segmentation": {"width": 8}} if name == "unet_3d" else {}
    recipe = small_recipe(model=small_config(3, name, changes=changes), augment=None, save_every=100).updated(
        ["schedule.length=24", "validation.every=100", "optimiser.lr=0.01"]
    )
    if recipe.model.window.slices > 1:
        recipe = recipe.updated(["step.targets=1", "optimiser.lr=0.003", "schedule.length=16"])
    result = train(recipe, store.path, tmp_path / "run", device="cpu")
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])
    assert result.validation.scores["organ_dice"] > 0.5

    case = store.case(store.names[0])
    image = np.asarray(case.image[:])
    volume = Volume(image, Geometry(image.shape, np.diag([1.5, 1.5, 1.5, 1.0])[[2, 1, 0, 3]]), "case")
    found = load(tmp_path / "run", device="cpu").predict(volume, threshold=0.5)
    organ, reference = found.labels >= 1, np.asarray(case.labels[:]) >= 1
    assert 2 * (organ & reference).sum() > 0.5 * (organ.sum() + reference.sum())


def test_boxes_alone_are_not_enough(tmp_path: Path) -> None:
    boxed = write_boxed_store(tmp_path / "store")
    recipe = small_recipe(model=small_config(3, "unet_2d")).updated(["step.targets=1"])
    with pytest.raises(ValueError, match="no masks, from which unet_2d learns"):
        train(recipe, boxed.path, tmp_path / "run", device="cpu")
