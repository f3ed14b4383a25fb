"""Between instances and dense labels: a segmenter learns from masks and answers with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

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
