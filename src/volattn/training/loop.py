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

from volattn.models.attention import ContextModule
from volattn.models.detectors.rcnn import total
from volattn.slabs.loader import SlabDataset, make_loader, steps
from volattn.slabs.slab import Slab
from volattn.training.faults import explain_divergence
from volattn.training.recipe import OptimiserConfig, Precision, Recipe, Timetable

_FACTOR = "lr_factor"
"""What a group's rate is multiplied by."""


_PATIENCE = timedelta(hours=3)
"""How long a process waits for the others: one may validate much longer than they, whose cases may be short."""


@dataclass(frozen=True)
class Step:
    """What one optimiser step was.

    Attributes:
        number: From 0.
        epoch: From 0.
        lr: Learning rate.
        targets: Target slices behind it, over all processes.
        losses: Means over its targets, by torchvision's names, and their sum under "loss".
        gradient_norm: Before clipping; not finite where fp16's scaler skipped the step.
        seconds: With the reading of its slabs.
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
    """A block (or function) whose accelerator is its own, whatever device and precision others in the process have.

    Accelerate keeps both once for the whole process, refuses others, and has no public way to put them back.
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


def make_accelerator(precision: Precision, *, cpu: bool = False, **options: Any) -> Accelerator:
    """Device, precision and processes of a run.

    Args:
        precision: The recipe's.
        cpu: Stays on the CPU where there is a GPU.
        options: Others of `Accelerator`.
    """
    accelerator = Accelerator(
        mixed_precision=precision,
        # Said outright: without it, accelerate takes torchrun's processes for single ones where there is no GPU.
        cpu=cpu or not torch.accelerator.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        **options,
    )
    if precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would compute in float32 there, without a word.
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
    """Takes the steps of a run, one each time it is asked for the next.

    A step is a function of the weights, the optimiser's state and its own number: its slabs follow from
    (seed, epoch, index), and the random numbers that sample anchors and regions from (seed, step, part). A
    run that goes on from a saved step therefore needs no generator's state.

    Args:
        model: From `accelerator.prepare`, as is the optimiser.
        optimiser: See `model`.
        dataset: The training slabs.
        recipe: The run.
        timetable: Its steps.
        accelerator: Device, precision, processes.
        start: The first step to take.
        workers: Processes that read ahead.

    Raises:
        ValueError: A loss or gradient is not finite; the message names the cases and slices. The weights are
            then those of the step before.
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
            parts = list(islice(slabs, step_config.accumulate))
            lr = highest * timetable.rate(number)
            for group in optimiser.param_groups:
                group["lr"] = lr * group[_FACTOR]
            model.train()
            optimiser.zero_grad()
            sums = _backward(model, parts, (recipe.seed, number), step_config.nominal_targets(), accelerator)
            norm = float(cast(Tensor, accelerator.clip_grad_norm_(model.parameters(), limit)))
            targets, losses = _means(sums, parts, accelerator)
            # Infinite gradients are nothing unusual to fp16's scaler: it skips the step and scales down.
            if not math.isfinite(losses["loss"] if accelerator.scaler is not None else losses["loss"] + norm):
                bare = accelerator.unwrap_model(model)
                raise ValueError(explain_divergence(bare, parts, number, losses, accelerator))
            optimiser.step()
            yield Step(number, epoch, lr, targets, losses, norm, time.perf_counter() - began)


def _backward(
    model: nn.Module, parts: Sequence[Slab], key: tuple[int, int], nominal: int, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Adds up the gradients of a step's slabs on this process, and gives their losses times their targets.

    Every target weighs 1 / `nominal`, however the slabs were cut: a step with fewer targets is a smaller one.
    DDP averages over the processes, each of which counts its own nominal targets.
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=accelerator.device))
    for index, slab in enumerate(parts):
        check_boxes(slab)
        last = index + 1 == len(parts)
        with nullcontext() if last else accelerator.no_sync(model):
            place = index * accelerator.num_processes + accelerator.process_index
            losses = slab_losses(model, slab.to(accelerator.device, non_blocking=True), (*key, place))
            accelerator.backward(total(losses) * (len(slab.targets) / nominal))
        for name, loss in losses.items():
            sums[name] += loss.detach().float() * len(slab.targets)
    return sums


def _means(sums: dict[str, Tensor], parts: Sequence[Slab], accelerator: Accelerator) -> tuple[int, dict[str, float]]:
    """The targets of a step and its mean losses, over all processes: each learns if any went wrong."""
    mine = torch.tensor(float(sum(len(slab.targets) for slab in parts)), device=accelerator.device)
    reduced = cast(Tensor, accelerator.reduce(torch.stack([mine, *sums.values()]), "sum"))
    targets, *values = reduced.tolist()
    means = {name: value / targets for name, value in zip(sums, values, strict=True)}
    return round(targets), {"loss": sum(means.values()), **means}


def slab_losses(model: nn.Module, slab: Slab, key: tuple[int, ...]) -> dict[str, Tensor]:
    """The losses of a slab, with random numbers that only the key decides.

    Args:
        model: In training mode.
        slab: On the model's device.
        key: Non-negative numbers, e.g. (seed, step, part).
    """
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))
    return model(slab.images, slab.bags, slab.target_at, slab.targets)


def check_boxes(slab: Slab) -> None:
    """A box without extent has no place in a loss: regression takes the logarithm of its sides."""
    for target, origin in zip(slab.targets, slab.origins, strict=True):
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        assert bool((sides >= 1).all()), f"a box with a side under 1 pixel in {origin}"
