"""Backbones: torchvision's ResNets and timm's networks with a feature pyramid, and VGG-16 with one map."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from volattn.io.names import shown
from volattn.models.config import BackboneConfig, DeformableConfig, ResNetConfig


def norm_layer(config: ResNetConfig) -> Callable[[int], nn.Module] | None:
    """Makes the norm of so many channels; None if the network has none."""
    norms = {"none": None, "group": group_norm, "frozen": partial(FrozenBatchNorm2d, eps=config.norm_eps)}
    return norms[config.norm]


def group_norm(channels: int) -> nn.GroupNorm:
    """8 channels a group where they divide: one group would tie a small network's channels together."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


def replace_batch_norms(network: nn.Module, norm: Callable[[int], nn.Module] = group_norm) -> None:
    """Puts another norm, with the same activation if it has one, in the place of every batch norm of a library."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            above, _, own = name.rpartition(".")
            activation = getattr(module, "act", None)  # timm's batch norms can hold one.
            parts = (norm(module.num_features), *(() if activation is None else (activation,)))
            setattr(network.get_submodule(above), own, parts[0] if len(parts) == 1 else nn.Sequential(*parts))


class DeformableConv(DeformConv2d):
    """A convolution that reads each of its taps from a place that it learns.

    Offsets, and the weights of the modulated one, come from a convolution of the same shape that starts at zero: the
    module then is the plain convolution, up to float rounding. Its own weight has the plain one's name. The plain
    convolution is square and padded to keep the size; its weight is taken over.
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
    """Replaces the 3x3 convolutions in some stages of a ResNet with torchvision's names, in place."""
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
    """VGG-16 up to conv5_3 without the fourth pooling: one map of stride 8, as the older lesion detectors use it.

    Names are torchvision's (`vgg16_bn`'s with a norm). The fourth and fifth block both have 8 times the width.
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
                if block < 5 - config.trainable_layers:
                    for module in layers[-3:]:
                        module.requires_grad_(False)
            # Identity in place of the fourth pooling keeps the numbers of the layers behind it.
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


def build_backbone(config: BackboneConfig, slices: int) -> BackboneWithFPN | VGGBackbone | TimmBackbone:
    """A network whose maps have the names `config.levels`, finest first.

    At width 64 and four stages a ResNet is torchvision's, key for key; the offsets of deformable convolutions
    have names of their own.

    Returns:
        A module from (B, S, H, W) to a dict of (B, C, h, w), with `out_channels`.

    Raises:
        ValueError: timm is not installed, has no such network, or the network gives no pyramid.
    """
    if config.single_map:
        return VGGBackbone(config, slices)
    if config.timm is not None:
        return TimmBackbone(config, slices)
    body, widths = resnet_body(config, slices)
    first = config.pyramid_from
    return BackboneWithFPN(
        body,
        return_layers={f"layer{first + place}": level for place, level in enumerate(config.stage_levels)},
        in_channels_list=widths[first - 1 :],
        out_channels=config.pyramid_channels,
        extra_blocks=_pyramid_top(config),
        norm_layer=group_norm if config.norm == "group" else None,
    )


def _pyramid_top(config: BackboneConfig) -> ExtraFPNBlock:
    channels = config.pyramid_channels
    return LastLevelMaxPool() if config.pyramid_top == "pool" else LastLevelP6P7(channels, channels)


class TimmBackbone(nn.Module):
    """Any network of timm that gives maps of strides 4, 8, ... (`features_only`), with a feature pyramid.

    Raises:
        ValueError: timm is not installed, has no such network, or the network gives no such maps.
    """

    def __init__(self, config: BackboneConfig, slices: int) -> None:
        super().__init__()
        name = config.timm
        assert name is not None
        timm = load_timm(config.name)
        strides = config.strides[: len(config.stage_levels)]
        try:
            body = timm.create_model(name, pretrained=False, features_only=True, in_chans=slices)
            info = {one["reduction"]: one for one in body.feature_info.get_dicts()}
        except Exception as error:  # Each family of networks raises its own.
            raise ValueError(
                f"{config.name}: {shown(str(error))}; take a pyramid network of timm.list_models()"
            ) from None
        if not set(strides) <= set(info):
            raise ValueError(
                f"{config.name}: its maps have strides {list(info)}, asked for {list(strides)}; take another network, "
                "or set backbone.stages and backbone.pyramid_from"
            )
        norm = norm_layer(config)
        assert norm is not None
        replace_batch_norms(body, norm)
        reductions = list(info)
        frozen = [place for place, stride in enumerate(reductions) if stride <= 2 ** (5 - config.trainable_layers)]
        if frozen and config.trainable_layers < 5:
            last = info[reductions[frozen[-1]]]["module"].replace(".", "_")
            for child, module in body.named_children():
                module.requires_grad_(False)
                if child == last:
                    break
        self.body = body
        self.taken = [reductions.index(stride) for stride in strides]
        self.widths = [info[stride]["num_chs"] for stride in strides]
        self.levels = config.stage_levels
        self.fpn = FeaturePyramidNetwork(
            self.widths,
            config.pyramid_channels,
            _pyramid_top(config),
            norm_layer=group_norm if config.norm == "group" else None,
        )
        self.out_channels: int = config.pyramid_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, S, H, W) -> maps by level, finest first."""
        maps = self.body(images)
        stages: OrderedDict[str, Tensor] = OrderedDict()
        for level, place, width in zip(self.levels, self.taken, self.widths, strict=True):
            one = maps[place]
            # Some families put the channels last.
            stages[level] = one if one.shape[1] == width else one.permute(0, 3, 1, 2).contiguous()
        return self.fpn(stages)


def load_timm(name: str) -> ModuleType:
    """timm, for a backbone of that name.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return import_module("timm")
    except ModuleNotFoundError:
        raise ValueError(f"{name}: timm is not installed; pip install 'volattn[timm]'") from None


def resnet_body(config: ResNetConfig, slices: int) -> tuple[nn.Sequential, list[int]]:
    """The ResNet without its classifier, under torchvision's names, and the channels of each stage.

    Layers are frozen, and convolutions deformable, as the configuration says.
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
    if isinstance(config, BackboneConfig) and config.deformable is not None:
        make_deformable(body, config.deformable)
    frozen = [body.conv1, body.bn1, *(getattr(body, f"layer{i + 1}") for i in range(config.stages))]
    for module in frozen[: 6 - config.trainable_layers] if config.trainable_layers < 5 else []:
        module.requires_grad_(False)
    return body, widths
