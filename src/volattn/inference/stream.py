"""Prediction as a stream: every image is encoded once, and only what its bags still need is kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volattn.inference.windows import Shares, WindowSums, window_shares
from volattn.models.bag_backbone import BagBackbone, ContextDescriptors, Pyramid
from volattn.models.precision import Precision, autocast
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import PreparedSlices
from volattn.slabs.images import STRIDE, bag_centres, input_shape, slab_images
from volattn.structures.volume import Volume

ReadImages = Callable[[Sequence[int]], Tensor]
"""The 2.5D images of some centre slices as the network sees them: (k, S, H, W) in [0, 1], on any device."""


class SliceReader:
    """The 2.5D images of a CT, made when they are asked for, from the same slices that the store keeps of it.

    Args:
        volume: HU in file axes.
        fixed_z: The slice, in canonical axes, that stays as it is.
    """

    def __init__(self, volume: Volume, plan: Plan, fixed_z: int = 0) -> None:
        self.plan = plan
        self.turn = volume.geometry.turn()
        self.prepared = PreparedSlices(volume, plan, fixed_z)
        self.resampled = self.prepared.resampled
        self.canonical = self.resampled.geometry

    @property
    def depth(self) -> int:
        """Z, the number of prepared slices."""
        return len(self.prepared)

    @property
    def filled(self) -> tuple[int, int]:
        """How many rows and columns of the network's input a slice fills."""
        return input_shape(*self.resampled.shape, self.plan.size)

    def covered(self, first: int, last: int) -> tuple[int, int]:
        """The canonical slices that prepared slices `first` to `last` cover, half-open.

        Each prepared slice reaches half a step to either side.
        """
        weights = self.resampled.weights
        depth, spacing = self.canonical.shape[0], self.canonical.spacing[0]
        low, high = (float(weights.lower[z]) + float(weights.weight[z]) for z in (first, last))
        half = self.resampled.step / spacing / 2
        start, stop = math.ceil(low - half - 1e-6), math.ceil(high + half - 1e-6)
        nearest = self.resampled.nearest
        return max(0, min(start, nearest(first))), min(depth, max(stop, nearest(last) + 1))

    def pixels(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Boxes (n, 4) xyxy in input pixels as such in pixels of the canonical slices, clipped to them."""
        rows, columns = self.filled
        height, width = self.canonical.shape[1:]
        scale = np.array([width / columns, height / rows] * 2)
        return np.clip(boxes.astype(np.float64) * scale, 0, [width, height, width, height])

    def images(self, centres: Sequence[int], slices: int, device: torch.device) -> Tensor:
        """2.5D images by their centres, (k, S, size, size) in [0, 1]; scaled on the device."""
        plan = self.plan
        return slab_images(self.prepared.__getitem__, centres, self.depth, slices, plan.window, plan.size, device)


@dataclass(frozen=True, eq=False)
class SliceDetections:
    """What a detector finds in one slice, on the CPU.

    Attributes:
        boxes: (n, 4) xyxy in input pixels, half-open.
        labels: (n,) from 1, the lesion last.
        scores: (n,) in [0, 1].
        masks: (n, m, m) probabilities in the cells of the box; None from a detector of boxes.
        weights: Softmax weights over the slice's bag, (N,) each, by "channel.LEVEL" and "spatial.LEVEL"; empty
            without attention.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.float16] | None
    weights: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class SliceProbabilities:
    """What a segmenter finds in one slice: probabilities (K, H, W) of nested classes, input pixels, on the CPU."""

    probabilities: NDArray[np.float32]
    weights: dict[str, NDArray[np.float32]]


SliceResult = SliceDetections | SliceProbabilities


class Step(NamedTuple):
    """Centres of images to encode, targets whose bags are complete then, and images that no later target needs."""

    encode: tuple[int, ...]
    detect: tuple[int, ...]
    drop: tuple[int, ...]


def stream_order(depth: int) -> list[int]:
    """The order in which the images are encoded: every slice once.

    Bags only join slices of one residue mod 3, but for the two end slices, which clamped bags of all residues
    share. The pass through residue 0 goes up and starts with slice 0; the pass through the residue of the
    last slice, if it is another, comes next and goes down, so that the last slice is encoded just when the
    first pass begins to need it.
    """
    last = (depth - 1) % STRIDE
    passes = {residue: list(range(residue, depth, STRIDE)) for residue in range(STRIDE)}
    order = passes.pop(0)
    if last in passes:
        order += reversed(passes.pop(last))
    return order + [z for rest in passes.values() for z in rest]


def bag_of(z: int, depth: int, bag: int, neighbours: bool = True) -> list[int]:
    """The centres of a target's bag (`bag_centres`); N times the target's own if its neighbours are hidden."""
    return bag_centres(z, depth, bag).tolist() if neighbours else [z] * bag


def plan_stream(
    depth: int, bag: int, batch: int = 1, targets: Sequence[int] | None = None, neighbours: bool = True
) -> list[Step]:
    """Which images to encode, which targets to detect and what to forget, step by step.

    Args:
        targets: The slices to detect in, each once; all of them by default.
        neighbours: See `bag_of`.

    Returns:
        Steps in which every target is detected once and every slice of their bags encoded once, no other. For a
        batch of 1 and all slices at most (N + 1) / 2 targets wait at any time and at most N + 2 images are needed by
        others.
    """
    wanted = range(depth) if targets is None else targets
    bags = {z: {*bag_of(z, depth, bag, neighbours), z} for z in wanted}
    users: dict[int, list[int]] = {}
    for target, images in bags.items():
        for image in images:
            users.setdefault(image, []).append(target)
    missing = {target: len(images) for target, images in bags.items()}
    uses = Counter({image: len(waiting) for image, waiting in users.items()})
    order, steps = [z for z in stream_order(depth) if z in users], []
    for start in range(0, len(order), batch):
        encode = order[start : start + batch]
        ready = []
        for image in encode:
            for target in users[image]:
                missing[target] -= 1
                if missing[target] == 0:
                    ready.append(target)
        drop = []
        for target in ready:
            uses.subtract(bags[target])
            drop += [image for image in bags[target] if uses[image] == 0]
        steps.append(Step(tuple(encode), tuple(ready), tuple(sorted(drop))))
    return steps


def stream(
    model: BagBackbone,
    read_images: ReadImages,
    depth: int,
    *,
    targets: Sequence[int] | None = None,
    batch: int = 1,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    neighbours: bool = True,
) -> Iterator[tuple[int, SliceResult]]:
    """Detects in the slices of a volume; the output is that of building every bag from scratch.

    A model whose targets predict more than their own slice (`BagBackbone.window`) runs on targets a step apart. The
    probabilities of a slice in their windows are summed, weighed by `window_shares`: sums are held for one window of
    slices at most, for K > 1 of up to K - 1 windows more.

    Args:
        targets: The slices to detect in, each once; all of them by default.
        batch: K: images encoded at once; targets that become ready together are attended and detected up to K
            at a time. For K = 1 at most (N + 1) / 2 pyramids are held, for K more of them up to 2 (K - 1)
            more; with attention after RoIAlign N + 2, and K while they are stored.
        precision: "fp32" throughout, or automatic mixed precision: "bf16" or "fp16".
        neighbours: Whether a bag holds the slices around its target; otherwise the target N times, a control.

    Yields:
        (z, what was found) for every target once, in the order in which their bags, or their windows, are complete.
    """
    assert not model.training, "a model predicts in evaluation mode"
    weight = next(model.parameters())
    run = _Run(model, torch.device(device) if device is not None else weight.device, weight.dtype, precision)
    shares = window_shares(depth, model.window, targets)
    windows = dict.fromkeys(centre for row in shares.values() for centre in row)
    steps = plan_stream(depth, model.bag, batch, list(windows), neighbours)
    run.reserve(steps, shares)
    for step in steps:
        run.encode(step.encode, read_images)
        for start in range(0, len(step.detect), batch):
            ready = step.detect[start : start + batch]
            yield from run.detect(ready, [bag_of(z, depth, model.bag, neighbours) for z in ready])
        run.drop(step.drop)


class _Run:
    """What a stream holds: the pyramids of waiting targets, and descriptors in a fixed number of places."""

    def __init__(self, model: BagBackbone, device: torch.device, dtype: torch.dtype, precision: Precision) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.autocast = autocast(device, precision)
        self.waiting: dict[int, Pyramid] = {}
        self.context: dict[str, Tensor] = {}
        self.place: dict[int, int] = {}
        self.free: list[int] = []
        self.targets: set[int] = set()
        self.size = (0, 0)

    def reserve(self, steps: Sequence[Step], shares: Shares) -> None:
        """Makes as many places as the stream ever fills."""
        self.sums = WindowSums(shares)
        self.targets = {z for step in steps for z in step.detect}
        held = most = 0
        for step in steps:
            held += len(step.encode)
            most = max(most, held)
            held -= len(step.drop)
        self.capacity = most
        self.free = list(range(most))[::-1]

    @torch.no_grad()
    def encode(self, centres: Sequence[int], read_images: ReadImages) -> None:
        images = read_images(centres).to(self.device, self.dtype)
        self.size = (images.shape[-2], images.shape[-1])
        with self.autocast:
            pyramid = self.model.encode(images)
            descriptors = self.model.describe(pyramid)
        places = [self.free.pop() for _ in centres]
        self.place.update(zip(centres, places, strict=True))
        for name, tensor in descriptors.items():
            if name not in self.context:
                self.context[name] = tensor.new_empty((self.capacity, *tensor.shape[1:]))
            self.context[name][places] = tensor
        if not _holds_pyramid(descriptors, pyramid):
            for row, centre in enumerate(centres):
                if centre in self.targets:
                    self.waiting[centre] = {level: maps[row : row + 1] for level, maps in pyramid.items()}

    @torch.no_grad()
    def detect(self, targets: Sequence[int], bags_of: Sequence[Sequence[int]]) -> list[tuple[int, SliceResult]]:
        """What is found in the slices that are complete with these targets, given the centres of their bags."""
        bags = torch.tensor([[self.place[z] for z in bag] for bag in bags_of], device=self.device)
        pyramid = self._pyramid(targets)
        with self.autocast:
            attended = self.model.attend(pyramid, self.context, bags)
            if self.model.config.output == "label_map":
                windows = self.model.predict_window(attended, self.size)
                weights = [_row(attended.weights, row) for row in range(len(targets))]
                return [
                    (z, SliceProbabilities(_numpy(one), own))
                    for target, window, own in zip(targets, windows, weights, strict=True)
                    for z, one in self.sums.add(target, window)
                ]
            found = cast(list[dict[str, Tensor]], self.model.detect(attended, self.size))
        return [
            (z, _detections(one, _row(attended.weights, row)))
            for row, (z, one) in enumerate(zip(targets, found, strict=True))
        ]

    def _pyramid(self, targets: Sequence[int]) -> Pyramid:
        """The targets' pyramids, together; those that waited are released. One alone is not copied."""
        waited = [self.waiting.pop(target) for target in targets if target in self.waiting]
        if len(waited) == 1:
            return waited[0]
        if waited:
            return {level: torch.cat([one[level] for one in waited]) for level in waited[0]}
        first = self.place[targets[0]]
        rows = slice(first, first + 1) if len(targets) == 1 else [self.place[target] for target in targets]
        return {level: maps[rows] for level, maps in self.context.items()}

    def drop(self, centres: Sequence[int]) -> None:
        self.free += [self.place.pop(centre) for centre in centres]


def _holds_pyramid(descriptors: ContextDescriptors, pyramid: Pyramid) -> bool:
    """Whether the descriptors are the pyramid itself (attention after RoIAlign): it is then kept once."""
    return all(descriptors.get(level) is maps for level, maps in pyramid.items())


def _detections(one: dict[str, Tensor], weights: dict[str, NDArray[np.float32]]) -> SliceDetections:
    masks = _numpy(one["masks"].squeeze(1)).astype(np.float16) if "masks" in one else None
    return SliceDetections(_numpy(one["boxes"]), one["labels"].cpu().numpy(), _numpy(one["scores"]), masks, weights)


def _row(weights: Mapping[str, Tensor], row: int) -> dict[str, NDArray[np.float32]]:
    return {name: _numpy(rows[row]) for name, rows in weights.items()}


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()


def mean_weights(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
    """Attention weights over the bag, the mean over the levels, (N,) each, by "channel" and "spatial"."""
    kinds: dict[str, list[NDArray[np.float32]]] = {}
    for name, row in weights.items():
        kinds.setdefault(name.partition(".")[0], []).append(row)
    return {kind: np.mean(np.stack(rows), axis=0, dtype=np.float64) for kind, rows in kinds.items()}
