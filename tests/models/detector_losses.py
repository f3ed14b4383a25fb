"""Losses and gradients of the small detectors; run as a program, it writes down their first losses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from small_detectors import detectors, images_of, made, targets_of
from torch import Tensor

from volattn.models.config import ModelConfig
from volattn.models.detectors.rcnn import total

GOLDEN = Path(__file__).with_suffix(".json")
BAGS = torch.tensor([[0, 0, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7]])
AT = torch.tensor([1, 3, 5])


def images_for(config: ModelConfig) -> Tensor:
    return images_of(slices=config.slices)


def bags_for(config: ModelConfig) -> Tensor:
    beside = (BAGS.shape[1] - config.images) // 2
    return BAGS[:, beside : BAGS.shape[1] - beside] if config.images > 1 else AT[:, None]


def targets_for(config: ModelConfig, count: int = 3) -> list[dict[str, Tensor]]:
    """As the model learns from them; all slices of a window show the same objects."""
    targets = targets_of(count)
    if config.output == "label_map":
        return [{"label_map": label_map(one).expand(config.window.slices, -1, -1)} for one in targets]
    wanted = {"boxes", "labels"} | ({"masks"} if config.output == "masks" else set())
    return [{key: one[key] for key in one.keys() & wanted} for one in targets]


def label_map(target: dict[str, Tensor]) -> Tensor:
    """(H, W) uint8: the highest label of the masks at each pixel."""
    marked = target["masks"] * target["labels"][:, None, None]
    return torch.cat([torch.zeros(1, 64, 64), marked]).amax(dim=0).to(torch.uint8)


def losses_and_gradients(
    model: torch.nn.Module, images: Tensor, bags: Tensor, at: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.train().zero_grad()
    torch.manual_seed(7)
    config = model.config
    assert isinstance(config, ModelConfig)
    losses = model(images, bags, at, targets_for(config, len(at)))
    total(losses).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return losses, gradients


def first_losses(config: ModelConfig) -> dict[str, float]:
    """Of a new model with random gates, on fixed images."""
    losses, _ = losses_and_gradients(made(config), images_for(config), bags_for(config), AT)
    return {name: loss.item() for name, loss in losses.items()}


if __name__ == "__main__":
    found = {name: first_losses(config) for name, config in detectors().items()}
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(GOLDEN.read_text(encoding="utf-8"))
