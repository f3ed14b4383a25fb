"""Encode, attend, detect: a backbone whose pyramid is refined by volumetric attention, and what flows between them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from volattn.models.attention import ContextModule, Descriptors, StackedContext, VolumetricAttention
from volattn.models.backbones import build_backbone
from volattn.models.config import AttentionConfig, DetectorConfig, ModelConfig, Window

Pyramid = Mapping[str, Tensor]
"""Feature maps by level name, finest first, each (B, C, h, w)."""

ContextDescriptors = Mapping[str, Tensor]
"""What context keeps of its images, by name; the first axis of every tensor is the image axis B."""


@dataclass(frozen=True)
class RegionContext:
    """The bags of the targets, where regions are pooled in every image: attention after RoIAlign, and 3DCE.

    Attributes:
        pyramid: Maps of the B context images, raw or as 3DCE pools them; `bags` (M, N) has indices into them.
    """

    pyramid: Pyramid
    bags: Tensor


@dataclass
class Attended:
    """Targets after attention: what `detect` takes.

    Attributes:
        pyramid: Maps of the M targets, refined if attention sits before the RPN.
        regions: The bags, if regions are pooled in all their images.
        weights: Softmax weights over the bag, (M, N) each, by "channel.LEVEL" and "spatial.LEVEL"; for location
            "roi" by "channel.box", ... (means over a target's regions, filled in by `detect`).
    """

    pyramid: Pyramid
    regions: RegionContext | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def maps(self) -> AttendedMaps:
        """The pyramid as the plain dict that torchvision's heads take, with its bags."""
        maps = AttendedMaps(self.pyramid)
        maps.attended = self
        return maps


class AttendedMaps(OrderedDict[str, Tensor]):
    """A pyramid on its way through torchvision's `rpn` and `roi_heads`."""

    attended: Attended


def build_attention(config: AttentionConfig, channels: int, bag: int) -> ContextModule:
    """The module for maps of so many channels and bags of so many images."""
    if config.kind == "stacked":
        return StackedContext(channels, bag, config.maps)
    return VolumetricAttention(
        channels,
        reduction=config.reduction,
        kernel_size=config.kernel_size,
        channel=config.kind in ("channel", "both"),
        spatial=config.kind in ("spatial", "both"),
        scale=config.scale,
        gate_kernel=config.gate_kernel,
        rectifier=config.rectifier,
        gate=config.gate,
        norm=config.norm,
        maps=config.maps if config.embedding == "channels" else 0,
        gate_channels=config.gate_channels,
        offsets=bag if config.offsets else None,
    )


class PyramidAttention(nn.Module):
    """Volumetric attention on every level of a pyramid, own weights each or shared.

    Args:
        channels: C of each level, by its name, finest first; a shared module takes one C.
    """

    def __init__(self, config: AttentionConfig, channels: Mapping[str, int], bag: int) -> None:
        super().__init__()
        self.shared = config.shared
        assert not self.shared or len(set(channels.values())) == 1
        modules = {"all": next(iter(channels.values()))} if config.shared else channels
        self.levels = nn.ModuleDict({name: build_attention(config, count, bag) for name, count in modules.items()})

    def _at(self, level: str) -> ContextModule:
        return cast(ContextModule, self.levels["all" if self.shared else level])

    def describe(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """The descriptors of every level, flat: "channel.LEVEL" (B, C), "spatial.LEVEL" (B, K, h, w)."""
        found: dict[str, Tensor] = {}
        for level, features in pyramid.items():
            for kind, tensor in self._at(level).describe(features)._asdict().items():
                if tensor is not None:
                    found[f"{kind}.{level}"] = tensor
        return found

    def refine(self, target: Pyramid, context: ContextDescriptors, bags: Tensor) -> Attended:
        """The refined targets with the weights of every level."""
        maps: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for level, features in target.items():
            descriptors = Descriptors(context.get(f"channel.{level}"), context.get(f"spatial.{level}"))
            refined = self._at(level).refine_with_weights(features, descriptors, bags)
            maps[level] = refined.features
            for kind, tensor in (("channel", refined.channel), ("spatial", refined.spatial)):
                if tensor is not None:
                    weights[f"{kind}.{level}"] = tensor
        return Attended(maps, weights=weights)


class BagBackbone(nn.Module):
    """A 2D backbone that sees the volume through its bags.

    The module is abstract in `detect`: meta-architectures add their heads.

    Args:
        backbone: From (B, S, H, W) to maps by level.
        channels: C of each of its levels, by name, finest first.
    """

    def __init__(self, config: ModelConfig, backbone: nn.Module, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.attention = (
            None
            if config.pyramid_attention is None
            else PyramidAttention(config.pyramid_attention, channels, config.bag)
        )
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(config.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(shape), persistent=False)

    @property
    def bag(self) -> int:
        """The images that a target's bag must hold: N, or 1 where nothing looks at the others."""
        return self.config.images

    @property
    def window(self) -> Window:
        """The slices that a target predicts: its own, or the block that its bag makes."""
        return self.config.window

    def encode(self, images: Tensor) -> Pyramid:
        """The pyramid of each image: once per image, the expensive part.

        Args:
            images: 2.5D images in [0, 1], shape (B, S, H, W).

        Returns:
            Maps by level, (B, C, h, w).
        """
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        return self.backbone((images - mean) / std)

    def describe(self, pyramid: Pyramid) -> ContextDescriptors:
        """All that context needs to keep of the images: pooled descriptors, or maps that regions are pooled from."""
        if not self.config.uses_context:
            return {}
        if self.attention is None:
            return self.describe_regions(pyramid)
        return self.attention.describe(pyramid)

    def describe_regions(self, pyramid: Pyramid) -> ContextDescriptors:
        """What the regions of a target are pooled from in the images of its bag: whole maps (location "roi")."""
        return dict(pyramid)

    def attend(self, target: Pyramid, context: ContextDescriptors, bags: Tensor) -> Attended:
        """The targets, refined by their bags: nearly free.

        Args:
            context: What `describe` made of the B images.
        """
        if not self.config.uses_context:
            return Attended(target)
        if self.attention is None:
            return Attended(target, RegionContext(context, bags))
        return self.attention.refine(target, context, bags)

    def detect(
        self, attended: Attended, size: tuple[int, int], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses by torchvision's names if there are targets, else per target what is found.

        Args:
            attended: The M targets after attention.
            size: (H, W) of the input images.
            targets: For training; see `forward`.

        Returns:
            Of a detector per target "boxes" (n, 4) xyxy in input pixels, "labels" (n,) from 1, "scores" (n,), and with
            masks "masks"; of a segmenter "probabilities" (K, H, W).
        """
        raise NotImplementedError("a meta-architecture defines detect")

    def predict_window(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        """Of a segmenter: probabilities (M, K, R, H, W) of nested classes on the slices of the targets' windows."""
        raise NotImplementedError("a segmenter defines predict_window")

    def forward(
        self, images: Tensor, bags: Tensor, target_at: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """A slab through encode, attend and detect.

        Args:
            images: (B, S, H, W) in [0, 1].
            bags: Integers into B, shape (M, N).
            target_at: The image of each target, integers into B, shape (M,).
            targets: Per target of a detector "boxes" (n, 4) xyxy in pixels, half-open, "labels" (n,), and for a model
                of masks "masks" (n, H, W) uint8; of a segmenter "label_map" (R, H, W) uint8.

        Returns:
            See `detect`.
        """
        attended = self.attend_slab(images, bags, target_at)
        return self.detect(attended, (images.shape[-2], images.shape[-1]), targets)

    def attend_slab(self, images: Tensor, bags: Tensor, target_at: Tensor) -> Attended:
        """Encode and attend for a whole slab; the context's gradient as `context_grad` says."""
        mode = self.config.context_grad
        if mode == "full" or not torch.is_grad_enabled() or not self.config.uses_context:
            pyramid = self.encode(images)
            target = {level: maps[target_at] for level, maps in pyramid.items()}
            return self.attend(target, self.describe(pyramid), bags)

        own, place = torch.unique(target_at, return_inverse=True)
        pyramid = self.encode(images[own])
        target = {level: maps[place] for level, maps in pyramid.items()}
        others = torch.ones(len(images), dtype=torch.bool, device=target_at.device)
        others[own] = False
        parts = [self.describe(pyramid)]
        order = [own]
        for index in others.nonzero().unbind():
            parts.append(self._describe_context(images[index], mode == "checkpoint"))
            order.append(index)
        if mode == "none":
            parts = [{name: tensor.detach() for name, tensor in part.items()} for part in parts]
        back = torch.argsort(torch.cat(order))
        context = {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
        return self.attend(target, context, bags)

    def _describe_context(self, images: Tensor, recompute: bool) -> ContextDescriptors:
        if recompute:
            return checkpoint(lambda x: self.describe(self.encode(x)), images, use_reentrant=False)
        with torch.no_grad():
            return self.describe(self.encode(images))


class PyramidDetector(BagBackbone):
    """What finds boxes on a feature pyramid, or on VGG-16's one map."""

    def __init__(self, config: DetectorConfig) -> None:
        backbone = build_backbone(config.backbone, config.slices)
        super().__init__(config, backbone, dict.fromkeys(config.backbone.levels, backbone.out_channels))
        self.channels: int = backbone.out_channels
