"""2.5D images: which slices make one, which of them make a bag, and the frame that the network sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

STRIDE = 3
"""Slices between the centres of a bag: with S = 3 slices to an image no slice repeats (paper, section 2)."""


def bag_centres(z: int, depth: int, n: int) -> NDArray[np.int64]:
    """The centre slices of the bag of target `z`: z - 3 h, ..., z, ..., z + 3 h, h = (n - 1) / 2.

    Centres past an end of the volume are clamped to it and keep their multiplicity, so that a bag always has
    the same size and the softmax over it the same number of terms.

    Args:
        z: The target's centre slice, 0 to depth - 1.
        depth: Z, the number of slices.

    Returns:
        Shape (n,) ascending.

    Raises:
        ValueError: `n` is not odd.
    """
    if n < 1 or n % 2 == 0:
        raise ValueError(f"a bag has an odd number of images, found {n}; give 1, 3, 5, ...")
    assert 0 <= z < depth, (z, depth)
    return np.clip(z + STRIDE * np.arange(-(n // 2), n // 2 + 1), 0, depth - 1)


def image_slices(centres: ArrayLike, depth: int, s: int = 3) -> NDArray[np.int64]:
    """The adjacent slices that are the channels of 2.5D images; past its ends the volume's end slices repeat.

    Args:
        centres: Centre slices, any shape (...), 0 to depth - 1.

    Returns:
        Shape (..., s).

    Raises:
        ValueError: `s` is not odd.
    """
    if s < 1 or s % 2 == 0:
        raise ValueError(f"a 2.5D image has an odd number of slices, found {s}; give 1, 3, 5, ...")
    return np.clip(np.asarray(centres)[..., None] + np.arange(-(s // 2), s // 2 + 1), 0, depth - 1)


class SlabTable(NamedTuple):
    """Which images a slab needs, and which of them make whose bag.

    Attributes:
        centres: (B,) centre slices of the images, ascending, each once.
        bags: (M, N) indices into `centres`.
        target_at: (M,) indices into `centres`.
    """

    centres: NDArray[np.int64]
    bags: NDArray[np.int64]
    target_at: NDArray[np.int64]


def slab_table(targets: Sequence[int], depth: int, n: int) -> SlabTable:
    """Shares the images of the bags (`bag_centres`) of M >= 1 targets.

    Neighbouring targets 3 apart need B <= M + N - 1 images instead of M x N.
    """
    assert len(targets) > 0
    bags = np.stack([bag_centres(z, depth, n) for z in targets])
    centres = np.unique(np.concatenate([bags.ravel(), np.asarray(targets)]))
    return SlabTable(centres, np.searchsorted(centres, bags), np.searchsorted(centres, targets))


def slab_images(
    read: Callable[[int], NDArray[np.generic]],
    centres: Sequence[int],
    depth: int,
    slices: int,
    window: tuple[float, float],
    size: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """The 2.5D images of some centres as the network sees them in prediction and validation.

    Args:
        read: Gives prepared slice z, (h, w) HU; each is asked for once.
        centres: Centre slices of the k images.
        device: Where they are scaled, and stay.

    Returns:
        (k, S, size, size) in [0, 1].
    """
    needed = image_slices(centres, depth, slices)
    planes = {z: read(z) for z in np.unique(needed).tolist()}
    images = np.stack([np.stack([planes[z] for z in row]) for row in needed.tolist()])
    return to_input(torch.from_numpy(images).to(device), window, size)


def input_scale(h: int, w: int, size: int) -> float:
    """Input pixels per pixel of the prepared slice: the longest side is scaled to `size`."""
    return size / max(h, w)


def input_shape(h: int, w: int, size: int) -> tuple[int, int]:
    """How much of the (size, size) input a prepared slice fills, from the top left: rows, columns."""
    scale = input_scale(h, w, size)
    return max(1, round(h * scale)), max(1, round(w * scale))


def to_input(slices: Tensor, window: tuple[float, float], size: int) -> Tensor:
    """Prepared slices as the network sees them: the one function for training and prediction.

    The slice fills `input_shape` of the input edge to edge: along each side the pixel with centre p has it at
    (p + 0.5) * scale - 0.5, scale being that side of `input_shape` over the slice's (`align_corners=False`).

    Args:
        slices: HU, any integer or floating type, (B, S, h, w).
        window: HU that become 0 and 1; what is outside is clamped.
        size: Side of the square input, pixels.

    Returns:
        (B, S, size, size) in [0, 1], float32 (float64 for float64): the slice at the top left, bilinear,
        antialiased where it shrinks, and 0, the window's lower end, below and to the right of it.
    """
    images = resize(to_unit(slices, window), size)
    h, w = images.shape[-2:]
    return functional.pad(images, (0, size - w, 0, size - h)) if (h, w) != (size, size) else images


def to_unit(slices: Tensor, window: tuple[float, float]) -> Tensor:
    """HU to [0, 1], linear in the window and clamped outside."""
    low, high = window
    slices = slices if slices.is_floating_point() else slices.float()
    return slices.sub(low).div_(high - low).clamp_(0, 1)


def resize(images: Tensor, size: int) -> Tensor:
    """Scales (B, S, h, w) so that the longest side is `size`: bilinear, antialiased where it shrinks."""
    h, w = images.shape[-2:]
    shape = input_shape(h, w, size)
    if shape == (h, w):
        return images
    return functional.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=max(h, w) > size)
