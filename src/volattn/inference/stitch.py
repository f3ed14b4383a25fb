"""From the detections of slices to a label map on the input's grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import BACKGROUND, LESION, ORGAN
from volattn.inference.stream import SliceDetections
from volattn.preprocessing.prepared import ZWeights
from volattn.slabs.images import input_shape
from volattn.structures.lesions import component_sizes, label_components, largest_component

ORGAN_SCORE = 0.5
"""Organ detections below this score are dropped. (The lesion's threshold is chosen in validation.)"""

MASK_PROBABILITY = 0.5
"""Where a mask begins."""

_ONE = 65534
"""Probability 1 as an integer. The two shares of a voxel are rounded to 65535 at most; sums of integers do
not depend on the order in which the passes of the stream come."""
_HALF = _ONE // 2
# A voxel at the cut has a share rounded up: the masks behind it reach all but this.
_COVERS = MASK_PROBABILITY - 2 / _ONE


class Patch(NamedTuple):
    """A mask on a slice's grid.

    Attributes:
        rows: Where.
        columns: Where.
        values: Probabilities there, float32; outside they are 0.
    """

    rows: slice
    columns: slice
    values: NDArray[np.float32]


def paste(
    mask: NDArray[np.floating],
    box: NDArray[np.floating],
    shape: tuple[int, int],
    filled: tuple[int, int],
    offset: float = 0.5,
) -> Patch:
    """Puts a detection's mask on a slice's own grid: the way back through mask head and `to_input`.

    Pixel p of the slice lies at ((p + 0.5) * scale) of the input, measured from its edge, scale being
    `filled` over `shape` along each side. Inside the box the mask is read bilinearly at that place, outside
    it is 0. Cell i of the m cells along a side of the mask stands for x0 + (i + 0.5) * side / m + offset.
    torchvision draws the reference masks of training with `roi_align(aligned=False)`, which counts from pixel
    centres, half a pixel further than edges: its offset is 0.5. A segmenter's cells are pixels: 0. One
    continuous step, without a canvas at the input's size and without boxes rounded to pixels.

    Args:
        mask: (m, m') probabilities.
        box: xyxy, input pixels.
        shape: (H, W) of the slice.
        filled: How many rows and columns of the input the slice fills.
        offset: Of the mask's cells, input pixels.
    """
    rows, along_y = _sampling(float(box[1]), float(box[3]), shape[0], filled[0], mask.shape[0], offset)
    columns, along_x = _sampling(float(box[0]), float(box[2]), shape[1], filled[1], mask.shape[1], offset)
    return Patch(rows, columns, along_y @ mask.astype(np.float32) @ along_x.T)


def _sampling(
    start: float, stop: float, length: int, filled: int, cells: int, offset: float
) -> tuple[slice, NDArray[np.float32]]:
    """The pixels along one side with centres in [start, stop), and the share of each cell in each, (n, m)."""
    scale = filled / length
    first, last = (min(max(0, int(np.ceil(end / scale - 0.5))), length) for end in (start, stop))
    place = (np.arange(first, last) + 0.5) * scale
    cell = (place - offset - start) / max(stop - start, 1e-6) * cells - 0.5
    cell = np.clip(cell, 0, cells - 1)
    shares = np.clip(1 - np.abs(cell[:, None] - np.arange(cells)), 0, None)
    return slice(first, last), shares.astype(np.float32)


def score_maps(detections: SliceDetections, shape: tuple[int, int], size: int, classes: int) -> NDArray[np.float32]:
    """Per class and pixel the highest score of the detections that cover it, 0 without any.

    Args:
        detections: Of one slice.
        shape: (h, w) of the prepared slice.
        size: Side of the network's input.
        classes: How many.

    Returns:
        (classes, h, w): a mask at threshold T is where the map reaches T.
    """
    assert detections.masks is not None, "a detector of boxes has no maps"
    maps = np.zeros((classes, *shape), np.float32)
    filled = input_shape(*shape, size)
    for label, score, mask, box in zip(
        detections.labels, detections.scores, detections.masks, detections.boxes, strict=True
    ):
        rows, columns, values = paste(mask, box, shape, filled, detections.mask_offset)
        place = maps[label - 1, rows, columns]
        np.maximum(place, np.where(values >= MASK_PROBABILITY, score, np.float32(0)), out=place)
    return maps


@dataclass(frozen=True, eq=False)
class Best:
    """The detection that speaks for a lesion: the one with the highest score among those that cover it.

    Attributes:
        score: Its score.
        z: Its slice, of the prepared volume.
        detections: Of that slice.
    """

    score: float
    z: int
    detections: SliceDetections


@dataclass(frozen=True, eq=False)
class Stitched:
    """The input's grid, canonical axes.

    Attributes:
        labels: (Z, H, W) uint8: 0 background, 1 organ, 2 lesion.
        lesions: (Z, H, W) uint16 or uint32, one number per 3D lesion (6 neighbours), from 1.
        best: The detection behind each lesion, in the order of their numbers.
    """

    labels: NDArray[np.uint8]
    lesions: NDArray[np.unsignedinteger]
    best: list[Best]


class Stitcher:
    """Collects the slices' detections into a label map.

    A voxel's probability of a class is the highest of the masks that cover it, interpolated linearly between
    the two prepared slices around it and then cut at 0.5. A lesion with less volume than one voxel that the network
    saw is a remnant of that cut, or of the organ's border, and is dropped. It takes two bytes a voxel for each class
    while the stream runs, and the lesion masks of its slices.

    Args:
        shape: (Z, H, W) of the input in canonical axes.
        back: Which prepared slices make each slice of the input.
        filled: How many rows and columns of the network's input a slice fills (`input_shape`).
        classes: 2 with an organ, else 1; the lesion is the last.
        threshold: Lesion detections below this score are dropped.
        organ_threshold: The same for the organ.
        single_organ: Whether only the organ's largest connected part (6 neighbours) is kept, and lesions in it.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        back: ZWeights,
        filled: tuple[int, int],
        classes: int,
        threshold: float,
        organ_threshold: float = ORGAN_SCORE,
        single_organ: bool = False,
    ) -> None:
        self.shape = shape
        self.filled = filled
        self.thresholds = (organ_threshold, threshold)[-classes:]
        self.single_organ = single_organ and classes == 2
        seen = int(back.upper.max(initial=0)) + 1
        self._least = math.prod(shape) / (math.prod(filled) * seen)
        self._uses: dict[int, list[tuple[int, float]]] = {}
        for z, (lower, upper, weight) in enumerate(zip(*back, strict=True)):
            for source, share in ((lower, 1 - weight), (upper, weight)):
                if share > 0:
                    self._uses.setdefault(int(source), []).append((z, float(share)))
        self._sums = [np.zeros(shape, np.uint16) for _ in range(classes)]
        self._kept: dict[int, SliceDetections] = {}

    def add(self, z: int, detections: SliceDetections) -> None:
        """Takes the detections of prepared slice `z`, once; the order of the slices is free."""
        uses = self._uses.get(z)
        if not uses:  # between two slices of a coarser input
            return
        for label, (threshold, sums) in enumerate(zip(self.thresholds, self._sums, strict=True), start=1):
            chosen = np.flatnonzero((detections.labels == label) & (detections.scores >= threshold))
            if len(chosen) == 0:
                continue
            rows, columns, values = self._highest(detections, chosen)
            for target, share in uses:
                sums[target, rows, columns] += np.rint(values * np.float32(share * _ONE)).astype(np.uint16)
            if label == len(self._sums):
                self._kept[z] = _subset(detections, chosen)

    def finish(self) -> Stitched:
        """Cuts, joins and numbers; the stitcher is used up."""
        organ_known = len(self._sums) == 2
        labels = _cut(self._sums)
        if self.single_organ:
            keep_largest(labels)
        lesions, count = number_lesions(labels, self._least, ORGAN if organ_known else BACKGROUND)
        return Stitched(labels, lesions, self._speakers(lesions, count))

    def _highest(self, detections: SliceDetections, chosen: NDArray[np.intp]) -> Patch:
        """The highest probability of several masks, on the rectangle around them."""
        patches = [self._paste(detections, row) for row in chosen]
        top, bottom = _span([patch.rows for patch in patches])
        left, right = _span([patch.columns for patch in patches])
        values = np.zeros((bottom - top, right - left), np.float32)
        for patch in patches:
            place = values[
                patch.rows.start - top : patch.rows.stop - top, patch.columns.start - left : patch.columns.stop - left
            ]
            np.maximum(place, patch.values, out=place)
        return Patch(slice(top, bottom), slice(left, right), values)

    def _paste(self, detections: SliceDetections, row: int) -> Patch:
        assert detections.masks is not None, "boxes are linked, not stitched"
        mask, box = detections.masks[row], detections.boxes[row]
        return paste(mask, box, self.shape[1:], self.filled, detections.mask_offset)

    def _speakers(self, lesions: NDArray[np.unsignedinteger], count: int) -> list[Best]:
        """The best detection of each lesion; ties go to the lower slice."""
        candidates = [
            (-float(score), z, row)
            for z, detections in self._kept.items()
            for row, score in enumerate(detections.scores)
        ]
        best: dict[int, Best] = {}
        for negative, z, row in sorted(candidates):
            if len(best) == count:
                break
            rows, columns, values = self._paste(self._kept[z], row)
            covered = values >= _COVERS
            for target, _ in self._uses[z]:
                for number in np.unique(lesions[target, rows, columns][covered]).tolist():
                    if number and number not in best:
                        best[number] = Best(-negative, z, self._kept[z])
        assert len(best) == count, "every lesion is made of detections"
        return [best[number] for number in range(1, count + 1)]


def _cut(sums: list[NDArray[np.uint16]]) -> NDArray[np.uint8]:
    """Labels (Z, H, W) from the sums of the organ, if there is one, and the lesion; they are used up.

    The labels are made in the first of them, and copied once the other has been let go: that costs no memory on top.
    """
    made = sums[0]
    for z, lesion in enumerate(sums[-1]):
        inside, covered = lesion >= _HALF, made[z] >= _HALF
        made[z] = np.where(covered, np.uint16(ORGAN), np.uint16(BACKGROUND))
        made[z][inside & covered] = LESION
    del lesion
    sums.clear()
    return made.astype(np.uint8)


def number_lesions(
    labels: NDArray[np.uint8], least: float = 0, instead: int = BACKGROUND
) -> tuple[NDArray[np.unsignedinteger], int]:
    """The 3D components (6 neighbours) of the lesion label, numbered from 1, uint16 or more; and their count.

    Components are sought in the box around all lesions: the numbering needs five bytes a voxel there.

    Args:
        labels: (Z, H, W).
        least: Components of fewer voxels are no lesions; in `labels` they become
        instead: this label.
    """
    bounds = _bounds(labels, LESION)
    inside = labels[bounds]
    numbers, count = label_components(inside == LESION)
    small = component_sizes(numbers, count) < least
    if small.any():
        renumbered = np.concatenate([[0], np.where(small, 0, np.cumsum(~small))]).astype(np.uint32)
        for plane, numbered in zip(inside, numbers, strict=True):
            numbered[:] = renumbered[numbered]
            plane[(plane == LESION) & (numbered == 0)] = instead
        count = int(renumbered.max())
    lesions = np.zeros(labels.shape, np.uint16 if count < 2**16 else np.uint32)
    lesions[bounds] = numbers
    return lesions, count


def keep_largest(labels: NDArray[np.uint8]) -> None:
    """Clears all but the largest part of the organ with its lesions, in place.

    It is sought in the box around all parts and needs six bytes a voxel there.
    """
    inside = labels[_bounds(labels, ORGAN)]
    inside[~largest_component(inside)] = BACKGROUND


def _bounds(labels: NDArray[np.uint8], least: int) -> tuple[slice, slice, slice]:
    """The box around all labels from `least` on; empty if there is none."""
    lines = [np.zeros(size, bool) for size in labels.shape]
    for z, plane in enumerate(labels):
        inside = plane >= least
        lines[0][z] = inside.any()
        lines[1] |= inside.any(axis=1)
        lines[2] |= inside.any(axis=0)
    places = [np.flatnonzero(line) for line in lines]
    if not len(places[0]):
        return slice(0), slice(0), slice(0)
    deep, rows, columns = (slice(int(place[0]), int(place[-1]) + 1) for place in places)
    return deep, rows, columns


def _span(sides: Sequence[slice]) -> tuple[int, int]:
    """From the first start to the last stop."""
    return min(side.start for side in sides), max(side.stop for side in sides)


def _subset(detections: SliceDetections, chosen: Sequence[int] | NDArray[np.intp]) -> SliceDetections:
    return SliceDetections(
        detections.boxes[chosen],
        detections.labels[chosen],
        detections.scores[chosen],
        # Copies: a view would keep the others in memory.
        None if detections.masks is None else [detections.masks[row].copy() for row in chosen],
        detections.weights,
        detections.mask_offset,
    )
