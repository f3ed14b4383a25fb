"""Small models that every test of a detector can afford."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from volattn.models.bag_backbone import BagBackbone
from volattn.models.catalogue import build_model
from volattn.models.config import AttentionConfig, BackboneConfig, ModelConfig, ProposalConfig, RegionConfig

CLASSES = ("liver", "lesion")


def small_config(bag: int = 5, **attention: Any) -> ModelConfig:
    """A Mask R-CNN of a quarter of a million weights for 64 px."""
    return ModelConfig(
        bag=bag,
        mean=(0.5,),
        std=(0.25,),
        attention=AttentionConfig(**{"reduction": 4, **attention}),
        backbone=BackboneConfig(
            name="resnet18", norm="group", frozen_stages=0, width=16, stages=3, pyramid_channels=16
        ),
        proposals=ProposalConfig(anchor_sizes=((8.0,), (16.0,), (32.0,), (64.0,)), after_nms=(40, 40)),
        regions=RegionConfig(samples=16, box_channels=32, mask_layers=(16,), score=0.0, detections=20),
    )


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Gates start all but open: tests of the context need them to let it through."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention." in name and ".gate." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def made(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> BagBackbone:
    torch.manual_seed(seed)
    model = build_model(config, CLASSES).to(dtype)
    randomise(model, seed)
    return model


def targets_of(count: int, side: int = 64, dtype: torch.dtype = torch.float64) -> list[dict[str, Tensor]]:
    """One organ and one lesion per target; every third target is empty."""
    found = []
    for index in range(count):
        masks = torch.zeros(2, side, side, dtype=torch.uint8)
        masks[0, 10 : 40 + index, 12:50] = 1
        masks[1, 15 + index : 24 + index, 20:30] = 1
        boxes = torch.tensor([[12, 10, 50, 40 + index], [20, 15 + index, 30, 24 + index]], dtype=dtype)
        keep = 0 if index % 3 == 2 else 2
        found.append({"boxes": boxes[:keep], "labels": torch.tensor([1, 2])[:keep], "masks": masks[:keep]})
    return found


def images_of(count: int = 8, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
