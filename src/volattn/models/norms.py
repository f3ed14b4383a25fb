"""The normalisation of a backbone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from volattn.models.config import BackboneConfig


def norm_layer(config: BackboneConfig) -> Callable[[int], nn.Module] | None:
    """Makes the norm of so many channels; None if the network has none."""
    if config.norm == "none":
        return None
    return group_norm if config.norm == "group" else partial(FrozenBatchNorm2d, eps=config.norm_eps)


def group_norm(channels: int) -> nn.GroupNorm:
    """8 channels a group where they divide: one group would tie a small network's channels together."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


def batch_to_group_norm(network: nn.Module) -> None:
    """Puts GroupNorm in the place of every batch norm of a library's network."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            above, _, own = name.rpartition(".")
            setattr(network.get_submodule(above), own, group_norm(module.num_features))
