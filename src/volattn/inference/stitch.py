"""From what is found on slices to a label map on the input's grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from volattn.datasets.case import BACKGROUND, LESION, ORGAN
from volattn.inference.stream import SliceDetections, SliceProbabilities, SliceResult
from volattn.preprocessing.prepared import ZWeights
from volattn.slabs.images import input_shape
from volattn.structures.lesions import component_sizes, label_components, largest_component

ORGAN_SCORE = 0.5
"""Organ detections below this score are dropped. (The lesion's threshold is chosen in validation.)"""

MASK_PROBABILITY = 0.5
"""Where a mask begins."""

_MASK_OFFSET = 0.5
"""Input pixels from the centre of a mask's cell to where it lies in its box: torchvision draws the reference masks of
training with `roi_align(aligned=False)`, which counts from pixel centres, half a pixel further than edges."""

_ONE = 65534
"""Probability 1 as an integer. The two shares of a voxel are rounded to 65535 at most; sums of integers do
not depend on the order in which the passes of the stream come."""
_HALF = _ONE // 2
# A voxel at the cut has a share rounded up: the masks behind it reach all but this.
_COVERS = MASK_PROBABILITY - 2 / _ONE


class Patch(NamedTuple):
    """Probabilities of a class on a rectangle of a slice's grid; outside they are 0.

    `scores` has for each pixel the highest score of the objects that cover it, 0 without any.
    """

    rows: slice
    columns: slice
    values: NDArray[np.float32]
    scores: NDArray[np.float32]


def paste(
    mask: NDArray[np.floating], box: NDArray[np.floating], shape: tuple[int, int], filled: tuple[int, int]
) -> tuple[slice, slice, NDArray[np.float32]]:
    """Puts a mask (m, m'), in a box xyxy in input pixels, on a slice's own grid: back through mask head and `to_input`.

    Pixel p of the slice lies at ((p + 0.5) * scale) of the input, measured from its edge, scale being
    `filled` over `shape` along each side. Inside the box the mask is read bilinearly at that place, outside
    it is 0. Cell i of the m cells along a side of the mask lies at x0 + (i + 0.5) * side / m + 0.5. One
    continuous step, without a canvas at the input's size and without boxes rounded to pixels.

    Returns:
        Rows, columns, and the probabilities there.
    """
    rows, along_y = _sampling(float(box[1]), float(box[3]), shape[0], filled[0], mask.shape[0])
    columns, along_x = _sampling(float(box[0]), float(box[2]), shape[1], filled[1], mask.shape[1])
    return rows, columns, along_y @ mask.astype(np.float32) @ along_x.T


def _sampling(start: float, stop: float, length: int, filled: int, cells: int) -> tuple[slice, NDArray[np.float32]]:
    """The pixels along one side with centres in [start, stop), and the share of each cell in each, (n, m)."""
    scale = filled / length
    first, last = (min(max(0, int(np.ceil(end / scale - 0.5))), length) for end in (start, stop))
    place = (np.arange(first, last) + 0.5) * scale
    cell = (place - _MASK_OFFSET - start) / max(stop - start, 1e-6) * cells - 0.5
    cell = np.clip(cell, 0, cells - 1)
    shares = np.clip(1 - np.abs(cell[:, None] - np.arange(cells)), 0, None)
    return slice(first, last), shares.astype(np.float32)


def find_objects(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The objects of a class on a slice: what hangs together (4 neighbours) at a probability of 0.5 or more.

    A score is the highest probability in the object, by which Han (arXiv 1704.07239) drops tumours too.

    Returns:
        (H, W) numbers from 1 with 0 elsewhere, and the n scores.
    """
    numbers, count = ndimage.label(probabilities >= MASK_PROBABILITY)
    scores = ndimage.maximum(probabilities, numbers, np.arange(1, count + 1)) if count else []
    return numbers, np.asarray(scores, np.float32)


def class_boxes(found: SliceResult, label: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The boxes (n, 4) of a class on a slice, xyxy in input pixels, half-open, and their scores (n,)."""
    if isinstance(found, SliceDetections):
        chosen = np.flatnonzero(found.labels == label)
        return found.boxes[chosen], found.scores[chosen]
    numbers, scores = find_objects(found.probabilities[label - 1])
    places = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in ndimage.find_objects(numbers)]
    return np.array(places, np.float32).reshape(-1, 4), scores


def resample(
    probabilities: NDArray[np.float32], threshold: float, shape: tuple[int, int], filled: tuple[int, int]
) -> Patch:
    """A class's probabilities (size, size) on a slice's own grid: the way back through `to_input`, bilinear.

    Objects below the threshold are cut out. The slice has the shape (H, W), and fills `filled` of the input.
    """
    inside = probabilities[: filled[0], : filled[1]]
    numbers, scores = find_objects(inside)
    by_pixel = np.concatenate([np.zeros(1, np.float32), np.where(scores >= threshold, scores, 0)])[numbers]
    values = np.where((numbers > 0) & (by_pixel == 0), np.float32(0), inside)
    if filled != shape:
        values = F.interpolate(torch.from_numpy(values)[None, None], shape, mode="bilinear")[0, 0].numpy()
        for axis in (0, 1):  # An object covers what is read from any of its pixels.
            place = np.clip((np.arange(shape[axis]) + 0.5) * filled[axis] / shape[axis] - 0.5, 0, filled[axis] - 1)
            lower, upper = np.floor(place).astype(int), np.ceil(place).astype(int)
            by_pixel = np.maximum(by_pixel.take(lower, axis), by_pixel.take(upper, axis))
    by_pixel = np.where(values >= _COVERS, np.maximum(by_pixel, values), np.float32(0))
    return Patch(slice(0, shape[0]), slice(0, shape[1]), values, by_pixel)


def pasted(
    detections: SliceDetections, label: int, threshold: float, shape: tuple[int, int], filled: tuple[int, int]
) -> Patch | None:
    """The highest probability of the masks of a class from a score on, in the rectangle around them; see `resample`."""
    assert detections.masks is not None, "boxes are linked, not stitched"
    chosen = np.flatnonzero((detections.labels == label) & (detections.scores >= threshold))
    if len(chosen) == 0:
        return None
    patches = [paste(detections.masks[row], detections.boxes[row], shape, filled) for row in chosen]
    top, bottom = min(rows.start for rows, _, _ in patches), max(rows.stop for rows, _, _ in patches)
    left, right = min(columns.start for _, columns, _ in patches), max(columns.stop for _, columns, _ in patches)
    highest = np.zeros((bottom - top, right - left), np.float32)
    scores = np.zeros_like(highest)
    for row, (rows, columns, values) in zip(chosen, patches, strict=True):
        place = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        np.maximum(highest[place], values, out=highest[place])
        covered = np.where(values >= _COVERS, detections.scores[row], np.float32(0))
        np.maximum(scores[place], covered, out=scores[place])
    return Patch(slice(top, bottom), slice(left, right), highest, scores)


def find_patch(
    found: SliceResult, label: int, threshold: float, shape: tuple[int, int], filled: tuple[int, int]
) -> Patch | None:
    """What was found of a class in a slice; see `pasted` and `resample`."""
    if isinstance(found, SliceProbabilities):
        return resample(found.probabilities[label - 1], threshold, shape, filled)
    return pasted(found, label, threshold, shape, filled)


def score_maps(found: SliceResult, shape: tuple[int, int], size: int, classes: int) -> NDArray[np.float32]:
    """Per class and pixel the highest score of the objects that cover it, 0 without any.

    Args:
        shape: (h, w) of the prepared slice.
        size: Side of the network's input.

    Returns:
        (classes, h, w): a mask at threshold T is where the map reaches T.
    """
    maps = np.zeros((classes, *shape), np.float32)
    for label in range(1, classes + 1):
        patch = find_patch(found, label, 0.0, shape, input_shape(*shape, size))
        if patch is not None:
            covered = np.where(patch.values >= MASK_PROBABILITY, patch.scores, np.float32(0))
            maps[label - 1, patch.rows, patch.columns] = covered
    return maps


@dataclass(frozen=True, eq=False)
class Best:
    """The detection with the highest score of a lesion: its prepared slice, and the attention over its bag."""

    score: float
    z: int
    weights: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Stitched:
    """Labels (Z, H, W), 0 background, 1 organ, 2 lesion, on the input's grid in canonical axes.

    Lesions have one number per 3D lesion (6 neighbours) from 1; the best detection of each is in their order.
    """

    labels: NDArray[np.uint8]
    lesions: NDArray[np.unsignedinteger]
    best: list[Best]


class _Evidence(NamedTuple):
    """The pixels of a slice (flat) that lesions cover, the best score of each, and the slice's attention weights."""

    pixels: NDArray[np.int32]
    scores: NDArray[np.float32]
    weights: dict[str, NDArray[np.float32]]


class Stitcher:
    """Collects what is found on the slices into a label map.

    A voxel's probability of a class is that of a segmenter, or the highest of the masks that cover it, interpolated
    linearly between the two prepared slices around it and then cut at 0.5. A lesion with less volume than one voxel
    that the network saw is a remnant of that cut, or of the organ's border, and is dropped. It takes two bytes a voxel
    for each class while the stream runs, and eight for each pixel of a lesion on its slices.

    Args:
        shape: (Z, H, W) of the input in canonical axes.
        back: Which prepared slices make each slice of the input.
        filled: How many rows and columns of the network's input a slice fills (`input_shape`).
        classes: 2 with an organ, else 1; the lesion is the last.
        threshold: Lesions of a slice below this score are dropped.
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
        self._evidence: dict[int, _Evidence] = {}

    def add(self, z: int, found: SliceResult) -> None:
        """Takes what was found in prepared slice `z`, once; the order of the slices is free."""
        uses = self._uses.get(z)
        if not uses:  # between two slices of a coarser input
            return
        for label, (threshold, sums) in enumerate(zip(self.thresholds, self._sums, strict=True), start=1):
            patch = find_patch(found, label, threshold, self.shape[1:], self.filled)
            if patch is None:
                continue
            for target, share in uses:
                shares = np.rint(patch.values * np.float32(share * _ONE)).astype(np.uint16)
                sums[target, patch.rows, patch.columns] += shares
            rows, columns = np.nonzero(patch.scores)
            if label == len(self._sums) and len(rows):
                pixels = (rows + patch.rows.start) * self.shape[2] + columns + patch.columns.start
                self._evidence[z] = _Evidence(pixels.astype(np.int32), patch.scores[rows, columns], found.weights)

    def finish(self) -> Stitched:
        """Cuts, joins and numbers; the stitcher is used up."""
        organ_known = len(self._sums) == 2
        labels = _cut(self._sums)
        if self.single_organ:
            keep_largest(labels)
        lesions, count = number_lesions(labels, self._least, ORGAN if organ_known else BACKGROUND)
        return Stitched(labels, lesions, self._best_detections(lesions, count))

    def _best_detections(self, lesions: NDArray[np.unsignedinteger], count: int) -> list[Best]:
        """The best detection of each lesion; ties go to the lower slice."""
        best: list[Best | None] = [None] * (count + 1)
        for z, evidence in sorted(self._evidence.items()):
            highest = np.zeros(count + 1, np.float32)
            for target, _ in self._uses[z]:
                np.maximum.at(highest, lesions[target].ravel()[evidence.pixels], evidence.scores)
            for number in (np.flatnonzero(highest[1:]) + 1).tolist():
                present = best[number]
                if present is None or highest[number] > present.score:
                    best[number] = Best(float(highest[number]), z, evidence.weights)
        found = [one for one in best[1:] if one is not None]
        assert len(found) == count, "every lesion is made of detections"
        return found


def _cut(sums: list[NDArray[np.uint16]]) -> NDArray[np.uint8]:
    """Labels (Z, H, W) from the sums of the organ, if there is one, and the lesion; they are used up.

    The labels are made in the first of them, and copied once the other is released: that takes no more memory.
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

    Components of fewer voxels than `least` become `instead` in the labels (Z, H, W). They are sought in the box around
    all lesions: the numbering needs five bytes a voxel there.
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
