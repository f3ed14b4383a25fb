"""The U-Net of 2015 with unpadded convolutions, as Christ et al. use it twice, and Han's 2.5D U-Net of residual blocks
(arXiv 1704.07239), 32 convolutions deep."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volattn.models.backbones import group_norm

LEVELS = 5
"""Resolutions, each half of the one before."""
MARGIN = 92
"""Pixels that the unpadded convolutions take from each side."""
_GRID = 16
_LEAST = 4
"""Outputs have 16 k + 4 pixels a side, so that every pooling meets an even number."""


class PlainUNet(nn.Module):
    """Unpadded 3x3 convolutions, 2x2 up-convolutions, crop and concatenation; no norm.

    The image is mirrored beyond its edges, as Christ et al. do before the network, so that the output has its size.

    Args:
        dropout: At the two coarsest levels.
    """

    def __init__(self, slices: int, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.encoder = nn.ModuleList(
            _two_convolutions(inputs, count) for inputs, count in zip([slices, *widths[:-1]], widths, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        coarse_first = widths[::-1]
        steps = list(itertools.pairwise(coarse_first))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for coarse, fine in steps)
        self.decoder = nn.ModuleList(_two_convolutions(coarse, fine) for coarse, fine in steps)
        self.head = nn.Conv2d(width, outputs, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, S, H, W) -> (B, outputs, H, W)."""
        height, width = images.shape[-2:]
        maps = _mirrored(images)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            maps = block(maps if level == 0 else F.max_pool2d(maps, 2))
            if level >= LEVELS - 2:
                maps = self.dropout(maps)
            skips.append(maps)
        maps = skips.pop()
        for enlarge, block in zip(self.enlarge, self.decoder, strict=True):
            maps = enlarge(maps)
            maps = block(torch.cat([_middle(skips.pop(), maps), maps], dim=1))
        return self.head(maps)[..., :height, :width]


def _two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3), nn.ReLU(inplace=True), nn.Conv2d(outputs, outputs, 3), nn.ReLU(inplace=True)
    )


def _mirrored(images: Tensor) -> Tensor:
    """The image with its margin, and a little more at the far sides where its size needs it."""
    height, width = images.shape[-2:]
    more = [(_LEAST - side) % _GRID for side in (width, height)]
    sides = (MARGIN, MARGIN + more[0], MARGIN, MARGIN + more[1])
    # Nothing smaller than its margin can be mirrored.
    mode = "reflect" if min(height, width) > max(sides) else "replicate"
    return F.pad(images, sides, mode=mode)


def _middle(skip: Tensor, maps: Tensor) -> Tensor:
    """The part of a skip connection that the coarser maps reach."""
    top, left = ((skip.shape[axis] - maps.shape[axis]) // 2 for axis in (-2, -1))
    return skip[..., top : top + maps.shape[-2], left : left + maps.shape[-1]]


class ConvNormPReLU(nn.Sequential):
    """A 3x3 convolution, its norm and PReLU.

    The paper has batch norm; here it is GroupNorm, so that no target depends on what shares its batch.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), group_norm(outputs), nn.PReLU(outputs)
        )


class ResidualBlock(nn.Module):
    """Two convolutions and the short connection around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNormPReLU(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), group_norm(channels))
        self.activation = nn.PReLU(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return self.activation(maps + self.second(self.first(maps)))


class ResidualUNet(nn.Module):
    """Adjacent slices in, class scores of the middle one out.

    Of the published network these are confirmed: 32 layers of 3x3 convolutions, residual blocks, the concatenations
    of a U-Net, and 128 channels at half the resolution. The other widths, and where the layers sit, are a choice:
    1 at the input, 2 in each of 5 encoder blocks, 4 that halve, 4 x (1 after enlarging, 1 after the concatenation, 2
    in the block) in the decoder, 1 (1x1) at the end.
    """

    def __init__(self, slices: int, outputs: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.stem = ConvNormPReLU(slices, width)
        self.encoder = nn.ModuleList(ResidualBlock(count) for count in widths)
        self.halve = nn.ModuleList(ConvNormPReLU(fine, coarse, stride=2) for fine, coarse in itertools.pairwise(widths))
        coarse_first = widths[::-1]
        steps = list(itertools.pairwise(coarse_first))
        self.enlarge = nn.ModuleList(ConvNormPReLU(coarse, fine) for coarse, fine in steps)
        self.join = nn.ModuleList(ConvNormPReLU(2 * fine, fine) for _, fine in steps)
        self.decoder = nn.ModuleList(ResidualBlock(fine) for _, fine in steps)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, S, H, W) -> (B, outputs, H, W)."""
        maps = self.encoder[0](self.stem(images))
        skips: list[Tensor] = []
        for halve, block in zip(self.halve, list(self.encoder)[1:], strict=True):
            skips.append(maps)
            maps = block(halve(maps))
        for enlarge, join, block in zip(self.enlarge, self.join, self.decoder, strict=True):
            skip = skips.pop()
            maps = enlarge(F.interpolate(maps, size=skip.shape[-2:], mode="nearest"))
            maps = block(join(torch.cat([skip, maps], dim=1)))
        return self.head(maps)
