"""Two networks, one after the other: the organ, then the lesions in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from volattn.models.comparators.crf import refine
from volattn.models.comparators.plain_unet import PlainUNet
from volattn.models.comparators.residual_unet import ResidualUNet
from volattn.models.config import ModelConfig
from volattn.models.instances import FOREGROUND, nested_probabilities
from volattn.models.pyramid import Attended
from volattn.models.segmenter import BagSegmenter, segmentation_losses

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
