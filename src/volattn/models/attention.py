"""Volumetric attention (MICCAI 2019, section 2): the slices around a target refine its feature map.

`StackedContext` is context without attention; it is not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volattn.models.precision import full, full_type, no_autocast

GATE_BIAS = 3.0
"""Gates start at sigmoid(3) = 0.95, so that a pretrained network is hardly scaled at first."""

Rectifier = Literal["relu", "leaky"]
"""In front of a gate: relu, or x where x > 0 and x / 10 elsewhere."""

_RECTIFIERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky": partial(F.leaky_relu, negative_slope=0.1),
}


class Descriptors(NamedTuple):
    """What is kept of an image as context: C numbers and one map, or a few maps.

    Attributes:
        channel: g(X) of eq. 2, shape (B, C), or None without channel attention.
        spatial: e(X) of eq. 3, shape (B, H, W), or the maps of `StackedContext`, (B, K, H, W); None without either.
    """

    channel: Tensor | None
    spatial: Tensor | None


class Refined(NamedTuple):
    """A refined target, and the attention weights of its bag.

    Attributes:
        features: X'' of shape (M, C, H, W).
        channel: Softmax weights of eq. 2 over the bag, shape (M, N), or None.
        spatial: Softmax weights of eq. 3 over the bag, shape (M, N), or None.
    """

    features: Tensor
    channel: Tensor | None
    spatial: Tensor | None


class ContextModule(nn.Module):
    """Refines targets by their bags; the optimiser gives these modules a learning rate of their own."""

    def describe(self, features: Tensor) -> Descriptors:
        """What bags need of raw maps (B, C, H, W)."""
        raise NotImplementedError("a context module defines describe")

    def refine_with_weights(self, target: Tensor, descriptors: Descriptors, bags: Tensor) -> Refined:
        """Refines targets by their bags.

        Args:
            target: X_tgt, shape (M, C, H, W).
            descriptors: Of the B images that the bags point to.
            bags: Integers into B in the order of the slices, shape (M, N).
        """
        raise NotImplementedError("a context module defines refine_with_weights")


class ChannelAttention(nn.Module):
    """Volumetric channel attention (section 2.2, eq. 2); in float32 under autocast, whatever the maps are."""

    def __init__(self, channels: int, reduction: int, rectifier: Rectifier) -> None:
        super().__init__()
        self.rectify = _RECTIFIERS[rectifier]
        reduced = max(1, channels // reduction)
        self.reduce = nn.Linear(channels, reduced, bias=False)
        self.expand = nn.Linear(reduced, channels, bias=False)
        self.gate = nn.Linear(channels, channels)
        nn.init.kaiming_normal_(self.reduce.weight, nonlinearity="relu")
        # A few rectified units can all be off for every image, and would stay so. Of a pair w, -w one is always on.
        with torch.no_grad():
            half = reduced // 2
            self.reduce.weight[half : 2 * half] = -self.reduce.weight[:half]
        _open(self.gate)

    def describe(self, features: Tensor) -> Tensor:
        """g(X) = W2 relu(W1 avg_hw X): (B, C, H, W) -> (B, C)."""
        pooled = features.mean(dim=(-2, -1), dtype=full_type(features))
        with no_autocast(features):
            return self.expand(F.relu(self.reduce(pooled.to(self.reduce.weight.dtype))))

    def forward(self, target: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The gate S_c (M, C, 1, 1) and the weights (M, N), from g of the target (M, C) and of its bag (M, N, C)."""
        target, bag = full(target), full(bag)
        with no_autocast(target):
            weights = torch.einsum("mc,mnc->mn", target, bag).softmax(dim=-1)
            value = self.rectify(torch.einsum("mn,mnc->mc", weights, bag))
            return torch.sigmoid(self.gate(value.to(self.gate.weight.dtype)))[:, :, None, None], weights


class SpatialAttention(nn.Module):
    """Volumetric spatial attention (section 2.3, eq. 3); in float32 under autocast, whatever the maps are."""

    def __init__(
        self, kernel_size: int, gate_kernel: int, scale: Literal["none", "sqrt", "mean"], rectifier: Rectifier
    ) -> None:
        super().__init__()
        self.rectify = _RECTIFIERS[rectifier]
        self.scale = scale
        self.embed = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.gate = nn.Conv2d(1, 1, gate_kernel, padding=gate_kernel // 2)
        # The gate reads relu(m): an embedding that is negative everywhere would give it nothing and get no gradient.
        nn.init.uniform_(self.embed.weight, 0.0, 2.0 / self.embed.weight.numel())
        _open(self.gate)

    def describe(self, features: Tensor) -> Tensor:
        """e(X) = W [max_c X ; mean_c X]: (B, C, H, W) -> (B, H, W)."""
        kind = self.embed.weight.dtype
        mean = features.mean(dim=1, dtype=full_type(features)).to(kind)
        with no_autocast(features):
            return self.embed(torch.stack((features.amax(dim=1).to(kind), mean), dim=1)).squeeze(1)

    def forward(self, target: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The gate S_s (M, 1, H, W) and the weights (M, N), from e of the target (M, H, W) and the bag (M, N, H, W)."""
        positions = target.shape[-2] * target.shape[-1]
        factor = {"none": 1.0, "sqrt": 1.0 / math.sqrt(positions), "mean": 1.0 / positions}[self.scale]
        target, bag = full(target), full(bag)
        with no_autocast(target):
            weights = torch.einsum("mhw,mnhw->mn", target * factor, bag).softmax(dim=-1)
            value = self.rectify(torch.einsum("mn,mnhw->mhw", weights, bag))[:, None]
            return torch.sigmoid(self.gate(value.to(self.gate.weight.dtype))), weights


class VolumetricAttention(ContextModule):
    """Refines a target's feature map by the maps of the slices around it; a drop-in for any CNN.

    Channel attention first, then spatial attention on the channel-refined target. The context stays raw, so that it
    is pooled once whatever number of targets use it: `describe` and `refine` are the pooled path that slabs and
    streaming use, `forward` takes whole maps. The two agree to float rounding. Refined maps have the type of the
    target's; descriptors and weights are float32 or longer.

    Args:
        channels: C, the channels of the maps.
        reduction: r; the channel embedding narrows C to max(1, C // r).
        scale: Factor on the spatial dot products: "none" (as in the paper), "sqrt" (1/sqrt(HW)) or "mean" (1/HW).
        gate_kernel: Odd side of the convolution that makes the spatial gate.
        rectifier: In front of both gates: "relu" (as in the paper), or "leaky", which no training can switch off.

    Raises:
        ValueError: A size is not positive, a kernel is even, or scale or rectifier is unknown.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        channel: bool = True,
        spatial: bool = True,
        scale: Literal["none", "sqrt", "mean"] = "mean",
        gate_kernel: int = 1,
        rectifier: Rectifier = "relu",
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"channels and reduction must be positive, found {channels} and {reduction}")
        for name, size in (("kernel_size", kernel_size), ("gate_kernel", gate_kernel)):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{name} must be odd and positive, found {size}")
        if scale not in ("none", "sqrt", "mean"):
            raise ValueError(f"scale must be none, sqrt or mean, found {scale!r}")
        if rectifier not in _RECTIFIERS:
            raise ValueError(f"rectifier must be relu or leaky, found {rectifier!r}")
        self.channel = ChannelAttention(channels, reduction, rectifier) if channel else None
        self.spatial = SpatialAttention(kernel_size, gate_kernel, scale, rectifier) if spatial else None

    def forward(self, target: Tensor, context: Tensor) -> Tensor:
        """Attends over exactly the images given.

        Args:
            context: The bag of each target (eq. 1), shape (M, N, C, H, W); the target is among them if the caller
                put it there.

        Returns:
            X'' of shape (M, C, H, W).
        """
        if target.dim() != 4 or context.dim() != 5 or target.shape != context[:, 0].shape:
            raise ValueError(
                "volumetric attention takes a target of shape (M, C, H, W) and a context of shape (M, N, C, H, W), "
                f"found {tuple(target.shape)} and {tuple(context.shape)}"
            )
        count, images = context.shape[:2]
        bags = torch.arange(count * images, device=context.device).view(count, images)
        return self.refine(target, self.describe(context.flatten(0, 1)), bags)

    def describe(self, features: Tensor) -> Descriptors:
        """g and e of raw maps (B, C, H, W)."""
        if features.dim() != 4:
            raise ValueError(f"describe takes maps of shape (B, C, H, W), found {tuple(features.shape)}")
        return Descriptors(
            self.channel.describe(features) if self.channel is not None else None,
            self.spatial.describe(features) if self.spatial is not None else None,
        )

    def refine(self, target: Tensor, descriptors: Descriptors, bags: Tensor) -> Tensor:
        """Refines targets by their bags.

        Returns:
            X'' of shape (M, C, H, W).
        """
        return self.refine_with_weights(target, descriptors, bags).features

    def refine_with_weights(self, target: Tensor, descriptors: Descriptors, bags: Tensor) -> Refined:
        """As `refine`, with the attention weights of the bags."""
        if target.dim() != 4 or bags.dim() != 2 or len(target) != len(bags):
            raise ValueError(
                "refine takes a target of shape (M, C, H, W) and bags of shape (M, N), "
                f"found {tuple(target.shape)} and {tuple(bags.shape)}"
            )
        channel_weights = spatial_weights = None
        if self.channel is not None:
            assert descriptors.channel is not None
            gate, channel_weights = self.channel(self.channel.describe(target), descriptors.channel[bags])
            target = target * gate.to(target.dtype)
        if self.spatial is not None:
            assert descriptors.spatial is not None
            gate, spatial_weights = self.spatial(self.spatial.describe(target), descriptors.spatial[bags])
            target = target * gate.to(target.dtype)
        return Refined(target, channel_weights, spatial_weights)


def _open(gate: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(gate.weight)
    assert gate.bias is not None
    nn.init.constant_(gate.bias, GATE_BIAS)


def entropy(weights: Tensor) -> Tensor:
    """Entropy of attention weights over the bag, as a share of the uniform one's: 1 is uniform, 0 one-hot.

    Args:
        weights: Softmax weights, shape (..., N).

    Returns:
        Shape (...); 1 where N is 1.
    """
    images = weights.shape[-1]
    if images == 1:
        return torch.ones_like(weights[..., 0])
    return torch.special.entr(weights).sum(dim=-1) / math.log(images)


class StackedContext(ContextModule):
    """Adds to a target's feature map a few maps of every image of its bag.

        e(X) = W X                                          3 x 3, C -> K, no bias
        X'   = X_tgt + V relu([e(X_1), ..., e(X_N)]) + b    1 x 1, N K -> C

    A gate can only turn down what the target itself shows (`docs/explanation/claim.md`); here context is added, and
    slices keep their order. As with attention an image is described once, whatever number of targets use it. V and b
    start at 0: a pretrained network is unchanged.

    A drop-in for `VolumetricAttention`, but for a fixed N.

    Args:
        channels: C.
        bag: N, odd.
        maps: K.
        kernel_size: Odd side of the embedding's convolution.
    """

    def __init__(self, channels: int, bag: int, maps: int = 8, kernel_size: int = 3) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, maps, kernel_size, padding=kernel_size // 2, bias=False)
        self.mix = nn.Conv2d(bag * maps, channels, 1)
        nn.init.zeros_(self.mix.weight)
        assert self.mix.bias is not None
        nn.init.zeros_(self.mix.bias)

    def describe(self, features: Tensor) -> Descriptors:
        """e of raw maps (B, C, H, W): (B, K, H, W)."""
        return Descriptors(None, self.embed(features))

    def refine_with_weights(self, target: Tensor, descriptors: Descriptors, bags: Tensor) -> Refined:
        """X' (M, C, H, W); no image is weighed."""
        assert descriptors.spatial is not None
        stacked = F.relu(descriptors.spatial[bags].flatten(1, 2))
        return Refined(target + self.mix(stacked), None, None)
