"""Recipes: what ships is the design's table, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import small_recipe

from volattn.models.catalogue import build_model
from volattn.training.recipe import load_recipe, shipped


def test_lits_is_the_papers_schedule() -> None:
    recipe = load_recipe("lits")
    assert (recipe.plan.size, recipe.plan.z_spacing, recipe.plan.window) == (1024, 1.5, (-200, 300))
    assert (recipe.model.bag, recipe.model.backbone.norm) == (9, "frozen")
    assert recipe.model.proposals.anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    assert recipe.model.proposals.anchor_ratios == (0.5, 1, 2)
    assert (recipe.model.proposals.samples, recipe.model.proposals.after_nms[0]) == (256, 2000)
    assert (recipe.model.proposals.positive_iou, recipe.model.proposals.negative_iou) == (0.7, 0.3)
    regions = recipe.model.regions
    assert (regions.samples, regions.positive_fraction, regions.iou) == (512, 0.25, 0.5)
    assert (regions.score, regions.nms_iou, regions.detections) == (0.05, 0.5, 100)
    optimiser = recipe.optimiser
    assert (optimiser.name, optimiser.lr, optimiser.reference_targets) == ("sgd", 0.02, 16)
    assert (optimiser.momentum, optimiser.weight_decay, optimiser.clip) == (0.9, 1e-4, 35)
    schedule = recipe.schedule
    assert (schedule.unit, schedule.length, schedule.milestones) == ("epochs", 12, (8, 11))
    assert (schedule.warmup, schedule.warmup_factor) == (500, pytest.approx(1 / 3))
    assert recipe.step.nominal_targets() == 16
    assert recipe.validation.fraction == 0.25


def test_tiny_starts_from_nothing_and_depends_on_no_batch() -> None:
    recipe = load_recipe("tiny")
    assert 128 <= recipe.plan.size <= 192
    assert (recipe.model.bag, recipe.weights, recipe.model.backbone.norm) == (5, "none", "group")
    model = build_model(recipe.model, ("liver", "lesion"))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_is_called_what_its_file_is(name: str) -> None:
    assert load_recipe(name).name == name


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(small_recipe().text())
    assert load_recipe(tmp_path / "mine.yaml") == small_recipe()


def test_the_slabs_are_the_models() -> None:
    recipe = load_recipe("tiny").updated(["model.bag=7", "step.targets=3"])
    assert (recipe.slabs.bag, recipe.slabs.slices, recipe.slabs.targets) == (7, 3, 3)
    assert recipe.updated(["model.attention.kind=none"]).slabs.bag == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [("tyni", "tyni: no such recipe; give lits or tiny"), ("absent.yaml", "absent.yaml: cannot be read")],
)
def test_what_is_no_recipe_is_named(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(source)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean lr"):
        small_recipe().updated(["optimiser.lrr=1"])
