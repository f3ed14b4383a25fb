"""A dense conditional random field on a slice, by mean field (Kraehenbuehl and Koltun 2011), in a truncated window.

Two networks, one after the other: the organ, then the lesions in it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volattn.models.bag_backbone import Attended
from volattn.models.config import ModelConfig
from volattn.models.segmenters.config import CrfConfig
from volattn.models.segmenters.networks import PlainUNet, ResidualUNet
from volattn.models.segmenters.segmenter import FOREGROUND, BagSegmenter, nested_probabilities, segmentation_losses


@torch.no_grad()
def refine(config: CrfConfig, probabilities: Tensor, images: Tensor) -> Tensor:
    """Lets pixels that lie close, and look alike, agree on their class.

    With unary energies -log p, a Potts model and the kernel

        k(i, j) = a exp(-|x_i - x_j|^2 / 2 s^2) + b exp(-|x_i - x_j|^2 / 2 t^2 - (v_i - v_j)^2 / 2 u^2)

    an iteration of mean field is q_i(l) ~ p_i(l) exp(sum_j k(i, j) q_j(l)); j runs over the window around i.

    Args:
        config: Iterations, window, weights a and b, standard deviations s and t (pixels) and u (image values).
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


MakeNetwork = Callable[[ModelConfig, int], nn.Module]
"""Makes a network from (B, S, H, W) to so many class scores."""

_IMAGE, _ORGAN = "image", "organ"


class OrganFirst(nn.Module):
    """Beside the images what the organ's network says of them.

    Args:
        network: The organ's; None where only lesions are known.
    """

    def __init__(self, network: nn.Module | None) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, S, H, W) -> the images, and with an organ its scores (B, 2, H, W)."""
        found: OrderedDict[str, Tensor] = OrderedDict({_IMAGE: images})
        if self.network is not None:
            found[_ORGAN] = self.network(images)
        return found


class Cascade(BagSegmenter):
    """The organ, then the lesions in it (Christ et al. 2016; Han 2017): the same network twice, learnt together.

    Published, the two are trained one after the other, on grids of their own; here both see the slab's. What the second
    learns does not depend on the first: in training the organ is the reference.

    Args:
        config: The network.
        classes: K, background not counted; with 1 there is no organ, and one network.
        network: What both are.
        masked: Whether the second sees only the organ, the rest being 0, and tells lesion from other (Christ). Else it
            sees all and has all classes, and only what it finds in the organ counts (Han).
    """

    def __init__(self, config: ModelConfig, classes: int, *, network: MakeNetwork, masked: bool) -> None:
        first = network(config, 2) if classes > 1 else None
        super().__init__(config, OrganFirst(first), {}, classes)
        self.masked = masked
        self.outputs = 2 if masked else classes + 1
        self.classes = classes
        self.lesion = network(config, self.outputs)

    def losses(self, attended: Attended, size: tuple[int, int], labels: Tensor) -> dict[str, Tensor]:
        """The terms of both networks, "loss_organ_" and "loss_lesion_"."""
        settings, maps = self.config.segmentation, attended.pyramid
        organ, lesion = labels >= 1, labels == self.classes
        scores = self.lesion(self._seen(maps[_IMAGE], organ))
        wanted = lesion.long() if self.masked else labels
        found = {"lesion": segmentation_losses(settings, scores, wanted)}
        if _ORGAN in maps:
            plain = settings.model_copy(update={"class_weights": None})
            found["organ"] = segmentation_losses(plain, maps[_ORGAN], organ.long())
        return {
            name.replace("loss_", f"loss_{stage}_"): loss
            for stage, losses in found.items()
            for name, loss in losses.items()
        }

    def probabilities(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K, H, W): a lesion's is 0 where the organ's is below 0.5."""
        maps = attended.pyramid
        image = maps[_IMAGE]
        if _ORGAN not in maps:
            lesion = self.lesion(image).softmax(dim=1)[:, -1]
            shares = torch.stack([1 - lesion, lesion], dim=1)
        else:
            organ = maps[_ORGAN].softmax(dim=1)[:, -1]
            inside = organ >= FOREGROUND
            lesion = self.lesion(self._seen(image, inside)).softmax(dim=1)[:, -1] * inside
            shares = torch.stack([1 - organ, organ * (1 - lesion), organ * lesion], dim=1)
        if self.config.segmentation.crf is not None:
            std, mean = (cast(Tensor, one).flatten()[-1] for one in (self.std, self.mean))
            middle = image[:, image.shape[1] // 2] * std + mean
            shares = refine(self.config.segmentation.crf, shares, middle)
        return nested_probabilities(shares.clamp_min(torch.finfo(shares.dtype).tiny).log())

    def _seen(self, images: Tensor, organ: Tensor) -> Tensor:
        return images * organ[:, None] if self.masked and self.classes > 1 else images


def plain_unet(config: ModelConfig, outputs: int) -> nn.Module:
    """Christ's."""
    settings = config.segmentation
    return PlainUNet(config.slices, outputs, settings.width, settings.dropout)


def residual_unet(config: ModelConfig, outputs: int) -> nn.Module:
    """Han's."""
    return ResidualUNet(config.slices, outputs, config.segmentation.width)
