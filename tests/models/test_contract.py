"""What every detector of the catalogue keeps to."""

from __future__ import annotations

import pytest
import torch
from small_detectors import images_of, made, randomise, small_config, targets_of
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from volattn.models.config import ModelConfig
from volattn.models.rcnn import total

VARIANTS = [
    pytest.param({"kind": kind, "location": location}, id=f"{kind}-{location}")
    for kind, location in (
        ("none", "rpn"),
        ("channel", "rpn"),
        ("spatial", "rpn"),
        ("both", "rpn"),
        ("both", "rcnn"),
    )
]
BAGS = torch.tensor([[0, 0, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7]])
AT = torch.tensor([1, 3, 5])


@pytest.fixture
def images() -> Tensor:
    return images_of()


def bags_for(config: ModelConfig) -> Tensor:
    return BAGS if config.attention.kind != "none" else AT[:, None]


def losses_and_gradients(
    model: torch.nn.Module, images: Tensor, bags: Tensor, at: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.train().zero_grad()
    torch.manual_seed(7)
    losses = model(images, bags, at, targets_of(len(at)))
    total(losses).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return losses, gradients


@pytest.mark.parametrize("attention", VARIANTS)
def test_a_shared_slab_is_the_same_as_bags_of_their_own(attention: dict[str, str], images: Tensor) -> None:
    model = made(small_config(**attention))
    bags = bags_for(model.config)
    shared = losses_and_gradients(model, images, bags, AT)
    own = torch.arange(bags.numel()).view(bags.shape)
    middle = own[:, bags.shape[1] // 2]
    apart = losses_and_gradients(model, images[bags.flatten()], own, middle)
    torch.testing.assert_close(shared[0], apart[0], rtol=1e-5, atol=1e-9)
    assert shared[1].keys() == apart[1].keys()
    for name in shared[1]:
        torch.testing.assert_close(shared[1][name], apart[1][name], rtol=1e-5, atol=1e-9, msg=name)


@pytest.mark.parametrize("attention", VARIANTS)
def test_every_parameter_gets_a_gradient(attention: dict[str, str], images: Tensor) -> None:
    model = made(small_config(**attention))
    _, gradients = losses_and_gradients(model, images, bags_for(model.config), AT)
    assert {name for name, _ in model.named_parameters()} == gradients.keys()
    assert all(torch.isfinite(g).all() for g in gradients.values())
    still = [
        name for name, gradient in gradients.items() if "attention." in name and not gradient.abs().sum()
    ]
    assert not still


@pytest.mark.parametrize("location", ["rpn", "rcnn"])
def test_a_new_model_moves_all_its_attention_in_ten_steps(location: str, images: Tensor) -> None:
    from volattn.models.catalogue import build_model

    torch.manual_seed(0)
    model = build_model(small_config(location=location), ("liver", "lesion")).double()
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "attention." in n}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(10):
        optimiser.zero_grad()
        total(model(images, BAGS, AT, targets_of(3))).backward()
        optimiser.step()
    after = dict(model.named_parameters())
    assert not [name for name in before if torch.equal(before[name], after[name])]


@pytest.mark.parametrize("attention", VARIANTS)
def test_the_context_changes_a_detection(attention: dict[str, str], images: Tensor) -> None:
    model = made(small_config(**attention)).eval()
    bags = bags_for(model.config)
    other = images.clone()
    other[[0, 2]] = images[[0, 2]].flip(-1) * 0.5
    with torch.no_grad():
        here, there = (model(x, bags[:1], AT[:1])[0]["scores"] for x in (images, other))
    same = here.shape == there.shape and torch.equal(here, there)
    assert same == (attention["kind"] == "none")


@pytest.mark.parametrize("attention", VARIANTS)
def test_detections_are_inside_the_image(attention: dict[str, str], images: Tensor) -> None:
    model = made(small_config(**attention)).eval()
    with torch.no_grad():
        attended = model.attend_slab(images, bags_for(model.config), AT)
        found = model.detect(attended, (64, 64))
    assert isinstance(found, list)
    assert len(found) == 3
    for detections in found:
        count = len(detections["scores"])
        assert 0 < count <= 20
        assert detections["boxes"].shape == (count, 4)
        assert detections["masks"].shape == (count, 1, 28, 28)
        assert detections["boxes"].min() >= 0
        assert detections["boxes"].max() <= 64
        assert set(detections["labels"].tolist()) <= {1, 2}
        assert ((detections["masks"] >= 0) & (detections["masks"] <= 1)).all()
    for name, weights in attended.weights.items():
        assert weights.shape == bags_for(model.config).shape, name
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3).double())
    assert bool(attended.weights) == (attention["kind"] != "none")


@pytest.mark.parametrize("location", ["rpn", "rcnn"])
def test_one_image_in_the_bag_is_a_gate_without_context(location: str, images: Tensor) -> None:
    model = made(small_config(bag=1, location=location)).eval()
    with torch.no_grad():
        alone = model(images[:1], torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        beside = model(images, torch.tensor([[0]]), torch.tensor([0]))
    torch.testing.assert_close(alone[0], beside[0])


@pytest.mark.parametrize("mode", ["checkpoint", "none"])
def test_context_gradients_change_no_loss(mode: str, images: Tensor) -> None:
    full = losses_and_gradients(made(small_config()), images, BAGS, AT)
    other = losses_and_gradients(made(small_config(context_grad=mode)), images, BAGS, AT)
    torch.testing.assert_close(full[0], other[0])
    if mode == "checkpoint":
        torch.testing.assert_close(full[1], other[1])
    else:
        name = "backbone.body.conv1.weight"
        assert not torch.allclose(full[1][name], other[1][name])


def test_slabs_without_any_object_train(images: Tensor) -> None:
    model = made(small_config()).train()
    empty = {
        "boxes": torch.zeros(0, 4).double(),
        "labels": torch.zeros(0, dtype=torch.long),
        "masks": torch.zeros(0, 64, 64, dtype=torch.uint8),
    }
    loss = total(model(images, BAGS, AT, [empty] * 3))
    loss.backward()
    assert torch.isfinite(loss)


def test_one_pixel_boxes_train(images: Tensor) -> None:
    model = made(small_config()).train()
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 5, 6] = 1
    target = {"boxes": torch.tensor([[6.0, 5, 7, 6]]).double(), "labels": torch.tensor([2]), "masks": masks}
    assert torch.isfinite(total(model(images, BAGS[:1], AT[:1], [target])))


def test_without_attention_it_is_torchvisions_mask_rcnn(images: Tensor) -> None:
    config = small_config(kind="none")
    ours = made(config).eval()
    backbone = ours.backbone
    assert isinstance(backbone, BackboneWithFPN)
    theirs = MaskRCNN(
        backbone,
        min_size=64,
        max_size=64,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(
            config.proposals.anchor_sizes, (config.proposals.anchor_ratios,) * 4
        ),
        rpn_post_nms_top_n_test=40,
        box_head=TwoMLPHead(16 * 49, 32),
        box_predictor=FastRCNNPredictor(32, 3),
        box_score_thresh=0.0,
        box_detections_per_img=20,
        mask_head=MaskRCNNHeads(16, (16,), 1),
        mask_predictor=MaskRCNNPredictor(16, 16, 3),
    )
    theirs.roi_heads.box_roi_pool.featmap_names = ["0", "1", "2"]
    theirs.roi_heads.mask_roi_pool.featmap_names = ["0", "1", "2"]
    theirs.load_state_dict(ours.state_dict())
    theirs = theirs.double().eval()
    with torch.no_grad():
        mine = ours(images[:2], torch.tensor([[0], [1]]), torch.tensor([0, 1]))
        other = theirs(list(images[:2]))
    for a, b in zip(mine, other, strict=True):
        pasted = paste_masks_in_image(a["masks"], a["boxes"], (64, 64))
        for key, value in (*((k, a[k]) for k in ("boxes", "labels", "scores")), ("masks", pasted)):
            torch.testing.assert_close(value, b[key])


def test_bags_of_any_odd_size() -> None:
    for size in (1, 3, 9, 11):
        model = made(small_config(bag=size)).eval()
        images = torch.rand(size, 3, 64, 64).double()
        with torch.no_grad():
            found = model(images, torch.arange(size)[None], torch.tensor([size // 2]))
        assert len(found) == 1
    with pytest.raises(ValueError, match="bag must be odd"):
        small_config(bag=4)


def test_randomised_gates_are_part_of_these_tests() -> None:
    model = made(small_config())
    before = {n: p.clone() for n, p in model.named_parameters() if "gate" in n}
    randomise(model, seed=1)
    assert before
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters() if n in before)
