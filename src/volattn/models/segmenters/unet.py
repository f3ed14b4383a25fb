"""The 2D U-Net: a ResNet encoder, its maps refined by volumetric attention, and the decoder of
segmentation-models-pytorch."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal, Self, cast

from pydantic import model_validator
from torch import Tensor, nn

from volattn.models.backbones import replace_batch_norms, resnet_body
from volattn.models.bag_backbone import Attended
from volattn.models.config import AttendingConfig, EncoderConfig, ResNetConfig
from volattn.models.segmenters.segmenter import BagSegmenter, SegmenterConfig
from volattn.models.weights import load_extra


class UNet2DConfig(EncoderConfig, SegmenterConfig):
    """The 2D U-Net."""

    summary: ClassVar[str] = "every pixel's class, by a ResNet encoder and a U-Net decoder"
    package: ClassVar[str | None] = "segmentation_models_pytorch"

    name: Literal["unet_2d", "va_unet"] = "unet_2d"


class VAUNetConfig(AttendingConfig, UNet2DConfig):
    """The 2D U-Net with volumetric attention."""

    summary: ClassVar[str] = "the same, volumetric attention on its skip pyramid"

    name: Literal["va_unet"] = "va_unet"

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        if self.attention.shared:
            raise ValueError("va_unet has maps of different widths: set attention.shared=false")
        return self


class ResNetEncoder(nn.Module):
    """The maps of a ResNet: of its stem (stride 2) and of every stage (4, 8, ...)."""

    def __init__(self, config: ResNetConfig, slices: int) -> None:
        super().__init__()
        self.body, widths = resnet_body(config, slices)
        self.channels = {str(level): count for level, count in enumerate((config.width, *widths))}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, S, H, W) -> maps "0", "1", ... (B, C, h, w), finest first."""
        found: OrderedDict[str, Tensor] = OrderedDict()
        maps = images
        for name, module in self.body.named_children():
            maps = module(maps)
            if name == "relu" or name.startswith("layer"):
                found[str(len(found))] = maps
        return found


class UNet(BagSegmenter):
    """A 2D U-Net on 2.5D images; with attention, its skip connections and its deepest map are refined by the bag.

    With the same weights and norms it is `segmentation_models_pytorch.Unet`. The decoder has GroupNorm: nothing
    published fills a frozen norm of it, and batch norm would tie a target to what shares its batch.
    """

    def __init__(self, config: UNet2DConfig, classes: int) -> None:
        encoder = ResNetEncoder(config.backbone, config.slices)
        super().__init__(config, encoder, encoder.channels, classes)
        decoders = load_extra(config.name, "segmentation_models_pytorch.decoders.unet.decoder")
        # At width 64 and four stages the library's own: 256, 128, 64, 32, 16. Narrower networks keep the last: on 8
        # channels a decoder hardly learns what is faint.
        finest = max(16, config.backbone.width // 4)
        widths = [finest * 2**level for level in reversed(range(len(encoder.channels)))]
        self.decoder: nn.Module = decoders.UnetDecoder(
            (config.slices, *encoder.channels.values()), widths, n_blocks=len(widths)
        )
        replace_batch_norms(self.decoder)
        self.head = nn.Conv2d(finest, classes + 1, 3, padding=1)

    def logits(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K + 1, H, W); see `BagSegmenter.logits`."""
        maps = list(attended.pyramid.values())
        # Of the image the decoder reads only the shape.
        image = maps[0].new_zeros(()).expand(len(maps[0]), 1, *size)
        return self.head(cast(Tensor, self.decoder([image, *maps])))
