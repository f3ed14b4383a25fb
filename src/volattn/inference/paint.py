"""Boxes as filled rectangles in an array: what pictures outline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from volattn.inference.link import Chain
from volattn.inference.reader import SliceReader


def paint_boxes(boxes: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """(H, W) with the number of each box, from 1, in its pixels; where several lie, the first.

    Args:
        boxes: (n, 4) xyxy, half-open, in pixels.
        shape: (H, W).
    """
    painted = np.zeros(shape, np.uint16)
    for number in range(len(boxes), 0, -1):
        x0, y0, x1, y1 = np.rint(boxes[number - 1]).astype(int).tolist()
        painted[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = number
    return painted


def paint_chains(chains: Sequence[Chain], reader: SliceReader) -> NDArray[np.uint16]:
    """(Z, H, W) in canonical axes with the number of each chain, from 1, in the boxes of its slices.

    A slice of the CT shows the boxes of the prepared slice that is nearest to it. Where chains overlap, the first has
    the pixels.

    Args:
        chains: The lesions, the most certain first.
        reader: Of the CT.
    """
    painted = np.zeros(reader.canonical.shape, np.uint16)
    lower, upper, weight = reader.back()
    prepared = np.where(weight > 0.5, upper, lower)
    for number, chain in reversed(list(enumerate(chains, start=1))):
        boxes = np.rint(reader.pixels(chain.boxes)).astype(int)
        for z, (x0, y0, x1, y1) in zip(chain.z.tolist(), boxes.tolist(), strict=True):
            painted[prepared == z, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = number
    return painted
