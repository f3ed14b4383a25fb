"""The slab: the images that neighbouring targets share, and the targets' objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from volattn.datasets.case import LESION, ORGAN
from volattn.structures.lesions import label_components

Target = dict[str, Tensor]
"""The n objects of one target slice, in input pixels: "boxes" float32 (n, 4) xyxy, half-open (x1 is the last
column plus 1); "labels" int64 (n,) from 1, the lesion last; "masks" uint8 (n, H, W), 0 or 1, which are not there where
only boxes are known. For a segmenter "label_map" uint8 (R, H, W) alone: the classes of the slices of its window."""


@dataclass(frozen=True, eq=False)
class Slab:
    """B 2.5D images and the table of which of them make the bag of which of M targets.

    Attributes:
        images: (B, S, H, W) in [0, 1].
        bags: (M, N) int64 indices into the images.
        target_at: (M,) int64 indices into the images: the targets themselves.
        origins: Case and slice of each of the M targets.
    """

    images: Tensor
    bags: Tensor
    target_at: Tensor
    targets: list[Target]
    origins: list[tuple[str, int]]

    @classmethod
    def join(cls, slabs: Sequence[Self]) -> Self:
        """One slab of several, in order; they share nothing, only the call to the network."""
        assert len(slabs) > 0
        if len(slabs) == 1:
            return slabs[0]
        offsets = np.cumsum([0, *(len(slab.images) for slab in slabs[:-1])]).tolist()
        placed = list(zip(slabs, offsets, strict=True))
        return cls(
            images=torch.cat([slab.images for slab in slabs]),
            bags=torch.cat([slab.bags + offset for slab, offset in placed]),
            target_at=torch.cat([slab.target_at + offset for slab, offset in placed]),
            targets=[target for slab in slabs for target in slab.targets],
            origins=[origin for slab in slabs for origin in slab.origins],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The slab on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The slab in page-locked memory (called by PyTorch's loader)."""
        return self._map(Tensor.pin_memory)

    def share_memory(self) -> Self:
        """The slab in memory that another process can map.

        Raises:
            RuntimeError: There is too little of it, or too many files are open.
        """
        return self._map(Tensor.share_memory_)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(
            images=change(self.images),
            bags=change(self.bags),
            target_at=change(self.target_at),
            targets=[{key: change(value) for key, value in target.items()} for target in self.targets],
            origins=self.origins,
        )


def class_map(labels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """Labels of a model with so many classes, from 0, in place of 0 background, 1 organ, 2 lesion and 3, ... others."""
    return np.where(labels > LESION, np.uint8(ORGAN), labels) if classes > 1 else (labels == LESION).astype(np.uint8)


def component_maps(labels: NDArray[np.uint8], classes: int) -> NDArray[np.int32]:
    """Numbers the objects of a label slice: the 2D components (4 neighbours) of each class.

    They are numbered before anything moves the slice: a thin object that resampling breaks stays one.

    Args:
        labels: (h, w), 0 background, 1 organ, 2 lesion; a lesion is part of the organ.
        classes: 2 for organ and lesion, 1 for lesion only.

    Returns:
        (classes, h, w): 0 or the object's number from 1. With two classes the organ (label >= 1) comes first,
        the lesion is always last.
    """
    regions = [labels == LESION] if classes == 1 else [labels >= ORGAN, labels == LESION]
    return np.stack([label_components(region)[0] for region in regions]).astype(np.int32)


def objects(maps: NDArray[np.int32]) -> Target:
    """Boxes, labels and masks of numbered objects; boxes are tight around the masks.

    An object without a pixel (moved out of the frame, or shrunk away) is dropped, so every side is at least
    1 pixel.

    Args:
        maps: (classes, H, W), as `component_maps` makes them, possibly moved since.
    """
    found = [
        (label, number, place)
        for label, numbers in enumerate(maps, start=1)
        for number, place in enumerate(ndimage.find_objects(numbers), start=1)
        if place is not None
    ]
    masks = np.zeros((len(found), *maps.shape[1:]), np.uint8)
    for row, (label, number, place) in enumerate(found):
        masks[row][place] = maps[label - 1][place] == number
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for _, _, (rows, columns) in found]
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([label for label, _, _ in found], dtype=torch.int64),
        "masks": torch.from_numpy(masks),
    }


def boxed_objects(boxes: NDArray[np.float64], label: int) -> Target:
    """Boxes and labels of objects of one class that have no masks.

    As with masks, an object is dropped of which less than a pixel is left to either side.

    Args:
        boxes: (n, 4) xyxy, half-open, input pixels.
    """
    kept = torch.from_numpy(boxes[(boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)]).float()
    return {"boxes": kept, "labels": torch.full((len(kept),), label, dtype=torch.int64)}
