"""The normalisation of a backbone.

Deformable convolutions that start as the plain ones they replace.

VGG-16 up to conv5_3 without the fourth pooling: one map of stride 8, as the older lesion detectors use it.

Backbones: ResNet bodies with a feature pyramid, from torchvision's public blocks, and VGG-16.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from volattn.models.config import BackboneConfig, DeformableConfig


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


class DeformableConv(DeformConv2d):
    """A convolution that reads each of its taps from a place that it learns.

    Offsets, and the weights of the modulated one, come from a convolution of the same shape that starts at zero: the
    module then is the plain convolution, up to float rounding. Its own weight has the plain one's name.

    Args:
        plain: The convolution that it replaces, square and padded to keep the size; its weight is taken over.
        modulated: Whether each sampled value is weighed by 2 sigmoid(m).
    """

    def __init__(self, plain: nn.Conv2d, modulated: bool) -> None:
        side, stride, dilation = plain.kernel_size[0], plain.stride[0], plain.dilation[0]
        shape = (side, stride, dilation * (side // 2), dilation)
        super().__init__(
            plain.in_channels, plain.out_channels, *shape, groups=plain.groups, bias=plain.bias is not None
        )
        self.weight, self.bias = plain.weight, plain.bias
        self.taps = side * side
        self.modulated = modulated
        self.offset = nn.Conv2d(plain.in_channels, (3 if modulated else 2) * self.taps, *shape)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        found = self.offset(features)
        # torchvision's kernels know no bfloat16, and places need more than its three digits.
        features, found = features.to(self.weight.dtype), found.to(self.weight.dtype)
        if not self.modulated:
            return super().forward(features, found)
        places, weights = found.split([2 * self.taps, self.taps], dim=1)
        return super().forward(features, places, 2 * torch.sigmoid(weights))


def make_deformable(body: nn.Module, config: DeformableConfig) -> None:
    """Replaces the 3x3 convolutions in some stages of a ResNet, in place.

    Args:
        body: With torchvision's names.
        config: Which stages; 2 is "layer1".
    """
    for stage in config.stages:
        for block in body.get_submodule(f"layer{stage - 1}").children():
            for name in ("conv1", "conv2"):
                plain = getattr(block, name)
                if plain.kernel_size == (3, 3):
                    setattr(block, name, DeformableConv(plain, config.modulated))


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


_BLOCKS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


def build_backbone(config: BackboneConfig, slices: int) -> BackboneWithFPN | VGGBackbone:
    """A network whose maps have the names `config.levels`, finest first.

    At width 64 and four stages a ResNet is torchvision's, key for key; what deformable convolutions have beside their
    weights comes under names of its own.

    Args:
        config: The network.
        slices: S, the input channels.

    Returns:
        A module from (B, S, H, W) to a dict of (B, C, h, w), with `out_channels`.
    """
    if config.single_map:
        return VGGBackbone(config, slices)
    body, widths = resnet_body(config, slices)
    channels = config.pyramid_channels
    top: ExtraFPNBlock = LastLevelMaxPool() if config.pyramid_top == "pool" else LastLevelP6P7(channels, channels)
    first = config.pyramid_from
    return BackboneWithFPN(
        body,
        return_layers={f"layer{first + place}": level for place, level in enumerate(config.stage_levels)},
        in_channels_list=widths[first - 1 :],
        out_channels=channels,
        extra_blocks=top,
        norm_layer=group_norm if config.norm == "group" else None,
    )


def resnet_body(config: BackboneConfig, slices: int) -> tuple[nn.Sequential, list[int]]:
    """The ResNet without its classifier, under torchvision's names, and the channels of each stage.

    Its first stages are frozen, and its convolutions deformable, as the configuration says.
    """
    block, depths = _BLOCKS[config.name]
    norm = norm_layer(config)
    assert norm is not None
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(slices, config.width, 7, stride=2, padding=3, bias=False),
        bn1=norm(config.width),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    inputs, widths = config.width, []
    for stage in range(config.stages):
        planes = config.width * 2**stage
        blocks: list[nn.Module] = []
        for position in range(depths[stage]):
            stride = 2 if stage > 0 and position == 0 else 1
            outputs = planes * block.expansion
            shortcut = None
            if stride != 1 or inputs != outputs:
                shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))
            blocks.append(block(inputs, planes, stride, shortcut, norm_layer=norm))
            inputs = outputs
        parts[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        widths.append(inputs)
    body = nn.Sequential(parts)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if config.deformable is not None:
        make_deformable(body, config.deformable)
    frozen = [body.conv1, body.bn1, *(getattr(body, f"layer{i + 1}") for i in range(config.stages))]
    for module in frozen[: config.frozen_stages + 1] if config.frozen_stages else []:
        module.requires_grad_(False)
    return body, widths
