"""What a model costs, from shapes alone: nothing is computed, so no machine is too small to ask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, UntypedStorage
from torch.utils.flop_counter import FlopCounterMode

from volattn.models.bag_backbone import Attended, BagBackbone
from volattn.models.config import BLOCK_SLICES, ContextGrad, FusingConfig, ModelConfig
from volattn.models.detectors.rcnn import BagRCNN, TwoStageConfig
from volattn.models.registry import build_model
from volattn.models.segmenters.segmenter import BagSegmenter


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        flops: Floating point operations for one slice of a streamed volume: an image is encoded once, attended to its
            bag and detected in, with as many regions as prediction keeps at most; with windows its share of them. A
            multiplication and an addition are two.
        memory: Bytes that the backward pass keeps for one target with its bag, in float32, by
            `context_grad`, as far as the model can be trained so; weights, gradients and the optimiser's
            state are not in it.
    """

    parameters: int
    flops: int
    memory: dict[ContextGrad, int]


def measure(config: ModelConfig, classes: Sequence[str], size: int, *, memory: bool = True) -> Cost:
    """Runs a model on shapes.

    Args:
        memory: Whether to measure what training keeps, which takes most of the time; left empty otherwise.
    """
    with torch.device("meta"):
        model = build_model(config, classes)
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=_flops(model.eval(), size),
        memory=_memory_by_mode(config, classes, size) if memory else {},
    )


@torch.no_grad()
def _flops(model: BagBackbone, size: int) -> int:
    images = torch.empty(1, model.config.slices, size, size, device="meta")
    bags = torch.arange(model.bag)[None]
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deformable_flops})
    with counter:
        pyramid = model.encode(images)
        described = model.describe(pyramid)
    encoding = counter.get_total_flops()
    context = {name: tensor.expand(model.bag, *tensor.shape[1:]) for name, tensor in described.items()}
    with counter:
        attended = model.attend(pyramid, context, bags)
        _heads(model, attended, size, *_regions(model.config, training=False))
    # Targets a multiple of the distance of images apart share them: then not every slice is the centre of one.
    step = model.window.step
    return encoding // math.gcd(step, BLOCK_SLICES) + counter.get_total_flops() // step


def _memory_by_mode(config: ModelConfig, classes: Sequence[str], size: int) -> dict[ContextGrad, int]:
    modes: list[ContextGrad] = ["full", "checkpoint"]
    if not isinstance(config, FusingConfig):
        modes.append("none")
    if config.images == 1:
        return dict.fromkeys(modes, _memory(config, classes, size, "full"))
    return {mode: _memory(config, classes, size, mode) for mode in modes}


def _memory(config: ModelConfig, classes: Sequence[str], size: int, mode: ContextGrad) -> int:
    with torch.device("meta"):
        model = build_model(config.model_copy(update={"context_grad": mode}), classes).train()
    middle = torch.tensor([model.bag // 2])
    bags = torch.arange(model.bag)[None]
    with _kept(model) as kept:
        images = torch.empty(model.bag, config.slices, size, size, device="meta")
        attended = model.attend_slab(images, bags, middle)
        outputs = _heads(model, attended, size, *_regions(config, training=True))
    bytes_kept = _bytes(kept)
    del outputs, attended
    if mode == "checkpoint":
        # While an image of the context is computed again, what its own backward pass needs is there too.
        with _kept(model) as again:
            described = model.describe(model.encode(images[:1]))
        bytes_kept += _bytes(again)
        del described
    return bytes_kept


def _bytes(kept: Mapping[int, UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in kept.values())


def _regions(config: ModelConfig, *, training: bool) -> tuple[int, int]:
    """Regions that reach the box head and the mask head, at most."""
    if not isinstance(config, TwoStageConfig):
        return 0, 0
    if not training:
        return config.rpn.post_nms_top_n[1], config.roi_heads.detections_per_img
    sampled = config.roi_heads.batch_size_per_image
    return sampled, math.ceil(sampled * config.roi_heads.positive_fraction)


@contextmanager
def _kept(model: BagBackbone) -> Iterator[dict[int, UntypedStorage]]:
    """The storages that autograd keeps, by address; the model's own weights are not among them."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, UntypedStorage] = {}  # Held, so that no address serves twice.

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor.detach()  # An output that a node kept itself would never be freed.

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _heads(model: BagBackbone, attended: Attended, size: int, regions: int, masked: int) -> list[Any]:
    """What `detect` computes, but for choosing boxes: that depends on values, and costs little.

    Args:
        regions: Regions of it that reach the box head.
        masked: Regions that reach the mask head.
    """
    if isinstance(model, BagSegmenter):
        return [model.predict_window(attended, (size, size))]
    maps = attended.maps()
    if not isinstance(model, BagRCNN):
        return [cast(Any, model).detector.head(list(maps.values()))]
    heads = cast(Any, model.roi_heads)

    def pooled(pool: Any, count: int) -> Tensor:
        # Sides from the finest anchor to the whole image, so that every level has some.
        sides = torch.logspace(math.log2(8), math.log2(size), count, base=2)
        return pool(maps, [torch.stack([sides * 0, sides * 0, sides, sides], dim=1)], [(size, size)])

    outputs = [cast(Any, model.rpn).head(list(maps.values()))]
    outputs.append(heads.box_predictor(heads.box_head(pooled(heads.box_roi_pool, regions))))
    if heads.has_mask():
        outputs.append(heads.mask_predictor(heads.mask_head(pooled(heads.mask_roi_pool, masked))))
    return outputs


def _deformable_flops(
    images: Sequence[int], weight: Sequence[int], *others: Any, out_shape: Sequence[int], **options: Any
) -> int:
    """As the plain convolution; sampling is not counted, nor is it for others."""
    return 2 * math.prod(weight[1:]) * math.prod(out_shape)
