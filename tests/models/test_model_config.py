"""A model's name decides its keys and their defaults; what makes no sense is refused in a line."""

from __future__ import annotations

from typing import Any

import pytest

from volattn.checkpoints import DEMO, ModelFolder
from volattn.config import read_values
from volattn.models.config import ModelConfig
from volattn.models.registry import MODELS, parse_model
from volattn.training.recipe import Recipe


def config(**values: Any) -> ModelConfig:
    return parse_model(values, "config")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_name_is_enough_and_survives_a_file(name: str, kind: str, tmp_path: Any) -> None:
    made = config(name=name)
    (tmp_path / f"config.{kind}").write_text(made.text(kind))
    assert parse_model(read_values(tmp_path / f"config.{kind}"), name) == made
    assert Recipe.parse({"model": {"name": name}}, "recipe").model == made
    assert Recipe.parse(Recipe(model=made).model_dump(mode="json"), "recipe").model == made


def test_a_value_goes_before_the_names_own() -> None:
    assert config(name="three_dce").bag == 3
    assert config(name="three_dce", bag=9).bag == 9
    deformable = config(name="deformable_faster_rcnn", backbone={"deformable": {"stages": [5]}, "width": 32})
    assert deformable.backbone.deformable is not None
    assert deformable.backbone.deformable.stages == (5,)
    assert not deformable.backbone.deformable.modulated
    assert deformable.backbone.width == 32


@pytest.mark.parametrize(
    ("name", "images"),
    [("mask_rcnn", 9), ("retinanet", 9), ("three_dce", 3), ("improved_rfcn", 1), ("data_level_fusion", 1)],
)
def test_a_bag_has_as_many_images_as_are_looked_at(name: str, images: int) -> None:
    assert config(name=name).images == images


def test_without_attention_one_image_is_enough() -> None:
    assert config(name="rfcn", attention={"kind": "none"}).images == 1


def test_the_demo_model_reads_as_before() -> None:
    read = ModelFolder.read(DEMO / "config.json").model
    assert (read.name, read.bag, read.backbone.name, read.backbone.width) == ("mask_rcnn", 5, "resnet18", 32)
    assert read.backbone.levels == ("0", "1", "2", "3", "pool")
    assert read.backbone.deformable is None
    assert (read.roi_heads.bbox_reg_weights, read.rpn.channels) == ((10, 10, 5, 5), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "yolo"}, "name must be one of mask_rcnn, faster_rcnn, .* found 'yolo'"),
        ({"name": ["fcos"]}, "name must be one of"),
        (
            {"name": "retinanet", "attention": {"location": "roi"}},
            "retinanet has no place for attention.location=roi; set attention.location=pyramid",
        ),
        ({"name": "fcos", "attention": {"location": "roi"}}, "fcos has no place for attention.location=roi"),
        ({"name": "rfcn", "attention": {"location": "roi"}}, "rfcn has no place for attention.location=roi"),
        ({"name": "three_dce", "attention": {}}, "unknown key 'attention'; known keys: auxiliary, backbone, bag, "),
        ({"name": "improved_rfcn", "bag": 3}, "bag: must be 1, found 3"),
        ({"name": "three_dce", "context_grad": "none"}, "context_grad: must be 'full' or 'checkpoint'"),
        (
            {"name": "retinanet", "roi_heads": {}},
            "unknown key 'roi_heads'; did you mean head. known keys: attention, .* head, ",
        ),
        ({"name": "faster_rcnn", "head": {}}, "unknown key 'head'.* known keys: attention, .* rpn, slices, std"),
        ({"name": "faster_rcnn", "roi_heads": {"mask_output_size": 28}}, "roi_heads: unknown key 'mask_output_size'"),
        ({"name": "fcos", "head": {"aspect_ratios": [1]}}, "head: unknown key 'aspect_ratios'; known keys: center"),
        ({"name": "rfcn", "backbone": {"name": "resnet50", "norm": "frozen"}}, "rfcn takes one map"),
        ({"roi_heads": {"pooling": "pool"}}, "roi_heads.pooling pool takes one map"),
        ({"name": "faster_rcnn", "backbone": {"deformable": {}}}, "deformable_faster_rcnn is faster_rcnn with"),
        ({"name": "deformable_faster_rcnn", "backbone": {"deformable": None}}, "give both or neither"),
        ({"name": "fcos", "backbone": {"pyramid_channels": 48}}, "a multiple of 32"),
        ({"attention": {"kernel_size": 4}}, "attention: kernel_size must be odd, found 4"),
        ({"backbone": {"norm": "none"}}, "norm none is for vgg16"),
        ({"backbone": {"name": "timm:convnext_tiny", "width": 32}}, "timm:convnext_tiny has no width; leave it out"),
        ({"backbone": {"name": "timm"}}, "backbone.name: must be of the form"),
        ({"name": "rfcn", "backbone": {"stages": 3}}, "vgg16 has no stages; leave it out"),
        ({"backbone": {"pyramid_from": 3, "stages": 2}}, "pyramid_from must be one of the 2 stages, found 3"),
        ({"backbone": {"deformable": {"stages": [5]}, "stages": 3}}, "names stage 5, but the last that is kept is 4"),
        ({"backbone": {"deformable": {"stages": [1]}}}, "backbone.deformable.stages.0"),
        ({"name": "faster_rcnn", "backbone": {"name": "vgg16", "norm": "none"}}, "each of the 1 pyramid levels"),
        ({"name": "retinanet", "backbone": {"stages": 2}}, "each of the 3 pyramid levels, found 5"),
        ({"name": "va_unet", "backbone": {"name": "vgg16"}}, "backbone.name: must be 'resnet18'"),
        ({"name": "va_unet", "attention": {"shared": True}}, "set attention.shared=false"),
        ({"name": "unet_3d", "slices": 5}, "slices: must be 3, found 5"),
        ({"name": "cascade", "bag": 3}, "bag: must be 1, found 3"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")) as caught:
        config(**values)
    assert "\n" not in str(caught.value)
