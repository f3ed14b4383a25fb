"""A dense conditional random field on a slice, by mean field (Kraehenbuehl and Koltun 2011), in a truncated window."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from volattn.config import Config, Factor, Kernel, Pixels


class CrfConfig(Config):
    """Refines a slice's probabilities (Christ et al.).

    Attributes:
        iterations: Of mean field.
        radius: Of the window around a pixel, input pixels.
        position_weight: Of the kernel on position alone.
        position_std: Its standard deviation, input pixels.
        image_weight: Of the kernel on position and image.
        image_position_std: Its standard deviation, input pixels.
        image_std: Its standard deviation in the image, as a share of the window of HU (0.04 is 20 HU of 500).
    """

    iterations: int = Field(10, ge=1, le=1000)
    radius: Kernel = 5
    position_weight: float = Field(3.0, ge=0, le=1e6)
    position_std: Pixels = 1.5
    image_weight: float = Field(10.0, ge=0, le=1e6)
    image_position_std: Pixels = 9.0
    image_std: Factor = 0.04


@torch.no_grad()
def refine(config: CrfConfig, probabilities: Tensor, images: Tensor) -> Tensor:
    """Lets pixels that lie close, and look alike, agree on their class.

    With unary energies -log p, a Potts model and the kernel

        k(i, j) = a exp(-|x_i - x_j|^2 / 2 s^2) + b exp(-|x_i - x_j|^2 / 2 t^2 - (v_i - v_j)^2 / 2 u^2)

    an iteration of mean field is q_i(l) ~ p_i(l) exp(sum_j k(i, j) q_j(l)); j runs over the window around i.

    Args:
        probabilities: (M, L, H, W), they sum to 1 over L.
        images: (M, H, W), v.

    Returns:
        q of the last iteration, (M, L, H, W).
    """
    unary = probabilities.clamp_min(1e-6).log()
    kernels = _kernels(config, images)
    found = probabilities
    for _ in range(config.iterations):
        message = torch.zeros_like(found)
        for (down, right), kernel in kernels:
            message += kernel[:, None] * _moved(found, down, right)
        found = (unary + message).softmax(dim=1)
    return found


def _kernels(config: CrfConfig, images: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
    """For every step within the window, k between each pixel and the one so far away; 0 beyond the edge."""
    inside = torch.ones_like(images)
    kernels = []
    for down in range(-config.radius, config.radius + 1):
        for right in range(-config.radius, config.radius + 1):
            distance = down**2 + right**2
            if not 0 < distance <= config.radius**2:
                continue
            position = config.position_weight * math.exp(-distance / (2 * config.position_std**2))
            near = config.image_weight * math.exp(-distance / (2 * config.image_position_std**2))
            difference = images - _moved(images, down, right)
            alike = torch.exp(-(difference**2) / (2 * config.image_std**2))
            kernels.append(((down, right), (position + near * alike) * _moved(inside, down, right)))
    return kernels


def _moved(maps: Tensor, down: int, right: int) -> Tensor:
    """What lies so many pixels further down and to the right of each pixel; 0 beyond the edge."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (max(0, -right), max(0, right), max(0, -down), max(0, down)))
    top, left = max(0, down), max(0, right)
    return padded[..., top : top + height, left : left + width]
