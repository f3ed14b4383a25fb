"""From boxes on slices to lesions in a volume: boxes that follow each other through z are one lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from volattn.inference.stitch import Best, class_boxes
from volattn.inference.stream import SliceReader, SliceResult
from volattn.structures.boxes import box_overlap

LEAST_OVERLAP = 0.5
"""Two boxes on nearby slices are of one lesion if they share so much of the smaller one. Not of both, as their IoU has
it: towards its poles a lesion's boxes shrink fast. Of 70 lesions of 12 phantoms, boxed without fault on every slice, an
IoU of 0.3 broke 42; this breaks none and joins none, also with ends that are off by a tenth of the side."""

GAP_MM = 5.0
"""How far apart two slices may be whose boxes are linked: a lesion may be missed between them. Neighbours always are
near."""


@dataclass(frozen=True, eq=False)
class Chain:
    """The boxes (n, 4) of one lesion, xyxy in input pixels, by their prepared slices z (n,), ascending.

    The best has the highest score; of equals it is that of the lowest slice.
    """

    z: NDArray[np.int64]
    boxes: NDArray[np.float64]
    best: Best


class Linker:
    """Collects the slices' detections of lesions and links them.

    Boxes that reach the threshold are linked where their slices are near and they overlap; what is linked,
    directly or through others, is one lesion, as with the connected parts of masks.

    Args:
        step: Distance between the slices, mm.
    """

    def __init__(self, label: int, threshold: float, step: float) -> None:
        self.label = label
        self.threshold = threshold
        self.reach = max(1, int(GAP_MM / step + 1e-6))
        self._boxes: list[NDArray[np.float32]] = []
        self._scores: list[NDArray[np.float32]] = []
        self._slices: list[int] = []
        self._weights: dict[int, dict[str, NDArray[np.float32]]] = {}

    def add(self, z: int, found: SliceResult) -> None:
        """Takes what was found in prepared slice `z`, once; the order of the slices is free."""
        boxes, scores = class_boxes(found, self.label)
        chosen = scores >= self.threshold
        self._boxes.append(boxes[chosen])
        self._scores.append(scores[chosen])
        self._slices += [z] * int(chosen.sum())
        self._weights[z] = found.weights

    def finish(self) -> list[Chain]:
        """The lesions, those with the highest scores first."""
        order = np.argsort(self._slices, kind="stable")
        z = np.array(self._slices, np.int64)[order]
        boxes = np.concatenate([np.zeros((0, 4)), *self._boxes])[order]
        scores = np.concatenate([np.zeros(0), *self._scores])[order]
        count, numbers = self._components(z, boxes)
        chains = []
        for group in (np.flatnonzero(numbers == number) for number in range(count)):
            place = group[np.argmax(scores[group])]
            best = Best(float(scores[place]), int(z[place]), self._weights[int(z[place])])
            chains.append(Chain(z[group], boxes[group], best))
        return sorted(chains, key=lambda chain: (-chain.best.score, chain.best.z, *chain.boxes[0]))

    def _components(self, z: NDArray[np.int64], boxes: NDArray[np.float64]) -> tuple[int, NDArray[np.int64]]:
        """How many lesions there are, and (n,) whose each box is."""
        starts = np.searchsorted(z, z + 1)
        stops = np.searchsorted(z, z + self.reach, side="right")
        pairs: list[tuple[int, int]] = []
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            if stop > start:
                overlaps = box_overlap(boxes[row : row + 1], boxes[start:stop])[0]
                pairs += [(row, start + other) for other in np.flatnonzero(overlaps >= LEAST_OVERLAP).tolist()]
        first, second = np.array(pairs, np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(len(pairs), bool), (first, second)), shape=(len(z), len(z)))
        return connected_components(graph, directed=False)


def paint_boxes(boxes: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """(H, W) with the number of each box (n, 4), xyxy in pixels, from 1, in it; where several lie, the first."""
    painted = np.zeros(shape, np.uint16)
    for number in range(len(boxes), 0, -1):
        x0, y0, x1, y1 = np.rint(boxes[number - 1]).astype(int).tolist()
        painted[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = number
    return painted


def paint_chains(chains: Sequence[Chain], reader: SliceReader) -> NDArray[np.uint16]:
    """(Z, H, W) in canonical axes with the number of each chain, from 1, in the boxes of its slices.

    A slice of the CT shows the boxes of the prepared slice that is nearest to it. Where chains overlap, the first has
    the pixels.
    """
    painted = np.zeros(reader.canonical.shape, np.uint16)
    lower, upper, weight = reader.resampled.back()
    prepared = np.where(weight > 0.5, upper, lower)
    for number, chain in reversed(list(enumerate(chains, start=1))):
        boxes = np.rint(reader.pixels(chain.boxes)).astype(int)
        for z, (x0, y0, x1, y1) in zip(chain.z.tolist(), boxes.tolist(), strict=True):
            painted[prepared == z, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = number
    return painted
