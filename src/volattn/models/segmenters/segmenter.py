"""Between instances and dense labels: a segmenter learns from masks and answers with them.

Segmenters: detectors whose objects are what hangs together in a map of probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from volattn.models.bag_backbone import Attended, BagBackbone
from volattn.models.config import ModelConfig
from volattn.models.precision import full
from volattn.models.segmenters.config import SegmentationConfig

FOREGROUND = 0.5
"""The probability from which on a pixel belongs to a class."""


def dense_labels(targets: Sequence[dict[str, Tensor]], size: tuple[int, int]) -> Tensor:
    """The class of every pixel, from the masks of the objects.

    Classes are nested: a lesion lies on top of the organ, and is a part of it.

    Args:
        targets: Per target "labels" (n,) from 1 and "masks" (n, H, W).
        size: (H, W).

    Returns:
        (M, H, W) int64: 0 background, else the highest label of the masks there.
    """
    rows = []
    for target in targets:
        masks, labels = target["masks"], target["labels"]
        marked = masks.new_zeros((len(masks) + 1, *size), dtype=torch.int64)
        marked[1:] = (masks > 0) * labels[:, None, None]
        rows.append(marked.amax(dim=0))
    return torch.stack(rows)


def nested_probabilities(logits: Tensor) -> Tensor:
    """The probability of each class, that of the classes inside it included.

    A softmax shares a pixel out among background, organ and lesion; what is lesion is organ too.

    Args:
        logits: (M, K + 1, ...), the background first.

    Returns:
        (M, K, ...), falling from class to class.
    """
    inner_first = logits.softmax(dim=1).flip(1)
    return inner_first.cumsum(dim=1).flip(1)[:, 1:].clamp(0, 1)


def find_objects(probabilities: Tensor, most: int) -> dict[str, Tensor | list[Tensor]]:
    """The objects of a slice: per class, what hangs together (4 neighbours) at a probability of 0.5 or more.

    A score is the highest probability in the object, by which Han (arXiv 1704.07239) drops tumours too. An object's
    mask holds the probabilities around its edge as well, inside its box; the other objects of its class are cut out.

    Args:
        probabilities: (K, H, W) of nested classes.
        most: Objects kept per class, the largest ones.

    Returns:
        On the CPU, by falling score: "boxes" (n, 4) xyxy in pixels, half-open and tight; "labels" (n,) from 1;
        "scores" (n,); "masks", n maps (h, w) of probabilities at the pixels of the box.
    """
    maps: NDArray[np.floating] = probabilities.detach().cpu().numpy()
    found: list[tuple[float, int, tuple[slice, slice], NDArray[np.floating]]] = []
    for label, values in enumerate(maps, start=1):
        numbers, count = ndimage.label(values >= FOREGROUND)
        places = ndimage.find_objects(numbers)
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
        for index in np.argsort(-sizes, kind="stable")[:most].tolist():
            place = places[index]
            inside, own = values[place], numbers[place]
            mask = np.where((own == 0) | (own == index + 1), inside, 0)
            found.append((float(inside[own == index + 1].max()), label, place, mask))
    found.sort(key=lambda one: -one[0])
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for _, _, (rows, columns), _ in found]
    return {
        "boxes": torch.tensor(boxes, dtype=probabilities.dtype).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _, _ in found], dtype=torch.int64),
        "scores": torch.tensor([score for score, _, _, _ in found], dtype=probabilities.dtype),
        "masks": [torch.from_numpy(mask) for _, _, _, mask in found],
    }


class BagSegmenter(BagBackbone):
    """Gives every pixel of a target its class.

    Around it nothing differs from a detector with masks: `detect` makes the dense labels that it learns from out of
    the objects' masks, and objects out of its probabilities.

    The module is abstract in `logits`, or in `losses` and `probabilities`.

    Args:
        config: The model.
        backbone: See `BagBackbone`, as are `channels`.
        channels: See `backbone`.
        classes: K, background not counted.

    Raises:
        ValueError: There are class weights, but not one for each class.
    """

    mask_offset = 0.0

    def __init__(self, config: ModelConfig, backbone: nn.Module, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(config, backbone, channels)
        weights = config.segmentation.class_weights
        if weights is not None and len(weights) != classes + 1:
            raise ValueError(
                f"segmentation.class_weights must have {classes + 1} values, the background's first, "
                f"found {len(weights)}"
            )

    def logits(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K + 1, H, W), the background first.

        Args:
            attended: The M targets after attention.
            size: (H, W) of the input images.
        """
        raise NotImplementedError("a segmenter defines logits")

    def detect(
        self, attended: Attended, size: tuple[int, int], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Boxes, labels, scores and masks per target.

        Args:
            attended: The M targets after attention.
            size: (H, W) of the input images.
            targets: For training; see `forward`.

        Returns:
            With targets the losses, "loss_" and the names in `segmentation.losses`. Without, per target what
            `find_objects` makes of the probabilities.
        """
        if targets is not None and self.training:
            return self.losses(attended, size, self.reference(targets, size))
        # Mixed precision ends here: half a probability is an edge.
        return self.objects(full(self.probabilities(attended, size)))

    def objects(self, probabilities: Tensor) -> list[dict[str, Tensor]]:
        """What `find_objects` makes of probabilities (M, K, H, W)."""
        most = self.config.segmentation.objects
        return [cast(dict[str, Tensor], find_objects(one, most)) for one in probabilities]

    def reference(self, targets: Sequence[dict[str, Tensor]], size: tuple[int, int]) -> Tensor:
        """What is learnt: the classes (M, H, W) of the targets' own pixels; see `dense_labels`."""
        return dense_labels(targets, size)

    def losses(self, attended: Attended, size: tuple[int, int], labels: Tensor) -> dict[str, Tensor]:
        """The terms of the loss.

        Args:
            attended: The M targets after attention.
            size: (H, W) of the input images.
            labels: (M, H, W) from 0.
        """
        return segmentation_losses(self.config.segmentation, self.logits(attended, size), labels)

    def probabilities(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K, H, W) of nested classes; see `logits`."""
        return nested_probabilities(full(self.logits(attended, size)))


def segmentation_losses(config: SegmentationConfig, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The terms of a segmenter's loss, means over the targets: no target's loss depends on what shares a batch.

    Args:
        config: Which terms.
        logits: (M, K + 1, H, W).
        labels: (M, H, W) from 0.
    """
    logits = full(logits)  # A sum over 512 x 512 probabilities is beyond float16.
    terms = {"cross_entropy": _cross_entropy, "dice": _dice}
    return {f"loss_{name}": terms[name](config, logits, labels) for name in config.losses}


def _cross_entropy(config: SegmentationConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all pixels, each weighed by its class; the weights are not divided out, as they would be by batch."""
    weights = None if config.class_weights is None else logits.new_tensor(config.class_weights)
    return F.cross_entropy(logits, labels, weights, reduction="none").mean()


def _dice(config: SegmentationConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """1 - (2 sum p y + 1) / (sum p + sum y + 1) of the nested classes that a target shows, else 0; mean of all.

    Of a class that is not there the cross-entropy speaks. Overlap would be at its worst with any probability at all,
    and most slices show no lesion: it would teach a network to find none anywhere.
    """
    found = nested_probabilities(logits)
    classes = torch.arange(1, found.shape[1] + 1, device=labels.device)
    reference = (labels[:, None] >= classes[:, None, None]).to(found.dtype)
    common = (found * reference).sum(dim=(-2, -1))
    shown = reference.sum(dim=(-2, -1))
    both = found.sum(dim=(-2, -1)) + shown
    return ((1 - (2 * common + 1) / (both + 1)) * (shown > 0)).mean()
