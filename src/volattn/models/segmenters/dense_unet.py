"""H-DenseUNet (Li et al. 2018): a 2D DenseUNet on every slice, a 3D DenseUNet on the block, and their fusion.

Layers as in the authors' released code. GroupNorm in place of batch norm, so that no target depends on what shares its
batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import DenseNet

from volattn.config import Channels, Config, Kernel
from volattn.models.backbones import group_norm, replace_batch_norms
from volattn.models.config import BLOCK_SLICES
from volattn.models.segmenters.unet_3d import (
    BlockConfig,
    BlockSegmentationConfig,
    BlockSegmenter,
    cropped_to,
    padded_to,
)

_BOTTLENECK = 4
_GRID = 32


class HybridConfig(Config):
    """The two networks of H-DenseUNet, at 167 and 65 layers as published.

    Attributes:
        growth: Channels that a layer adds, in the 2D and in the 3D network.
        blocks: Layers of the 2D network's dense blocks.
        last: Channels of both networks' last maps, which are added.
        dropout: Share of the last maps that are left out in training.
    """

    stem: Channels = Field(96, ge=8, multiple_of=8)
    growth: tuple[Channels, Channels] = (48, 32)
    blocks: tuple[Kernel, Kernel, Kernel, Kernel] = (6, 12, 36, 24)
    volume_blocks: tuple[Kernel, Kernel, Kernel, Kernel] = (3, 4, 12, 8)
    last: Channels = Field(64, ge=4)
    dropout: float = Field(0.3, ge=0, lt=1)


class HybridSegmentationConfig(BlockSegmentationConfig):
    """See `BlockSegmentationConfig`."""

    hybrid: HybridConfig = HybridConfig()


class HybridDenseUNetConfig(BlockConfig):
    """H-DenseUNet."""

    summary: ClassVar[str] = "a 2D DenseUNet on every slice of the block, a 3D one on the block, fused"

    name: Literal["h_dense_unet"] = "h_dense_unet"
    slices: Literal[5] = 5
    segmentation: HybridSegmentationConfig = HybridSegmentationConfig()


class DenseUNet(nn.Module):
    """The 2D DenseUNet: torchvision's DenseNet, and a decoder that adds skip connections instead of joining them.

    With growth 48 and blocks of 6, 12, 36 and 24 layers it is the published DenseUNet-167 on DenseNet-161.

    Args:
        skips: Whether there are skip connections: in the paper and in the 2D network, not in the released hybrid.
    """

    def __init__(self, config: HybridConfig, outputs: int, *, skips: bool) -> None:
        super().__init__()
        growth = config.growth[0]
        dense = DenseNet(growth, config.blocks, config.stem, _BOTTLENECK, num_classes=1)
        self.encoder = dense.features
        replace_batch_norms(self.encoder)
        ends = _ends(config.stem, growth, config.blocks)
        self.skip = nn.Conv2d(ends[2], ends[3], 1) if skips else None
        widths = (ends[3], ends[1], ends[0], config.stem, config.stem, config.last)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, count, 3, padding=1), group_norm(count), nn.ReLU(inplace=True))
            for inputs, count in itertools.pairwise(widths)
        )
        self.dropout = nn.Dropout2d(config.dropout)
        self.head = nn.Conv2d(config.last, outputs, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> the last maps (B, c, H, W) and the scores (B, outputs, H, W)."""
        size = images.shape[-2:]
        more = [-side % _GRID for side in size]
        maps = F.pad(images, (0, more[1], 0, more[0]), mode="replicate")
        kept: dict[str, Tensor] = {}
        for name, module in self.encoder.named_children():
            maps = module(maps)
            kept[name] = maps
        skips: list[Tensor | None] = [None] * len(self.decoder)
        if self.skip is not None:
            third = self.skip(kept["denseblock3"])
            skips = [third, kept["denseblock2"], kept["denseblock1"], kept["relu0"], None]
        maps = F.relu(maps)
        for skip, block in zip(skips, self.decoder, strict=True):
            maps = F.interpolate(maps, scale_factor=2, mode="nearest")
            maps = block(maps if skip is None else maps + skip)
        maps = self.dropout(maps)[..., : size[0], : size[1]]
        return maps, self.head(maps)


class DenseUNet3D(nn.Module):
    """The 3D DenseUNet-65 of the hybrid: pooled four times in z, 32 times in plane, without skip connections."""

    def __init__(self, config: HybridConfig, inputs: int) -> None:
        super().__init__()
        growth, stem = config.growth[1], config.stem
        layers: list[nn.Module] = [
            nn.Conv3d(inputs, stem, 7, stride=2, padding=3, bias=False),
            group_norm(stem),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, stride=2, padding=1),
        ]
        channels = stem
        for number, depth in enumerate(config.volume_blocks):
            if number:
                layers.append(_transition(channels, channels // 2))
                channels //= 2
            layers += [_DenseLayer3D(channels + growth * place, growth) for place in range(depth)]
            channels += growth * depth
        self.encoder = nn.Sequential(*layers, group_norm(channels), nn.ReLU(inplace=True))
        ends = _ends(stem, growth, config.volume_blocks)
        widths = (channels, channels, ends[1], ends[0], stem, config.last)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv3d(before, after, 3, padding=1), group_norm(after), nn.ReLU(inplace=True))
            for before, after in itertools.pairwise(widths)
        )

    def forward(self, block: Tensor) -> Tensor:
        """(M, c, z, y, x) -> (M, c', z, y, x)."""
        maps = self.encoder(padded_to(block, (4, _GRID, _GRID)))
        for number, layer in enumerate(self.decoder):
            enlarged = (1.0, 2.0, 2.0) if number < 3 else (2.0, 2.0, 2.0)
            maps = layer(F.interpolate(maps, scale_factor=enlarged, mode="nearest"))
        return cropped_to(maps, block.shape[-3:])


class TripleEncoder(nn.Module):
    """The 2D network on each of the middle 3 slices of an image of 5, each with its neighbours."""

    def __init__(self, network: DenseUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 5, H, W) -> "ct" (B, 3, H, W), "maps" (B, 3 c, H, W) and "scores" (B, 3 x outputs, H, W)."""
        triples = torch.cat([images[:, first : first + 3] for first in range(BLOCK_SLICES)])
        maps, scores = self.network(triples)
        return {
            "ct": images[:, 1:-1],
            "maps": torch.cat(maps.chunk(BLOCK_SLICES), dim=1),
            "scores": torch.cat(scores.chunk(BLOCK_SLICES), dim=1),
        }


class HybridDenseUNet(BlockSegmenter):
    """H-DenseUNet: the 3D network reads the CT and the 2D scores; both networks' last maps are added and classified.

    The published code multiplies the scores by 250, the scale of its HU; here both have a scale near 1.
    """

    def __init__(self, config: HybridDenseUNetConfig, classes: int) -> None:
        settings = config.segmentation.hybrid
        super().__init__(config, TripleEncoder(DenseUNet(settings, classes + 1, skips=False)), classes)
        self.network = DenseUNet3D(settings, classes + 2)
        self.fusion = nn.Sequential(
            nn.Conv3d(settings.last, settings.last, 3, padding=1),
            nn.Dropout3d(settings.dropout),
            group_norm(settings.last),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Conv3d(settings.last, classes + 1, 1)

    def volume(self, block: Mapping[str, Tensor]) -> Tensor:
        deep = self.network(torch.cat([block["ct"], block["scores"]], dim=1))
        return self.head(self.fusion(deep + block["maps"]))


class _DenseLayer3D(nn.Module):
    """A bottleneck of 1x1x1 and 3x3x3, norm and ReLU before each; its output is joined to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        narrow = _BOTTLENECK * growth
        self.layers = nn.Sequential(
            group_norm(inputs),
            nn.ReLU(inplace=True),
            nn.Conv3d(inputs, narrow, 1, bias=False),
            group_norm(narrow),
            nn.ReLU(inplace=True),
            nn.Conv3d(narrow, growth, 3, padding=1, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, self.layers(maps)], dim=1)


def _transition(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        group_norm(inputs), nn.ReLU(inplace=True), nn.Conv3d(inputs, outputs, 1, bias=False), nn.AvgPool3d((1, 2, 2))
    )


def _ends(stem: int, growth: int, blocks: tuple[int, int, int, int]) -> list[int]:
    """Channels at the end of each block; between them they are halved."""
    ends, channels = [], stem
    for depth in blocks:
        channels += growth * depth
        ends.append(channels)
        channels //= 2
    return ends
