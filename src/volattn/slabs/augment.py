"""Augmentation, drawn once per slab: all its images, boxes and masks move together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from volattn.config import Config
from volattn.slabs.images import input_shape, resize, to_input, to_unit

_Zoom = Annotated[float, Field(gt=0, le=100)]


class AugmentConfig(Config):
    """How far slabs are moved and their HU changed; drawn uniformly within these bounds.

    Attributes:
        rotate: Largest turn in the slice plane, degrees, to either side.
        zoom: Least and largest enlargement (uniform in its logarithm).
        hu_gain: Largest relative change of HU, to either side: contrast about water.
        hu_shift: Largest change of HU, to either side.
    """

    flip: float = Field(default=0.5, ge=0, le=1)
    rotate: float = Field(default=10.0, ge=0, le=180)
    zoom: tuple[_Zoom, _Zoom] = (0.85, 1.2)
    hu_gain: float = Field(default=0.05, ge=0, lt=1)
    hu_shift: float = Field(default=10.0, ge=0, le=65536)

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.zoom
        if low > high:
            raise ValueError(f"zoom must be two values, 0 < least <= largest, found {list(self.zoom)}")
        return self


@dataclass(frozen=True)
class Augmentation:
    """One draw: x' = centre + zoom * turn(flip(x - centre)), HU' = gain * HU + shift.

    Attributes:
        angle: Turn in the slice plane, degrees, clockwise on the screen (rows run down).
        gain: Factor on HU.
    """

    flip: bool = False
    angle: float = 0.0
    zoom: float = 1.0
    gain: float = 1.0
    shift: float = 0.0

    @classmethod
    def draw(cls, config: AugmentConfig, seed: int, epoch: int, index: int) -> Self:
        """The draw for slab `index` of `epoch`: a function of its arguments only.

        Every value is drawn whatever the bounds of the others: changing one setting leaves the others' draws.
        """
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, index)))
        flip, angle, zoom, gain, shift = generator.random(5).tolist()
        low, high = (math.log(value) for value in config.zoom)
        return cls(
            flip=flip < config.flip,
            angle=(2 * angle - 1) * config.rotate,
            zoom=math.exp(low + (high - low) * zoom),
            gain=1 + (2 * gain - 1) * config.hu_gain,
            shift=(2 * shift - 1) * config.hu_shift,
        )

    @property
    def moves(self) -> bool:
        """Whether anything moves in the plane."""
        return self.flip or self.angle != 0 or self.zoom != 1

    def window(self, window: tuple[float, float]) -> tuple[float, float]:
        """The window in which unchanged HU look as changed HU do in `window`."""
        low, high = ((value - self.shift) / self.gain for value in window)
        return low, high

    def back(self) -> NDArray[np.float64]:
        """(2, 2) matrix on (x, y) about the centre: from a pixel of the result to where it comes from."""
        cosine, sine = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        turn_back = np.array([[cosine, sine], [-sine, cosine]]) / self.zoom
        return np.diag([-1.0 if self.flip else 1.0, 1.0]) @ turn_back


def move_images(slices: Tensor, augmentation: Augmentation, window: tuple[float, float], size: int) -> Tensor:
    """`to_input` of moved and changed slices; without a move it is `to_input`.

    Args:
        slices: HU (B, S, h, w).

    Returns:
        (B, S, size, size) float32 in [0, 1]; 0 where the moved slice does not reach.
    """
    window = augmentation.window(window)
    if not augmentation.moves:
        return to_input(slices, window, size)
    b, s, h, w = slices.shape
    images = to_unit(slices, window)
    if max(h, w) > size:  # Antialiased first; an enlargement is done by the one sampling below.
        images = resize(images, size)
    grid = _sampling_grid(augmentation, (h, w), size)
    # All slices share the grid, so they are channels of one image: its weights are computed once.
    moved = functional.grid_sample(
        images.reshape(1, b * s, *images.shape[-2:]), grid, "bilinear", "border", align_corners=False
    )
    inside = (grid.abs() <= 1).all(-1)
    return moved.mul_(inside).reshape(b, s, size, size)


def move_maps(maps: NDArray[np.int32], augmentation: Augmentation, size: int) -> NDArray[np.int32]:
    """Moves maps of labels or numbers to where `move_images` moves the slices; nearest neighbour.

    Args:
        maps: (n, h, w), values below 2**24.

    Returns:
        (n, size, size), 0 where the moved maps do not reach.
    """
    h, w = maps.shape[-2:]
    if not augmentation.moves and (h, w) == (size, size):
        return maps
    grid = _sampling_grid(augmentation, (h, w), size)
    values = torch.from_numpy(maps).float()[None]
    moved = functional.grid_sample(values, grid, "nearest", "zeros", align_corners=False)
    return moved[0].to(torch.int32).numpy()


def move_boxes(
    boxes: NDArray[np.float64], shape: tuple[int, int], augmentation: Augmentation, size: int
) -> NDArray[np.float64]:
    """Moves boxes to where `move_images` moves what is in them, and cuts them to the frame.

    A turned box is that of the ellipse that filled it: the corners of a box are not part of its lesion, and a box
    around the turned corners would grow with every angle.

    Args:
        boxes: (n, 4) xyxy, half-open, in pixels of the slice.
        shape: (h, w) of the slice.

    Returns:
        (n, 4) in input pixels; what the frame does not show has no area.
    """
    h, w = shape
    rows, columns = input_shape(h, w, size)
    filled = np.array([columns, rows], np.float64)
    low, high = boxes[:, :2] * filled / (w, h), boxes[:, 2:] * filled / (w, h)
    forward = np.linalg.inv(augmentation.back())
    centre = ((low + high) / 2 - filled / 2) @ forward.T + filled / 2
    half = np.hypot(forward[:, 0] * (high - low)[:, :1] / 2, forward[:, 1] * (high - low)[:, 1:] / 2)
    return np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, size)


def _sampling_grid(augmentation: Augmentation, shape: tuple[int, int], size: int) -> Tensor:
    """Where each input pixel comes from: (1, size, size, 2), (x, y) from -1 to 1 over the prepared slice.

    Edge to edge, so that the one grid serves the slice at any resolution.
    """
    rows, columns = input_shape(*shape, size)
    filled = np.array([columns, rows], np.float64)
    back = augmentation.back()
    # affine_grid gives x in -1..1 over the whole input: x * size / 2 pixels from its centre. The centre of
    # the filled part, about which all turns, lies (size - filled) / 2 pixels before that.
    theta = np.concatenate([back * size, (back @ (size - filled))[:, None]], axis=1) / filled[:, None]
    return functional.affine_grid(torch.from_numpy(theta).float()[None], [1, 1, size, size], align_corners=False)
