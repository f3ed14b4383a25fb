"""Two networks, one after the other: the organ, then the lesions in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from volattn.config import Channels, Images
from volattn.models.bag_backbone import Attended
from volattn.models.config import Mean, Refinement, Std
from volattn.models.segmenters.crf import CrfConfig, refine
from volattn.models.segmenters.networks import PlainUNet, ResidualUNet
from volattn.models.segmenters.segmenter import (
    FOREGROUND,
    BagSegmenter,
    SegmentationConfig,
    SegmenterConfig,
    nested_probabilities,
    segmentation_losses,
)


class TwoUNetsSegmentationConfig(SegmentationConfig):
    """See `SegmentationConfig`.

    Attributes:
        width: Channels at full resolution, doubled at each coarser level.
    """

    width: Channels = Field(64, ge=4)


class CascadeSegmentationConfig(TwoUNetsSegmentationConfig):
    """See `TwoUNetsSegmentationConfig`.

    Attributes:
        dropout: Share of the maps that are left out at the two coarsest levels in training.
        crf: Refines the probabilities in prediction; null leaves them.
    """

    dropout: float = Field(0.5, ge=0, lt=1)
    crf: CrfConfig | None = None


class TwoUNetsConfig(SegmenterConfig):
    """The same network for the organ and for the lesions in it, on one image."""

    bag: Literal[1] = 1
    mean: Mean = (0.5,)
    std: Std = (0.25,)
    segmentation: TwoUNetsSegmentationConfig = TwoUNetsSegmentationConfig()


class ResidualUNetConfig(TwoUNetsConfig):
    """Han's."""

    summary: ClassVar[str] = "Han: residual blocks in a U-Net, 5 slices; the organ, then lesions in it"

    name: Literal["residual_unet_25d"] = "residual_unet_25d"
    slices: Images = 5


class CascadeConfig(TwoUNetsConfig):
    """Christ's."""

    summary: ClassVar[str] = "Christ et al.: unpadded U-Nets; the organ, then lesions in what is cut out of it"

    name: Literal["cascade"] = "cascade"
    slices: Images = 1
    segmentation: CascadeSegmentationConfig = CascadeSegmentationConfig()

    @property
    def refinement(self) -> CrfConfig | None:
        return self.segmentation.crf

    def refined(self, refinement: Refinement) -> Self:
        """The same model, but for its refinement; "crf" keeps the present values, if there are any."""
        crf = None if refinement == "none" else self.segmentation.crf or CrfConfig()
        return self.model_copy(update={"segmentation": self.segmentation.model_copy(update={"crf": crf})})


MakeNetwork = Callable[[Any, int], nn.Module]
"""From the configuration and a number of classes to a network from (B, S, H, W) to so many class scores."""

_IMAGE, _ORGAN = "image", "organ"


class OrganFirst(nn.Module):
    """The images, and the scores of the organ's network; without one where only lesions are known."""

    def __init__(self, network: nn.Module | None) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, S, H, W) -> the same, and with an organ its scores (B, 2, H, W)."""
        found: OrderedDict[str, Tensor] = OrderedDict({_IMAGE: images})
        if self.network is not None:
            found[_ORGAN] = self.network(images)
        return found


class Cascade(BagSegmenter):
    """The organ, then the lesions in it (Christ et al. 2016; Han 2017): the same network twice, learnt together.

    Published, the two are trained one after the other, on grids of their own; here both see the slab's. What the second
    learns does not depend on the first: in training the organ is the reference.

    Args:
        classes: K, background not counted; with 1 there is no organ, and one network.
        masked: Whether the second sees only the organ, the rest being 0, and tells lesion from other (Christ). Else it
            sees all and has all classes, and only what it finds in the organ counts (Han).
    """

    def __init__(self, config: TwoUNetsConfig, classes: int, *, network: MakeNetwork, masked: bool) -> None:
        first = network(config, 2) if classes > 1 else None
        super().__init__(config, OrganFirst(first), {}, classes)
        self.masked = masked
        self.outputs = 2 if masked else classes + 1
        self.classes = classes
        self.lesion = network(config, self.outputs)

    def losses(self, attended: Attended, size: tuple[int, int], labels: Tensor) -> dict[str, Tensor]:
        """The terms of both networks, "loss_organ_" and "loss_lesion_"."""
        settings, maps = self.config.segmentation, attended.pyramid
        labels = labels[:, 0]
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
        crf = self.config.refinement
        if isinstance(crf, CrfConfig):
            std, mean = (cast(Tensor, one).flatten()[-1] for one in (self.std, self.mean))
            middle = image[:, image.shape[1] // 2] * std + mean
            shares = refine(crf, shares, middle)
        return nested_probabilities(shares.clamp_min(torch.finfo(shares.dtype).tiny).log())

    def _seen(self, images: Tensor, organ: Tensor) -> Tensor:
        return images * organ[:, None] if self.masked and self.classes > 1 else images


def plain_unet(config: CascadeConfig, outputs: int) -> nn.Module:
    """Christ's."""
    settings = config.segmentation
    return PlainUNet(config.slices, outputs, settings.width, settings.dropout)


def residual_unet(config: ResidualUNetConfig, outputs: int) -> nn.Module:
    """Han's."""
    return ResidualUNet(config.slices, outputs, config.segmentation.width)
