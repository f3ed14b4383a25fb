"""VGG-16 up to conv5_3 without the fourth pooling: one map of stride 8, as the older lesion detectors use it."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from volattn.models.config import BackboneConfig
from volattn.models.norms import norm_layer

_DEPTHS = (2, 2, 3, 3, 3)
_POOLED = 3
"""Blocks that end in a pooling."""


class VGGBackbone(nn.Module):
    """VGG-16's convolutions under torchvision's names (`vgg16_bn`'s with a norm).

    Args:
        config: The network; the fourth and fifth block both have 8 times its width.
        slices: S, the input channels.
    """

    def __init__(self, config: BackboneConfig, slices: int) -> None:
        super().__init__()
        norm = norm_layer(config)
        layers: list[nn.Module] = []
        inputs = slices
        for block, depth in enumerate(_DEPTHS):
            outputs = config.width * min(2**block, 8)
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                if norm is not None:
                    layers.insert(-1, norm(outputs))
                inputs = outputs
                if block < config.frozen_stages:
                    for module in layers[-3:]:
                        module.requires_grad_(False)
            # What stands for the fourth pooling keeps the numbers of the layers behind it.
            layers += [nn.MaxPool2d(2) if block < _POOLED else nn.Identity()]
        for module in layers:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.body = nn.Sequential(OrderedDict(features=nn.Sequential(*layers)))
        self.out_channels: int = inputs

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, S, H, W) -> {"0": (B, C, H/8, W/8)}."""
        return OrderedDict({"0": self.body(images)})
