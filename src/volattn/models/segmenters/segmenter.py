"""Segmenters: models that give every pixel of a target its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from volattn.config import Config
from volattn.models.bag_backbone import Attended, BagBackbone
from volattn.models.config import ModelConfig, Output
from volattn.models.precision import full

FOREGROUND = 0.5
"""The probability from which on a pixel belongs to a class."""


class SegmentationConfig(Config):
    """How a segmenter learns.

    Attributes:
        losses: Terms of the loss, weighed one each: "cross_entropy", and "dice", one minus the soft Dice of each class
            in each target that shows it.
        class_weights: Of the background, then of each class, in the cross-entropy; null weighs all alike.
    """

    losses: tuple[Literal["cross_entropy", "dice"], ...] = Field(("cross_entropy", "dice"), min_length=1, max_length=8)
    class_weights: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] | None = Field(None, max_length=8)


class SegmenterConfig(ModelConfig):
    """A segmenter."""

    output: ClassVar[Output] = "label_map"

    segmentation: SegmentationConfig = SegmentationConfig()

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        return self.segmentation.class_weights


def nested_probabilities(logits: Tensor) -> Tensor:
    """The probability of each class, that of the classes inside it included.

    A softmax shares a pixel out among background, organ and lesion; what is lesion is organ too.

    Returns:
        (M, K, ...), falling from class to class.
    """
    inner_first = logits.softmax(dim=1).flip(1)
    return inner_first.cumsum(dim=1).flip(1)[:, 1:].clamp(0, 1)


class BagSegmenter(BagBackbone):
    """Gives every pixel of a target its class.

    The module is abstract in `logits`, or in `losses` and `probabilities`.

    Raises:
        ValueError: There are class weights, but not one for each class.
    """

    config: SegmenterConfig

    def __init__(self, config: SegmenterConfig, backbone: nn.Module, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(config, backbone, channels)
        weights = config.class_weights
        if weights is not None and len(weights) != classes + 1:
            raise ValueError(
                f"segmentation.class_weights must have {classes + 1} values, the background's first, "
                f"found {len(weights)}"
            )

    def logits(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K + 1, H, W), the background first, of the M targets for input images of `size` (H, W)."""
        raise NotImplementedError("a segmenter defines logits")

    def detect(
        self, attended: Attended, size: tuple[int, int], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The losses, "loss_" and the names in `segmentation.losses`; or per target "probabilities" (K, H, W)."""
        if targets is not None and self.training:
            return self.losses(attended, size, torch.stack([target["label_map"] for target in targets]).long())
        windows = self.predict_window(attended, size)
        return [{"probabilities": window} for window in windows[:, :, windows.shape[2] // 2]]

    def losses(self, attended: Attended, size: tuple[int, int], labels: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, from the classes (M, R, H, W) of the slices of the targets' windows."""
        return segmentation_losses(self.config.segmentation, self.logits(attended, size), labels[:, 0])

    def probabilities(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K, H, W) of nested classes."""
        return nested_probabilities(full(self.logits(attended, size)))

    def predict_window(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """(M, K, R, H, W): probabilities of nested classes on the slices of the targets' windows."""
        return full(self.probabilities(attended, size))[:, :, None]


def segmentation_losses(config: SegmentationConfig, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The terms of a segmenter's loss, means over the targets: no target's loss depends on what shares a batch.

    Args:
        logits: (M, K + 1, H, W).
        labels: (M, H, W) from 0.
    """
    logits = full(logits)  # A sum over 512 x 512 probabilities is beyond float16.
    terms = {"cross_entropy": _cross_entropy, "dice": _dice}
    return {f"loss_{name}": terms[name](config, logits, labels) for name in config.losses}


def _cross_entropy(config: SegmentationConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all pixels, each weighed by its class; the weights are not divided out, as they would be by batch."""
    weights = None if config.class_weights is None else logits.new_tensor(config.class_weights)
    return F.cross_entropy(logits, labels, weights, reduction="none").mean()


def _dice(config: SegmentationConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """1 - (2 sum p y + 1) / (sum p + sum y + 1) of the nested classes that a target shows, else 0; mean of all.

    A class that is not there is left to the cross-entropy: its overlap would be 0 at any probability, and as most
    slices show no lesion, a network would learn to find none anywhere.
    """
    found = nested_probabilities(logits)
    classes = torch.arange(1, found.shape[1] + 1, device=labels.device)
    reference = (labels[:, None] >= classes[:, None, None]).to(found.dtype)
    common = (found * reference).sum(dim=(-2, -1))
    shown = reference.sum(dim=(-2, -1))
    both = found.sum(dim=(-2, -1)) + shown
    return ((1 - (2 * common + 1) / (both + 1)) * (shown > 0)).mean()
