"""Without attention, a detector that torchvision has too is torchvision's: the same keys, detections and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detector_losses import targets_for
from small_detectors import images_of, made, small_config
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet, retinanet_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from volattn.models.config import ModelConfig
from volattn.models.registry import build_model, parse_model

INPUT: dict[str, Any] = {"min_size": 64, "max_size": 64, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
ANCHORS = AnchorGenerator(((8,), (16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 4)


def two_stage(**options: Any) -> dict[str, Any]:
    return {
        **INPUT,
        "rpn_anchor_generator": ANCHORS,
        "rpn_post_nms_top_n_train": 40,
        "rpn_post_nms_top_n_test": 40,
        "box_head": TwoMLPHead(16 * 49, 32),
        "box_predictor": FastRCNNPredictor(32, 3),
        "box_batch_size_per_image": 16,
        "box_score_thresh": 0.0,
        "box_detections_per_img": 20,
        **options,
    }


def mask_rcnn(backbone: nn.Module) -> nn.Module:
    masks = {"mask_head": MaskRCNNHeads(16, (16,), 1), "mask_predictor": MaskRCNNPredictor(16, 16, 3)}
    theirs = MaskRCNN(backbone, **two_stage(**masks))
    theirs.roi_heads.mask_roi_pool.featmap_names = ["0", "1", "2"]
    return theirs


def retinanet(backbone: nn.Module) -> nn.Module:
    sizes = ((8, 12), (16, 24), (32, 48), (64, 80))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 4)
    kept = {"score_thresh": 0.0, "detections_per_img": 20}
    return RetinaNet(backbone, 2, anchor_generator=anchors, **kept, **INPUT)


def fcos(backbone: nn.Module) -> nn.Module:
    anchors = AnchorGenerator(((4,), (8,), (16,), (32,)), ((1.0,),) * 4)
    return FCOS(backbone, 2, anchor_generator=anchors, score_thresh=0.0, detections_per_img=20, **INPUT)


THEIRS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "mask_rcnn": mask_rcnn,
    "faster_rcnn": lambda backbone: FasterRCNN(backbone, **two_stage()),
    "retinanet": retinanet,
    "fcos": fcos,
}


def config_of(name: str) -> ModelConfig:
    return small_config(name=name, kind="none")


@pytest.mark.parametrize("name", THEIRS)
def test_it_is_torchvisions(name: str) -> None:
    config = config_of(name)
    ours = made(config)
    theirs = THEIRS[name](ours.backbone)
    if hasattr(theirs, "roi_heads"):
        theirs.roi_heads.box_roi_pool.featmap_names = ["0", "1", "2"]
    theirs.load_state_dict({key.removeprefix("detector."): t for key, t in ours.state_dict().items()})
    theirs = theirs.double()
    images, at = images_of()[:2], torch.tensor([0, 1])
    one_stage = name in ("retinanet", "fcos")

    with torch.no_grad():
        mine, other = ours.eval()(images, at[:, None], at), theirs.eval()(list(images))
    for a, b in zip(mine, other, strict=True):
        if "masks" in b:
            a["masks"] = paste_masks_in_image(a["masks"], a["boxes"], (64, 64))
        if one_stage:
            a["labels"] = a["labels"] - 1  # they count the classes of these from 0
        assert a.keys() == b.keys()
        for key in b:
            torch.testing.assert_close(a[key], b[key])

    targets = targets_for(config, 2)
    counted = [{**t, "labels": t["labels"] - 1} for t in targets] if one_stage else targets
    torch.manual_seed(5)
    expected = theirs.train()(list(images), counted)
    torch.manual_seed(5)
    for _ in images:
        torch.rand(1)  # torchvision draws a size for every image, though there is one
    found = ours.train()(images, at[:, None], at, targets)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, dict(expected))


def test_the_box_loss_has_a_form_and_a_weight() -> None:
    losses = {}
    for key, changes in (("theirs", {}), ("doubled", {"box_loss_weight": 2.0}), ("late", {"smooth_l1_beta": 1e3})):
        model = made(small_config(name="faster_rcnn", kind="none", changes={"roi_heads": changes})).train()
        torch.manual_seed(5)
        at = torch.tensor([0, 1])
        with torch.no_grad():
            losses[key] = model(images_of(), at[:, None], at, targets_for(model.config, 2))
    torch.testing.assert_close(losses["doubled"]["loss_box_reg"], 2 * losses["theirs"]["loss_box_reg"])
    assert losses["late"]["loss_box_reg"] < losses["theirs"]["loss_box_reg"]
    assert losses["late"]["loss_classifier"] == losses["theirs"]["loss_classifier"]


def test_retinanets_norm_is_that_of_torchvisions_second() -> None:
    config = parse_model({"name": "retinanet", "attention": {"kind": "none"}, "head": {"norm": "group"}})
    with torch.device("meta"):
        theirs = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=2).head
        ours = build_model(config, ("organ", "lesion")).detector.head
    assert repr(ours) == repr(theirs)


def test_narrow_towers_with_a_norm_tell_places_apart() -> None:
    """What they are for: without, four layers drawn with 0.01 end all but constant."""
    spread = {}
    for norm in ("none", "group"):
        torch.manual_seed(0)
        settings = {"bag": 1, "attention": {"kind": "none"}, "head": {"norm": norm}}
        config = parse_model(
            {"name": "retinanet", "backbone": {"name": "resnet18", "pyramid_channels": 64}, **settings}
        )
        scores = build_model(config, ("lesion",)).detector.head([torch.randn(1, 64, 16, 16)])["cls_logits"]
        spread[norm] = float(scores.detach().std(dim=1).mean())
    assert spread["none"] < 1e-3 < 1e-2 < spread["group"]
