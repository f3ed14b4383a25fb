"""A new model is one file with its configuration class and its builder, and one line in the registry."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
import torch
from detector_losses import label_map
from small_detectors import images_of, targets_of
from torch import Tensor, nn

from volattn.inference.stream import stream
from volattn.models.bag_backbone import Attended
from volattn.models.detectors.rcnn import total
from volattn.models.registry import MODELS, Model, build_model
from volattn.models.segmenters.segmenter import BagSegmenter, SegmenterConfig
from volattn.training.recipe import load_recipe


class ToyConfig(SegmenterConfig):
    summary: ClassVar[str] = "a 1x1 convolution"
    name: Literal["toy"] = "toy"
    width: int = 4


class Toy(BagSegmenter):
    def __init__(self, config: ToyConfig, classes: int) -> None:
        super().__init__(config, nn.Sequential(nn.Conv2d(3, config.width, 1), nn.ReLU()), {}, classes)
        self.head = nn.Conv2d(config.width, classes + 1, 1)

    def logits(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        return self.head(attended.pyramid["0"])

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": self.backbone(images)}


def test_a_toy_model_trains_and_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "toy", Model(ToyConfig, Toy))
    recipe = load_recipe("tiny").updated(["model.name=toy", "model.width=8"])
    model = build_model(recipe.model, ("liver", "lesion"))
    targets = [{"label_map": label_map(one)[None]} for one in targets_of(1)]
    at = torch.zeros(1, dtype=torch.long)
    total(model.train()(images_of().float(), at[:, None], at, targets)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    found = dict(stream(model.eval(), lambda centres: images_of(len(centres)).float(), 2))
    assert [found[z].probabilities.shape for z in (0, 1)] == [(2, 64, 64)] * 2
