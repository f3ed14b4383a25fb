"""Backbones: ResNet bodies with a feature pyramid, from torchvision's public blocks, and VGG-16."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from volattn.models.config import BackboneConfig
from volattn.models.deformable import make_deformable
from volattn.models.norms import group_norm, norm_layer
from volattn.models.vgg import VGGBackbone

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
    top: ExtraFPNBlock = (
        LastLevelMaxPool() if config.pyramid_top == "pool" else LastLevelP6P7(channels, channels)
    )
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
                shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs)
                )
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
