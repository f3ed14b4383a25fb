"""Validation: when it comes, how processes share it, and the entropy of attention."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import entr
from small_runs import small_recipe, write_store

from volattn.models.attention import ChannelAttention
from volattn.models.bag_backbone import BagBackbone
from volattn.models.registry import build_model
from volattn.preprocessing.store import Store
from volattn.slabs.images import bag_centres, image_slices, to_input
from volattn.training import validate as validation
from volattn.training.recipe import ScheduleConfig, Timetable, ValidationConfig
from volattn.training.validate_masks import MaskEvaluator


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


def test_entropies_are_those_of_bags_built_from_scratch(made: tuple[BagBackbone, Store]) -> None:
    model, store = made
    found = validation.evaluate_case(MaskEvaluator(), model, store, "volume-0", torch.device("cpu"))
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


def test_what_the_gates_do_is_written_down(made: tuple[BagBackbone, Store]) -> None:
    model, store = made
    found = validation.evaluate_case(MaskEvaluator(), model, store, "volume-0", torch.device("cpu"))
    assert sorted(found.gates) == sorted(found.entropies)
    for state in found.gates.values():
        assert 0 <= state.live <= 1
        # Their weights start at 0: the same number everywhere.
        assert (state.mean, state.spread) == pytest.approx((1 / (1 + np.exp(-3)), 0), abs=1e-6)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ChannelAttention):
                module.gate.weight.normal_()
    moved = validation.evaluate_case(MaskEvaluator(), model, store, "volume-0", torch.device("cpu")).gates
    assert max(state.spread for key, state in moved.items() if key.startswith("channel")) > 1e-5
    assert all(module.watched is None for module in model.modules() if isinstance(module, ChannelAttention))


def test_organs_alone_are_validated_on_painted_lesions(made: tuple[BagBackbone, Store]) -> None:
    _, store = made
    case = store.case("volume-0")
    organ = np.minimum(np.asarray(case.labels[:]), 1)
    vars(case).update(labels=organ)
    first, second = validation.painted_case(case), validation.painted_case(case)
    np.testing.assert_array_equal(first.image[:], second.image[:])
    assert first.image[:].dtype == np.int16
    np.testing.assert_array_equal(first.labels[:] > 0, organ > 0)
    changed = np.asarray(first.image[:]) != np.asarray(case.image[:])
    assert changed.any()
    assert not changed[organ == 0].any()
    assert (case.labels[:] == organ).all(), "the case itself is as it was"


def test_a_validation_survives_json(made: tuple[BagBackbone, Store]) -> None:
    model, store = made
    found = validation.validate(MaskEvaluator(), model, store, ["volume-0", "volume-2"], Accelerator(cpu=True), batch=2)
    assert validation.Validation.parse(json.loads(json.dumps(found.model_dump(), allow_nan=False)), "") == found
    assert list(found.cases) == ["volume-0", "volume-2"]
    assert found.scores["lesion_dice"] == pytest.approx(np.mean([case["lesion"] for case in found.cases.values()]))


@given(st.lists(st.integers(1, 900), min_size=1, max_size=12), st.integers(1, 5))
def test_processes_share_the_slices_evenly(lengths: list[int], processes: int) -> None:
    cases = {f"case-{place}": SimpleNamespace(annotated_slices=range(length)) for place, length in enumerate(lengths)}
    store = cast(Store, SimpleNamespace(case=cases.__getitem__))
    shares = validation.distribute(store, list(cases), processes)
    assert sorted(name for share in shares for name in share) == sorted(cases)
    assert shares == validation.distribute(store, list(cases)[::-1], processes)
    loads = [sum(len(cases[name].annotated_slices) for name in share) for share in shares]
    for share in filter(None, shares):  # the last case of none would have fitted better elsewhere
        rest = sum(len(cases[name].annotated_slices) for name in share[:-1])
        assert rest <= min(loads)


@pytest.mark.parametrize(("every", "after"), [(0, [2, 5, 7]), (3, [2, 5, 7]), (4, [3, 7]), (100, [7])])
def test_when_a_validation_follows(every: int, after: list[int]) -> None:
    table = Timetable.of(ScheduleConfig(unit="steps", length=8), lambda epoch: 3)
    config = ValidationConfig(every=every)
    assert [step for step in range(8) if validation.validates_after(config, table, step)] == after
