"""Recipes: what ships is the design's table, and what is wrong is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_runs import small_recipe

from volattn.models.registry import build_model
from volattn.training.recipe import load_recipe, shipped


def test_lits_is_the_papers_schedule() -> None:
    recipe = load_recipe("lits")
    assert (recipe.plan.size, recipe.plan.z_spacing, recipe.plan.window) == (1024, 1.5, (-200, 300))
    assert (recipe.model.bag, recipe.model.backbone.norm) == (9, "frozen")
    assert recipe.model.rpn.anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    assert recipe.model.rpn.aspect_ratios == (0.5, 1, 2)
    assert (recipe.model.rpn.batch_size_per_image, recipe.model.rpn.post_nms_top_n[0]) == (256, 2000)
    assert (recipe.model.rpn.fg_iou_thresh, recipe.model.rpn.bg_iou_thresh) == (0.7, 0.3)
    heads = recipe.model.roi_heads
    assert (heads.batch_size_per_image, heads.positive_fraction, heads.fg_iou_thresh) == (512, 0.25, 0.5)
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.05, 0.5, 100)
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


def test_deeplesion_is_the_papers_schedule() -> None:
    recipe, lits = load_recipe("deeplesion"), load_recipe("lits")
    assert (recipe.plan.size, recipe.plan.z_spacing, recipe.model.bag) == (512, 2.0, 3)
    assert (recipe.model.name, recipe.model.backbone.name, recipe.weights) == ("faster_rcnn", "resnet50", "imagenet")
    assert recipe.model.rpn.anchor_sizes == ((16,), (32,), (64,), (128,), (256,))
    assert (recipe.optimiser, recipe.schedule) == (lits.optimiser, lits.schedule)
    assert recipe.step.nominal_targets() == 16
    assert recipe.model.rpn.model_copy(update={"anchor_sizes": lits.model.rpn.anchor_sizes}) == (lits.model.rpn)


def test_3dce_is_the_published_schedule() -> None:
    recipe = load_recipe("3dce")
    assert (recipe.plan.size, recipe.plan.z_spacing, recipe.model.bag) == (512, 2.0, 3)
    assert recipe.model.rpn.anchor_sizes == ((16, 24, 32, 48, 96),)
    optimiser, schedule = recipe.optimiser, recipe.schedule
    assert (optimiser.name, optimiser.lr, optimiser.weight_decay, optimiser.clip) == ("sgd", 0.001, 5e-4, 5)
    assert (schedule.unit, schedule.length, schedule.milestones, schedule.warmup) == ("epochs", 6, (4, 5), 0)
    assert recipe.augment is None
    for name, samples in (("3dce-9", 2), ("3dce-27", 1)):
        row = load_recipe(name)
        assert (row.step.nominal_targets(), row.optimiser.reference_targets) == (samples, samples)
        assert row.model.bag * row.model.slices == int(name.split("-")[1])


ROWS = {
    "Table 3": (
        ("Faster-RCNN", ("faster_rcnn", "vgg16", "none", 1, 3)),
        ("R-FCN", ("rfcn", "vgg16", "none", 1, 3)),
        ("Improved R-FCN", ("improved_rfcn", "vgg16", "none", 1, 3)),
        ("Data-level fusion, 11 slices", ("data_level_fusion", "vgg16", "none", 1, 11)),
        ("3-DCE, 9 slices", ("three_dce", "vgg16", "none", 3, 3)),
        ("3-DCE, 27 slices", ("three_dce", "vgg16", "none", 9, 3)),
    ),
    "Tables 3 and 4": (
        ("Faster-RCNN+VA, 9 slices", ("faster_rcnn", "resnet50", "both", 3, 3)),
        ("Deformable Faster-RCNN+VA", ("deformable_faster_rcnn", "resnet50", "both", 3, 3)),
    ),
    "Table 4": (
        ("Faster-RCNN, ResNet152", ("faster_rcnn", "resnet152", "none", 1, 3)),
        ("Faster-RCNN, ResNet101", ("faster_rcnn", "resnet101", "none", 1, 3)),
        ("Faster-RCNN, ResNet50", ("faster_rcnn", "resnet50", "none", 1, 3)),
        ("Deformable Faster-RCNN", ("deformable_faster_rcnn", "resnet50", "none", 1, 3)),
        ("Deformable Faster-RCNN+VCA", ("deformable_faster_rcnn", "resnet50", "channel", 3, 3)),
        ("Deformable Faster-RCNN+VSA", ("deformable_faster_rcnn", "resnet50", "spatial", 3, 3)),
    ),
}


def test_every_row_of_tables_3_and_4_is_a_recipe() -> None:
    found = {
        recipe.row: recipe
        for recipe in map(load_recipe, shipped())
        if recipe.row and re.match("Tables? [34]", recipe.row)
    }
    expected = {f"{table}, {row}": facts for table, rows in ROWS.items() for row, facts in rows}
    assert found.keys() == expected.keys()
    for row, facts in expected.items():
        model = found[row].model
        got = (model.name, model.backbone.name, model.attention_kind, model.images, model.slices)
        assert got == facts, row
        assert (model.backbone.deformable is not None) == ("Deformable" in row)


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
    [
        ("tyni", r"tyni: no such recipe; did you mean tiny\?"),
        ("quite-another", "quite-another: no such recipe; `volattn info` lists them"),
        ("absent.yaml", "absent.yaml: does not exist"),
    ],
)
def test_what_is_no_recipe_is_named(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(source)


def test_a_recipe_says_only_what_is_different_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: tiny\nname: mine\nmodel: {bag: 7, attention: {kind: channel}}\n")
    mine, tiny = load_recipe(tmp_path / "mine.yaml"), load_recipe("tiny")
    assert (mine.name, mine.model.bag, mine.model.attention.kind) == ("mine", 7, "channel")
    assert mine.model.attention.kernel_size == tiny.model.attention.kernel_size
    assert (mine.plan, mine.schedule, mine.model.rpn) == (tiny.plan, tiny.schedule, tiny.model.rpn)
    (tmp_path / "on-mine.yaml").write_text("base: mine.yaml\nseed: 3\naugment: null\n")
    third = load_recipe(tmp_path / "on-mine.yaml")
    assert (third.name, third.seed, third.augment, third.model) == ("custom", 3, None, mine.model)


def test_a_row_is_not_handed_on(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: 3dce-9\nseed: 1\n")
    assert load_recipe(tmp_path / "mine.yaml").row is None


def test_another_model_takes_over_what_it_reads(tmp_path: Path) -> None:
    (tmp_path / "boxes.yaml").write_text("base: tiny\nmodel: {name: faster_rcnn}\n")
    boxes, tiny = load_recipe(tmp_path / "boxes.yaml").model, load_recipe("tiny").model
    assert (boxes.name, boxes.rpn, boxes.backbone) == ("faster_rcnn", tiny.rpn, tiny.backbone)
    assert boxes.roi_heads.batch_size_per_image == tiny.roi_heads.batch_size_per_image
    assert "mask_layers" not in boxes.model_dump()["roi_heads"]


SAME = {
    ("tiny", "tiny-boxes"): ["model.bag=3"],
    ("tiny-boxes", "tiny-deformable"): ["model.backbone.deformable={stages: [5]}"],
    ("tiny-boxes", "tiny-retinanet"): [
        "model.backbone.pyramid_from=1",
        "model.backbone.pyramid_top=pool",
        "model.head.norm=group",
        f"model.head.anchor_sizes={[list(row) for row in load_recipe('tiny-retinanet').model.head.anchor_sizes]}",
    ],
}


@pytest.mark.parametrize(("base", "row"), SAME)
def test_a_setting_changes_the_model_as_a_base_does(base: str, row: str) -> None:
    """The keys of the other model can be set with it, in any order."""
    expected = load_recipe(row).model
    name = f"model.name={expected.name}"
    for settings in ([name, *SAME[base, row]], [*SAME[base, row], name]):
        assert load_recipe(base).updated(settings).model == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.name=retinanet", "model.rpn.batch_size_per_image=3"], "unknown key 'rpn'"),
        (["model.name=yolo"], "model: name must be one of"),
        (["model.name=[3]"], "model: name must be one of"),
        (["model.name=rfcn"], "rfcn takes one map: set backbone.name=vgg16"),
    ],
)
def test_what_another_model_does_not_take_is_said(settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe("tiny-boxes").updated(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: absent\n", "absent: no such recipe"),
        ("base: absent.yaml\n", "absent.yaml: does not exist"),
        ("base: mine.yaml\n", "is a base of itself"),
        ("base: list.yaml\n", "its base list.yaml is not a recipe"),
        ("base: 3\n", "3: no such recipe"),
        ('base: "a\\nb"\n', "a b: no such recipe"),
        ("base: sub/../mine.yaml\n", "is a base of itself"),
        ("base: tiny\nseeed: 3\n", r"mine.yaml: unknown key .seeed.; did you mean seed\?"),
        ("base: tiny\nmodel: {name: yolo}\n", "mine.yaml: model: name must be one of"),
        ("base: tiny\nmodel: 3\n", "mine.yaml: model: "),
    ],
)
def test_a_wrong_base_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean lr"):
        small_recipe().updated(["optimiser.lrr=1"])
