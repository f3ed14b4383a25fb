"""Volumetric attention (MICCAI 2019, section 2): the slices around a target refine its feature map.

`StackedContext` is context without attention; it is not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volattn.models.precision import full, full_type, no_autocast

Rectifier = Literal["relu", "leaky"]
"""In front of a gate: relu, or x where x > 0 and x / 10 elsewhere."""

Gate = Literal["sigmoid", "twice_sigmoid"]
"""sigmoid(g), or 2 sigmoid(g): the first can only turn down, and hardly moves where it starts."""

_RECTIFIERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky": partial(F.leaky_relu, negative_slope=0.1),
}


class Descriptors(NamedTuple):
    """What is kept of an image as context: C numbers and a few maps, one in the paper.

    Attributes:
        channel: g(X) of eq. 2, shape (B, C), or None without channel attention.
        spatial: e(X) of eq. 3 or of `StackedContext`, shape (B, K, H, W); None without either.
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


class GateOptions(NamedTuple):
    """How a gate is made of what the bag gives: norm, rectifier, layer, sigmoid."""

    kind: Gate
    norm: bool
    rectifier: Rectifier


class GateState(NamedTuple):
    """What a gate did: the share of values above 0 in front of its rectifier, and its mean and standard deviation."""

    live: float
    mean: float
    spread: float


class _Gated(nn.Module):
    """What channel and spatial attention share: a gate."""

    watched: list[GateState] | None = None

    def _make_gate(self, gate: nn.Linear | nn.Conv2d, channels: int, options: GateOptions) -> None:
        """Takes the gate's layer, with a bias, for what has so many channels."""
        self.gate = gate
        self.norm = nn.GroupNorm(1, channels) if options.norm else None
        self.rectify = _RECTIFIERS[options.rectifier]
        self.factor = 1.0
        assert gate.bias is not None
        if options.kind == "twice_sigmoid":
            self.factor = 2.0
            nn.init.normal_(gate.weight, std=0.01)
            nn.init.zeros_(gate.bias)
        else:
            nn.init.zeros_(gate.weight)
            # sigmoid(3) = 0.95, so that a pretrained network is hardly scaled at first.
            nn.init.constant_(gate.bias, 3.0)

    def gated(self, value: Tensor) -> Tensor:
        """The gate of a value (M, C or K, ...)."""
        value = value.to(self.gate.weight.dtype)
        if self.norm is not None:
            value = self.norm(value)
        gate = self.factor * torch.sigmoid(self.gate(self.rectify(value)))
        if self.watched is not None:
            live = (value > 0).float().mean()
            self.watched.append(GateState(float(live), float(gate.mean()), float(gate.std(correction=0))))
        return gate


class ChannelAttention(_Gated):
    """Volumetric channel attention (section 2.2, eq. 2); in float32 under autocast, whatever the maps are."""

    def __init__(self, channels: int, reduction: int, options: GateOptions) -> None:
        super().__init__()
        reduced = max(1, channels // reduction)
        self.reduce = nn.Linear(channels, reduced, bias=False)
        self.expand = nn.Linear(reduced, channels, bias=False)
        self._make_gate(nn.Linear(channels, channels), channels, options)
        nn.init.kaiming_normal_(self.reduce.weight, nonlinearity="relu")
        # A few rectified units can all be off for every image, and would stay so. Of a pair w, -w one is always on.
        with torch.no_grad():
            half = reduced // 2
            self.reduce.weight[half : 2 * half] = -self.reduce.weight[:half]

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
            return self.gated(torch.einsum("mn,mnc->mc", weights, bag))[:, :, None, None], weights


class SpatialAttention(_Gated):
    """Volumetric spatial attention (section 2.3, eq. 3); in float32 under autocast, whatever the maps are.

    Args:
        maps: K, each a convolution of all channels; 0 for the paper's one of their maximum and mean.
        bag: N, for a factor for each offset in the bag and map; None weighs all alike, as in the paper.
        all_channels: Whether every channel has a gate of its own.
    """

    def __init__(
        self,
        channels: int,
        maps: int,
        kernel_size: int,
        gate_kernel: int,
        scale: Literal["none", "sqrt", "mean"],
        bag: int | None,
        all_channels: bool,
        options: GateOptions,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.pooled = maps == 0
        count, gates = max(1, maps), channels if all_channels else 1
        self.embed = nn.Conv2d(2 if self.pooled else channels, count, kernel_size, padding=kernel_size // 2, bias=False)
        self._make_gate(nn.Conv2d(count, gates, gate_kernel, padding=gate_kernel // 2), count, options)
        self.offsets = None if bag is None else nn.Parameter(torch.ones(bag, count) + 0.5 * torch.randn(bag, count))
        if self.pooled:
            # The gate reads relu(m): an embedding that is negative everywhere would give it nothing, and no gradient.
            nn.init.uniform_(self.embed.weight, 0.0, 2.0 / self.embed.weight.numel())

    def describe(self, features: Tensor) -> Tensor:
        """e(X) = W [max_c X ; mean_c X], or W X: (B, C, H, W) -> (B, K, H, W)."""
        if not self.pooled:
            return full(self.embed(features))
        kind = self.embed.weight.dtype
        mean = features.mean(dim=1, dtype=full_type(features)).to(kind)
        with no_autocast(features):
            return self.embed(torch.stack((features.amax(dim=1).to(kind), mean), dim=1))

    def forward(self, target: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The gate S_s (M, 1 or C, H, W) and the weights (M, N), from e of the target (M, K, H, W) and of its bag."""
        values = math.prod(target.shape[1:])
        factor = {"none": 1.0, "sqrt": 1.0 / math.sqrt(values), "mean": 1.0 / values}[self.scale]
        target, bag = full(target), full(bag)
        with no_autocast(target):
            weights = torch.einsum("mkhw,mnkhw->mn", target * factor, bag).softmax(dim=-1)
            each = weights[:, :, None].expand(*bag.shape[:3])
            if self.offsets is not None:
                each = each * self.offsets.to(each.dtype)
            return self.gated(torch.einsum("mnk,mnkhw->mkhw", each, bag)), weights


class VolumetricAttention(ContextModule):
    """Refines a target's feature map by the maps of the slices around it; a drop-in for any CNN.

    Channel attention first, then spatial attention on the channel-refined target. The context stays raw, so that it
    is pooled once whatever number of targets use it: `describe` and `refine` are the pooled path that slabs and
    streaming use, `forward` takes whole maps. The two agree to float rounding. Refined maps have the type of the
    target's; descriptors and weights are float32 or longer.

    Args:
        channels: C, the channels of the maps.
        reduction: r; the channel embedding narrows C to max(1, C // r).
        kernel_size: Odd side of the spatial embedding's convolution.
        scale: Factor on the spatial dot products: "none" (as in the paper), "sqrt" (1/sqrt(KHW)) or "mean" (1/KHW).
        gate_kernel: Odd side of the convolution that makes the spatial gate.
        rectifier: In front of both gates: "relu" (as in the paper), or "leaky", which no training can switch off.
        gate: "sigmoid" (as in the paper), or "twice_sigmoid", which starts at 1, where it moves, and can amplify.
        norm: Whether what the gates read is normalised first, which keeps rectifiers alive.
        maps: K, the maps that the spatial embedding makes of all channels; 0 makes one of their maximum and mean (as in
            the paper).
        gate_channels: Spatial gates: "one" (as in the paper), or "all", one for each channel.
        offsets: N, if slices of the bag are told apart by a learned factor each; None takes any bag.

    Raises:
        ValueError: A size is not positive, a kernel is even, or a choice is unknown.
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
        gate: Gate = "sigmoid",
        norm: bool = False,
        maps: int = 0,
        gate_channels: Literal["one", "all"] = "one",
        offsets: int | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"channels and reduction must be positive, found {channels} and {reduction}")
        for name, size in (("kernel_size", kernel_size), ("gate_kernel", gate_kernel)):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{name} must be odd and positive, found {size}")
        for name, value, known in (
            ("scale", scale, ("none", "sqrt", "mean")),
            ("rectifier", rectifier, ("relu", "leaky")),
            ("gate", gate, ("sigmoid", "twice_sigmoid")),
            ("gate_channels", gate_channels, ("one", "all")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, found {value!r}")
        options = GateOptions(gate, norm, rectifier)
        self.channel = ChannelAttention(channels, reduction, options) if channel else None
        self.spatial = (
            SpatialAttention(channels, maps, kernel_size, gate_kernel, scale, offsets, gate_channels == "all", options)
            if spatial
            else None
        )

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


@contextmanager
def watch_gates(model: nn.Module) -> Iterator[dict[str, list[GateState]]]:
    """A block in which every gate of a model writes down what it does, by "kind.level" as attention weights are."""
    gates = {name: module for name, module in model.named_modules() if isinstance(module, _Gated)}
    seen: dict[str, list[GateState]] = {}
    for name, module in gates.items():
        parts = name.split(".")
        level = parts[-3].removesuffix("_roi_pool") if parts[-2] == "attention" else parts[-2]
        module.watched = seen.setdefault(f"{parts[-1]}.{level}", [])
    try:
        yield seen
    finally:
        for module in gates.values():
            module.watched = None


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
