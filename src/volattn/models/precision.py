"""What mixed precision must leave alone: boxes, and sums over many numbers, such as attention's dot products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]
"""float32 throughout, or automatic mixed precision with the named type."""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast for a precision, off for fp32; converted weights are not kept."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32", cache_enabled=False)


def full(value: Any) -> Any:
    """Tensors of less than 32 bits as float32, in whatever lists, tuples and dicts they are; all else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, dict):
        return {key: full(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(full(one) for one in value)
    return value


def full_type(tensor: Tensor) -> torch.dtype:
    """The type that sums of a tensor's numbers are kept in: float32, or its own if that is longer."""
    return torch.promote_types(tensor.dtype, torch.float32)


def no_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Switches autocast off on a tensor's device; a block that begins with `full` tensors then keeps them so."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def give_full(module: nn.Module) -> None:
    """Lets a module's outputs be float32 at least.

    torchvision decodes boxes in the type of the offsets that a head gives. bfloat16 has three digits: at 1024 px its
    boxes lie on a grid of 4 px.
    """
    module.register_forward_hook(_full_outputs)


def make_full_anchors(generator: nn.Module) -> None:
    """Lets torchvision's anchor generator make float32 at least, whatever the maps are; it reads their shape."""
    generator.register_forward_pre_hook(_full_shapes)


def _full_outputs(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return full(outputs)


def _full_shapes(module: nn.Module, inputs: tuple[Any, list[Tensor]]) -> tuple[Any, list[Tensor]]:
    images, maps = inputs
    return images, [full(one.new_zeros(())).expand(one.shape) for one in maps]
