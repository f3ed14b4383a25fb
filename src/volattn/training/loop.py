"""The training loop: slabs in, optimiser steps out."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from volattn.inference.predict import find_device
from volattn.models.attention import ContextModule
from volattn.models.detectors.rcnn import total
from volattn.models.precision import Precision
from volattn.slabs.loader import SlabDataset, make_loader, steps
from volattn.slabs.slab import Slab
from volattn.training.faults import explain_divergence
from volattn.training.recipe import OptimiserConfig, Recipe, Timetable

_FACTOR = "lr_factor"
"""Key of a parameter group: the factor of its learning rate."""

_TIMEOUT = timedelta(hours=3)
"""How long a process waits for the others, whose validation cases may be much longer than its own."""


@dataclass(frozen=True)
class Step:
    """One optimiser step; its number and epoch count from 0.

    Attributes:
        targets: Target slices over all processes.
        losses: Means over its targets, by torchvision's names, and their sum under "loss".
        gradient_norm: Before clipping; not finite where fp16's scaler skipped the step.
        seconds: Including the reading of its slabs.
    """

    number: int
    epoch: int
    lr: float
    targets: int
    losses: dict[str, float]
    gradient_norm: float
    seconds: float


@contextmanager
def own_accelerate() -> Iterator[None]:
    """A block (or function) with an accelerator of its own, whatever others in the process use.

    Accelerate keeps device and precision for the whole process, refuses others, and has no public way to reset them.
    """
    states = (AcceleratorState, PartialState)
    before = [dict(state._shared_state) for state in states]
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        for state, values in zip(states, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(values)


def make_accelerator(precision: Precision, device: str = "auto", **options: Any) -> Accelerator:
    """Device, precision and processes of a run; the other options are those of `Accelerator`.

    Args:
        precision: The recipe's.
        device: See `find_device`; under torchrun each process has the GPU of its own rank.

    Raises:
        ValueError: There is no such device here.
    """
    found = find_device(device) if device != "auto" else None
    if found is not None and found.type == "cuda" and found.index is not None:
        torch.cuda.set_device(found)
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        # Explicit: without it, accelerate takes torchrun's processes for single ones where there is no GPU.
        cpu=(found is not None and found.type == "cpu") or not torch.accelerator.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT)],
        **options,
    )
    if precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would silently compute in float32 there.
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu")
    return accelerator


def make_optimiser(config: OptimiserConfig, model: nn.Module) -> Optimizer:
    """The optimiser of all parameters that learn; `train_steps` sets its rate at every step."""
    context = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, ContextModule)
        for parameter in module.parameters()
    }
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            factor = config.attention_lr_factor if id(parameter) in context else 1.0
            by_factor.setdefault(factor, []).append(parameter)
    groups = [{"params": parameters, _FACTOR: factor} for factor, parameters in by_factor.items()]
    if config.name == "sgd":
        return SGD(groups, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return AdamW(groups, config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay)


def make_timetable(recipe: Recipe, dataset: SlabDataset, processes: int = 1) -> Timetable:
    """The steps of every epoch of a run over a data set."""

    def steps_of_epoch(epoch: int) -> int:
        slabs = len(dataset.plan(epoch))
        return steps(slabs, recipe.step.slabs * recipe.step.accumulate, processes)

    return Timetable.of(recipe.schedule, steps_of_epoch)


def train_steps(
    model: nn.Module,
    optimiser: Optimizer,
    dataset: SlabDataset,
    recipe: Recipe,
    timetable: Timetable,
    accelerator: Accelerator,
    *,
    start: int = 0,
    workers: int = 0,
) -> Iterator[Step]:
    """Takes the steps of a run lazily.

    A step is a function of the weights, the optimiser's state and its own number: its slabs follow from
    (seed, epoch, index), and the random numbers that sample anchors and regions from (seed, step, slab). A
    resumed run therefore needs no generator's state.

    Args:
        model: From `accelerator.prepare`, as is the optimiser.
        start: The first step to take.
        workers: Processes that read ahead.

    Raises:
        ValueError: A loss or gradient is not finite; the message names the cases and slices. The weights are
            then those before the step.
    """
    rank, processes = accelerator.process_index, accelerator.num_processes
    settings, step_config = recipe.optimiser, recipe.step
    highest = settings.lr * step_config.nominal_targets(processes) / settings.reference_targets
    limit = math.inf if settings.clip is None else settings.clip
    for epoch in range(timetable.epoch(start), len(timetable.starts)):
        steps_left = range(max(start, timetable.starts[epoch]), timetable.steps(epoch).stop)
        if not steps_left:
            break
        dataset.set_epoch(epoch)
        done = (steps_left.start - timetable.starts[epoch]) * step_config.accumulate
        pin_memory = accelerator.device.type == "cuda"
        slabs = iter(
            make_loader(
                dataset, step_config.slabs, workers, start=done, rank=rank, world=processes, pin_memory=pin_memory
            )
        )
        for number in steps_left:
            began = time.perf_counter()
            slabs_of_step = list(islice(slabs, step_config.accumulate))
            lr = highest * timetable.rate(number)
            for group in optimiser.param_groups:
                group["lr"] = lr * group[_FACTOR]
            model.train()
            optimiser.zero_grad()
            sums = _backward(model, slabs_of_step, (recipe.seed, number), step_config.nominal_targets(), accelerator)
            norm = float(cast(Tensor, accelerator.clip_grad_norm_(model.parameters(), limit)))
            targets, losses = _means(sums, slabs_of_step, accelerator)
            # Infinite gradients are usual with fp16's scaler: it skips the step and scales down.
            if not math.isfinite(losses["loss"] if accelerator.scaler is not None else losses["loss"] + norm):
                bare = accelerator.unwrap_model(model)
                raise ValueError(explain_divergence(bare, slabs_of_step, number, losses, accelerator))
            optimiser.step()
            yield Step(number, epoch, lr, targets, losses, norm, time.perf_counter() - began)


def _backward(
    model: nn.Module, slabs: Sequence[Slab], key: tuple[int, int], nominal: int, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Adds up the gradients of a step's slabs on this process, and gives their losses times their targets.

    Every target weighs 1 / `nominal`, whatever its slab: a step with fewer targets is a smaller one. DDP averages over
    the processes, each of which counts its own nominal targets.
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=accelerator.device))
    for index, slab in enumerate(slabs):
        check_boxes(slab)
        last = index + 1 == len(slabs)
        with nullcontext() if last else accelerator.no_sync(model):
            place = index * accelerator.num_processes + accelerator.process_index
            losses = slab_losses(model, slab.to(accelerator.device, non_blocking=True), (*key, place))
            accelerator.backward(total(losses) * (len(slab.targets) / nominal))
        for name, loss in losses.items():
            sums[name] += loss.detach().float() * len(slab.targets)
    return sums


def _means(sums: dict[str, Tensor], slabs: Sequence[Slab], accelerator: Accelerator) -> tuple[int, dict[str, float]]:
    """The targets of a step and its mean losses over all processes, so that each notices if any is not finite."""
    mine = torch.tensor(float(sum(len(slab.targets) for slab in slabs)), device=accelerator.device)
    reduced = cast(Tensor, accelerator.reduce(torch.stack([mine, *sums.values()]), "sum"))
    targets, *values = reduced.tolist()
    means = {name: value / targets for name, value in zip(sums, values, strict=True)}
    return round(targets), {"loss": sum(means.values()), **means}


def slab_losses(model: nn.Module, slab: Slab, key: tuple[int, ...]) -> dict[str, Tensor]:
    """The losses of a slab, with random numbers that depend on the key only, e.g. (seed, step, slab)."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return model(slab.images, slab.bags, slab.target_at, slab.targets)


def check_boxes(slab: Slab) -> None:
    """Every box has an extent, because regression takes the logarithm of its sides."""
    for target, origin in zip(slab.targets, slab.origins, strict=True):
        if "boxes" not in target:
            continue
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        assert bool((sides >= 1).all()), f"a box with a side under 1 pixel in {origin}"
