"""What a segmenter is made of and how it learns, as values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from volattn.config import Channels, Config, Factor, Kernel, Objects, Pixels

Refinement = Literal["none", "crf"]
"""Of a segmenter's probabilities, in prediction."""


class CrfConfig(Config):
    """A dense conditional random field that refines a slice's probabilities (Christ et al.).

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


class HybridConfig(Config):
    """The two networks of H-DenseUNet, at 167 and 65 layers as published.

    Attributes:
        stem: Channels behind the first convolution of both.
        growth: Channels that a layer adds, in the 2D and in the 3D network.
        blocks: Layers of the 2D network's dense blocks.
        volume_blocks: Layers of the 3D network's.
        last: Channels of both networks' last maps, which are added.
        dropout: Share of the last maps that are left out in training.
    """

    stem: Channels = Field(96, ge=8, multiple_of=8)
    growth: tuple[Channels, Channels] = (48, 32)
    blocks: tuple[Kernel, Kernel, Kernel, Kernel] = (6, 12, 36, 24)
    volume_blocks: tuple[Kernel, Kernel, Kernel, Kernel] = (3, 4, 12, 8)
    last: Channels = Field(64, ge=4)
    dropout: float = Field(0.3, ge=0, lt=1)


class SegmentationConfig(Config):
    """How a segmenter learns, and what it makes of its probabilities.

    Attributes:
        losses: Terms of the loss, weighed one each: "cross_entropy", and "dice", one minus the soft Dice of each class
            in each target that shows it.
        class_weights: Of the background, then of each class, in the cross-entropy; null weighs all alike.
        objects: Kept per slice and class, the largest ones.
        width: Channels at full resolution, doubled at each coarser level.
        dropout: Share of the maps that are left out at the two coarsest levels in training.
        crf: Refines the probabilities in prediction; null leaves them.
        hybrid: The networks of H-DenseUNet.
        step: From one window of a 3D network to the next in prediction, as a share of the window; rounded down to a
            multiple of 3 slices, at least 3.
    """

    losses: tuple[Literal["cross_entropy", "dice"], ...] = Field(("cross_entropy", "dice"), min_length=1, max_length=8)
    class_weights: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] | None = Field(None, max_length=8)
    objects: Objects = 100
    width: Channels = Field(64, ge=4)
    dropout: float = Field(0.0, ge=0, lt=1)
    crf: CrfConfig | None = None
    hybrid: HybridConfig = HybridConfig()
    step: float = Field(0.5, gt=0, le=1)
