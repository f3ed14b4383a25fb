"""Han's 2.5D network (arXiv 1704.07239): a U-Net of residual blocks, 32 convolutions deep."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volattn.models.norms import group_norm

LEVELS = 5
"""Resolutions, each half of the one before."""


class ConvNormPReLU(nn.Sequential):
    """A 3x3 convolution, its norm and PReLU.

    The paper has batch norm; GroupNorm stands for it, so that no target depends on what shares its batch.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            group_norm(outputs),
            nn.PReLU(outputs),
        )


class ResidualBlock(nn.Module):
    """Two convolutions and the short connection around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNormPReLU(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), group_norm(channels)
        )
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

    Args:
        slices: S, input channels.
        outputs: Classes, with the background.
        width: Channels at full resolution; 64 is the published network.
    """

    def __init__(self, slices: int, outputs: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.stem = ConvNormPReLU(slices, width)
        self.encoder = nn.ModuleList(ResidualBlock(count) for count in widths)
        self.halve = nn.ModuleList(
            ConvNormPReLU(fine, coarse, stride=2) for fine, coarse in itertools.pairwise(widths)
        )
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
