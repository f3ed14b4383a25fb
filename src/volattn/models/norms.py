"""The normalisation of a backbone."""

from __future__ import annotations

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
    """8 channels a group: one group would tie a small network's channels together, one channel is instance norm."""
    return nn.GroupNorm(max(1, channels // 8), channels)
