"""Validation by masks: what it scores is what cutting the whole volume at the threshold would score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from scipy import ndimage
from small_runs import small_recipe, write_store

from volattn.inference.stitch import ORGAN_SCORE, score_maps
from volattn.inference.stream import SliceDetections
from volattn.models.registry import build_model
from volattn.preprocessing.store import Store
from volattn.scoring.overlap import dice
from volattn.structures.lesions import largest_component
from volattn.training.validate import CANDIDATES, validate
from volattn.training.validate_masks import MaskEvaluator, score


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store")


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


def test_the_dice_is_that_of_the_whole_volume_cut_at_the_threshold(store: Store) -> None:
    accumulator = MaskEvaluator().start(store, store.case("volume-1"))
    for z in [3, *(z for z in range(14) if z != 3)]:
        accumulator.add(z, invented(z))
    found = accumulator.finish()

    labels = np.asarray(store.case("volume-1").labels[:])
    maps = np.stack([score_maps(invented(z), (64, 64), 64, 2) for z in range(14)])
    organ = maps[:, 0] >= ORGAN_SCORE
    numbers, _ = ndimage.label(organ)
    largest = numbers == 1 + np.argmax(np.bincount(numbers.ravel())[1:])
    for scored, part in zip(found, (organ, largest), strict=True):
        assert scored.organ is not None
        assert 0.2 < scored.organ.dice < 0.99
        assert scored.organ.dice == dice(labels >= 1, part)
        expected = [dice(labels == 2, part & (maps[:, 1] >= candidate)) for candidate in CANDIDATES]
        np.testing.assert_allclose(scored.lesion, expected)
        assert len(np.unique(scored.lesion)) > 10


def test_the_parts_of_the_organ_are_chosen_by_its_dice() -> None:
    """Not by the Dice of a lesion in a stray part."""
    labels = np.zeros((1, 4, 12), np.uint8)
    labels[0, :, :6] = 1
    labels[0, 0, 0] = 2
    levels = np.where(labels == 2, 50, 0).astype(np.uint8)
    liver = labels > 0
    stray = liver.copy()
    stray[0, :, 9:] = True
    for organ, better in ((stray, True), (liver, False)):
        whole, single = (score(levels, part, labels) for part in (organ, largest_component(organ)))
        found = MaskEvaluator().summarise({"volume-0": (whole, single)}, {})
        assert found.single_organ == better
        assert found.scores == {"lesion_dice": 1, "organ_dice": 1}


def test_data_with_lesions_only_have_no_organ_dice(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", cases=1)
    described = store.description
    scheme = described.scheme.model_copy(update={"organ_name": None, "organ_values": ()})
    store = Store(store.path, described.model_copy(update={"scheme": scheme}))
    model = build_model(small_recipe().model, store.classes).eval()
    found = validate(MaskEvaluator(), model, store, ["volume-0"], Accelerator(cpu=True))
    assert list(found.scores) == ["lesion_dice"]
    assert list(found.cases["volume-0"]) == ["lesion"]
