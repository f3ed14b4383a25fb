"""The likeliest negatives: as many regions as torchvision draws, and of the negative ones the first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detector_losses import AT, bags_for, images_for, losses_and_gradients, targets_for
from hypothesis import given
from hypothesis import strategies as st
from small_detectors import made, small_config
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import box_iou

from volattn.models.region_sampler import LikeliestNegatives

LABELS = st.lists(
    st.lists(st.integers(-1, 2), max_size=40).map(lambda row: torch.tensor(row).long()), max_size=3
)


@given(LABELS, st.integers(2, 30), st.floats(0.05, 1))
def test_as_many_as_torchvision_draws(labels: list[Tensor], samples: int, share: float) -> None:
    ours = LikeliestNegatives(samples, share)(labels)
    theirs = BalancedPositiveNegativeSampler(samples, share)(labels)
    for mine, other in zip(ours, theirs, strict=True):
        assert [one.sum().item() for one in mine] == [one.sum().item() for one in other]


@given(LABELS, st.integers(2, 30), st.floats(0.05, 1))
def test_positives_are_positive_and_negatives_the_first(
    labels: list[Tensor], samples: int, share: float
) -> None:
    for row, positive, negative in zip(labels, *LikeliestNegatives(samples, share)(labels), strict=True):
        assert (row[positive] > 0).all()
        assert torch.equal(torch.where(negative)[0], torch.where(row == 0)[0][: int(negative.sum())])


@pytest.mark.parametrize("name", ["mask_rcnn", "faster_rcnn", "improved_rfcn"])
def test_a_detector_learns_from_the_proposals_that_it_is_surest_of(name: str) -> None:
    changes = {"regions": {"negatives": "likeliest"}, "proposals": {"after_nms": [60, 60]}}
    config = small_config(name=name, changes=changes)
    model = made(config)
    seen: dict[str, Any] = {}

    def filtered(*arguments: Any) -> Any:
        seen["boxes"], seen["scores"] = filter_proposals(*arguments)
        return seen["boxes"], seen["scores"]

    def pooled(module: Any, arguments: Any) -> None:
        seen["regions"] = arguments[1]

    filter_proposals, model.rpn.filter_proposals = model.rpn.filter_proposals, filtered
    model.roi_heads.box_roi_pool.register_forward_pre_hook(pooled)
    losses_and_gradients(model, images_for(config), bags_for(config), AT)
    for boxes, scores, regions, target in zip(
        seen["boxes"], seen["scores"], seen["regions"], targets_for(config), strict=True
    ):
        assert (scores.diff() <= 0).all()
        background = ~(box_iou(boxes, target["boxes"]) >= config.regions.iou).any(dim=1)
        taken = (boxes[:, None] == regions).all(dim=-1).any(dim=1) & background
        count = int(taken.sum())
        assert 0 < count < int(background.sum())
        assert torch.equal(torch.where(taken)[0], torch.where(background)[0][:count])
