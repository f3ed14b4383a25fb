"""The U-Net of 2015 with unpadded convolutions, as Christ et al. use it twice."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 5
MARGIN = 92
"""Pixels that the unpadded convolutions take from each side."""
_GRID = 16
_LEAST = 4
"""Outputs have 16 k + 4 pixels a side, so that every pooling meets an even number."""


class PlainUNet(nn.Module):
    """Unpadded 3x3 convolutions, 2x2 up-convolutions, crop and concatenation; no norm.

    The image is mirrored beyond its edges, as Christ et al. do before the network, so that the output has its size.

    Args:
        slices: S, input channels.
        outputs: Classes, with the background.
        width: Channels at full resolution; 64 is the published network.
        dropout: At the two coarsest levels.
    """

    def __init__(self, slices: int, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.encoder = nn.ModuleList(
            _two_convolutions(inputs, count)
            for inputs, count in zip([slices, *widths[:-1]], widths, strict=True)
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
        nn.Conv2d(inputs, outputs, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3),
        nn.ReLU(inplace=True),
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
