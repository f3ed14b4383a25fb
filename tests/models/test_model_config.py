"""A detector's name decides its defaults and what it reads; what makes no sense is refused in a line."""

from __future__ import annotations

from typing import Any

import pytest

from volattn.checkpoints import DEMO, ModelFolder
from volattn.models.architectures import ARCHITECTURES
from volattn.models.catalogue import CATALOGUE
from volattn.models.config import ModelConfig


def config(**values: Any) -> ModelConfig:
    return ModelConfig.parse(values, "config")


def test_the_catalogue_and_the_facts_have_the_same_names() -> None:
    assert CATALOGUE.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_name_is_enough_and_survives_a_file(name: str, kind: str, tmp_path: Any) -> None:
    made = config(name=name)
    (tmp_path / f"config.{kind}").write_text(made.text(kind))
    assert ModelConfig.read(tmp_path / f"config.{kind}") == made


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_has_no_part_is_neither_written_nor_taken(name: str) -> None:
    written = config(name=name).model_dump(mode="json")
    for key in ARCHITECTURES[name].unread:  # type: ignore[index]
        part, _, value = key.partition(".")
        assert (value not in written[part]) if value else (part not in written)
    segments = ARCHITECTURES[name].segments  # type: ignore[index]
    assert ("segmentation" in written) == segments
    assert ("dense" in written) == (name in ("retinanet", "fcos"))
    assert ("regions" in written) == ("proposals" in written) == (not segments and "dense" not in written)


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
    assert (read.regions.box_weights, read.proposals.channels) == ((10, 10, 5, 5), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "yolo"}, "name: "),
        ({"name": ["fcos"]}, "name: "),
        (
            {"name": "retinanet", "attention": {"location": "rcnn"}},
            "retinanet has no place for attention.location=rcnn; set attention.location=rpn",
        ),
        (
            {"name": "fcos", "attention": {"location": "rcnn"}},
            "fcos has no place for attention.location=rcnn; set attention.location=rpn",
        ),
        (
            {"name": "rfcn", "attention": {"location": "rcnn"}},
            "rfcn has no place for attention.location=rcnn; set attention.location=rpn",
        ),
        (
            {"name": "three_dce", "attention": {"kind": "both"}},
            "three_dce has no place for attention.location=rpn; set attention.kind=none",
        ),
        ({"name": "data_level_fusion", "attention": {"kind": "channel"}}, "set attention.kind=none"),
        ({"name": "improved_rfcn", "bag": 3}, "improved_rfcn looks at one image: set bag=1, or name=three_dce"),
        ({"name": "three_dce", "attention": {"context_grad": "none"}}, "three_dce learns through its bag"),
        ({"name": "retinanet", "regions": {"samples": 64}}, "regions has no part in retinanet; leave it out"),
        ({"name": "faster_rcnn", "dense": {"score": 0.1}}, "dense has no part in faster_rcnn; leave it out"),
        ({"name": "faster_rcnn", "regions": {"mask_pool": 28}}, "regions.mask_pool has no part in faster_rcnn"),
        ({"name": "fcos", "dense": {"anchor_ratios": [1]}}, "dense.anchor_ratios has no part in fcos"),
        ({"name": "rfcn", "backbone": {"name": "resnet50", "norm": "frozen"}}, "rfcn takes one map"),
        ({"regions": {"pooling": "pool"}}, "regions.pooling pool takes one map"),
        ({"name": "faster_rcnn", "backbone": {"deformable": {}}}, "deformable_faster_rcnn is faster_rcnn with"),
        ({"name": "deformable_faster_rcnn", "backbone": {"deformable": None}}, "give both or neither"),
        ({"name": "fcos", "backbone": {"pyramid_channels": 48}}, "a multiple of 32"),
        ({"backbone": {"norm": "none"}}, "norm none is for vgg16"),
        ({"name": "rfcn", "backbone": {"stages": 3}}, "stages has no part in vgg16"),
        ({"backbone": {"pyramid_from": 3, "stages": 2}}, "pyramid_from must be one of the 2 stages, found 3"),
        ({"backbone": {"deformable": {"stages": [5]}, "stages": 3}}, "names stage 5, but the last that is kept is 4"),
        ({"backbone": {"deformable": {"stages": [1]}}}, "backbone.deformable.stages.0"),
        ({"name": "faster_rcnn", "backbone": {"name": "vgg16", "norm": "none"}}, "each of the 1 pyramid levels"),
        ({"name": "retinanet", "backbone": {"stages": 2}}, "each of the 3 pyramid levels, found 5"),
        ({"name": "va_unet", "backbone": {"name": "vgg16", "norm": "none"}}, "va_unet takes a ResNet"),
        ({"name": "va_unet", "attention": {"shared": True}}, "attention.shared has no part in va_unet"),
        ({"name": "unet_2d", "attention": {"kind": "both"}}, "set attention.kind=none"),
        ({"name": "unet_3d", "slices": 5}, "unet_3d takes slices=3, found 5"),
        ({"name": "cascade", "bag": 3}, "cascade looks at one image: set bag=1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")) as caught:
        config(**values)
    assert "\n" not in str(caught.value)
