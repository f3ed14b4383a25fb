"""Validation: what it scores is what cutting the whole volume at the threshold would score."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy import ndimage
from scipy.special import entr
from small_runs import small_recipe, write_store

from volattn.evaluation.overlap import dice
from volattn.inference.stitch import ORGAN_SCORE, score_maps
from volattn.inference.stream import SliceDetections
from volattn.models.bag_backbone import BagBackbone
from volattn.models.catalogue import build_model
from volattn.preprocessing.store import Store
from volattn.slabs.images import bag_centres, image_slices, to_input
from volattn.structures.components import largest_component
from volattn.training import validate as validation
from volattn.training.operating import CANDIDATES
from volattn.training.recipe import ValidationConfig
from volattn.training.schedule import ScheduleConfig, Timetable


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[BagBackbone, Store]:
    """A new network whose attention is not uniform."""
    torch.set_num_threads(1)
    store = write_store(tmp_path_factory.mktemp("data") / "store")
    torch.manual_seed(0)
    model = build_model(small_recipe().model, store.classes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention" in name and "gate" not in name:
                parameter.mul_(20)
    return model, store


def invented(z: int) -> SliceDetections:
    """Organs near the livers, and lesions anywhere, with any scores."""
    generator = np.random.default_rng(z)
    corner = generator.uniform(5, 20, (6, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(10, 35, (6, 2))], axis=1)
    return SliceDetections(
        boxes=boxes.astype(np.float32),
        labels=np.array([1, 1, 2, 2, 2, 2]),
        scores=generator.uniform(0.05, 1, 6).astype(np.float32),
        masks=generator.uniform(0.2, 1, (6, 28, 28)).astype(np.float16),
        weights={},
    )


def test_the_dice_is_that_of_the_whole_volume_cut_at_the_threshold(
    made: tuple[BagBackbone, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, store = made
    order = [3, *(z for z in range(14) if z != 3)]
    monkeypatch.setattr(validation, "stream", lambda *_, **__: ((z, invented(z)) for z in order))
    shown: list[int] = []
    found = validation.examine(model, store, "volume-1", torch.device("cpu"), progress=shown.append)
    assert shown == list(range(1, 15))

    labels = np.asarray(store.case("volume-1").labels[:])
    maps = np.stack([score_maps(invented(z), (64, 64), 64, 2) for z in range(14)])
    organ = maps[:, 0] >= ORGAN_SCORE
    numbers, _ = ndimage.label(organ)
    largest = numbers == 1 + np.argmax(np.bincount(numbers.ravel())[1:])
    for reading, part in ((found.whole, organ), (found.single, largest)):
        assert reading.organ is not None
        assert 0.2 < reading.organ.dice < 0.99
        assert reading.organ.dice == dice(labels >= 1, part)
        expected = [dice(labels == 2, part & (maps[:, 1] >= candidate)) for candidate in CANDIDATES]
        np.testing.assert_allclose(reading.lesion, expected)
        assert len(np.unique(reading.lesion)) > 10


def test_the_organ_is_read_as_validation_finds_better() -> None:
    """A lesion that only the stray part shows is worth less than the organ's own Dice."""
    labels = np.zeros((1, 4, 12), np.uint8)
    labels[0, :, :6] = 1
    labels[0, 0, 0] = 2
    levels = np.where(labels == 2, 50, 0).astype(np.uint8)
    liver = labels > 0
    stray = liver.copy()
    stray[0, :, 9:] = True
    for organ, better in ((stray, True), (liver, False)):
        whole, single = (
            validation.read_organ(levels, part, labels) for part in (organ, largest_component(organ))
        )
        found = validation.summarise([validation.CaseFindings("volume-0", whole, single, {})])
        assert found.single_organ == better
        assert found.organ_dice == 1
        assert found.lesion_dice == 1


def test_entropies_are_those_of_bags_built_from_scratch(made: tuple[BagBackbone, Store]) -> None:
    model, store = made
    found = validation.examine(model, store, "volume-0", torch.device("cpu"))
    case = store.case("volume-0")
    rows: dict[str, list[np.ndarray]] = {}
    for z in range(14):
        centres = bag_centres(z, 14, 3)
        slices = np.asarray(case.image[:])[image_slices(centres, 14)]
        images = to_input(torch.from_numpy(slices), store.plan.window, store.plan.size)
        with torch.no_grad():
            attended = model.attend_slab(images, torch.arange(3)[None], torch.tensor([1]))
        for key, weights in attended.weights.items():
            rows.setdefault(key, []).append(weights[0].numpy().astype(float))
    assert sorted(found.entropies) == sorted(rows)
    assert min(found.entropies.values()) < 0.9
    for key, weights in rows.items():
        expected = entr(np.stack(weights)).sum(1).mean() / np.log(3)
        assert found.entropies[key] == pytest.approx(expected, abs=1e-4)


def test_the_entropy_is_a_share_of_the_largest() -> None:
    assert validation.bag_entropy(np.full((4, 5), 0.2, np.float32)) == pytest.approx(1, abs=1e-6)
    assert validation.bag_entropy(np.eye(5, dtype=np.float32)) == 0
    half = np.array([[0.5, 0.5, 0, 0]])
    assert validation.bag_entropy(half) == pytest.approx(0.5)


def test_a_validation_says_what_json_can(made: tuple[BagBackbone, Store]) -> None:
    model, store = made
    found = validation.validate(model, store, ["volume-0", "volume-2"], Accelerator(cpu=True), batch=2)
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)
    assert list(found.cases) == ["volume-0", "volume-2"]
    assert found.lesion_dice == pytest.approx(np.mean([case["lesion"] for case in found.cases.values()]))


def test_data_with_lesions_only_has_no_organ_to_ask(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", cases=1)
    described = store.description
    scheme = described.scheme.model_copy(update={"organ_name": None, "organ_values": ()})
    store.description = described.model_copy(update={"scheme": scheme})
    model = build_model(small_recipe().model, store.classes).eval()
    found = validation.validate(model, store, ["volume-0"], Accelerator(cpu=True))
    assert found.organ_dice is None
    assert list(found.cases["volume-0"]) == ["lesion"]


@pytest.mark.parametrize(("every", "after"), [(0, [2, 5, 7]), (3, [2, 5, 7]), (4, [3, 7]), (100, [7])])
def test_when_a_validation_follows(every: int, after: list[int]) -> None:
    table = Timetable.of(ScheduleConfig(unit="steps", length=8), lambda epoch: 3)
    config = ValidationConfig(every=every)
    assert [step for step in range(8) if validation.follows(config, table, step)] == after
