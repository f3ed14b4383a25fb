"""The time and memory of a run, measured on its own largest slab before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import ceil

import psutil
import torch
from accelerate import Accelerator

from volattn.io.names import count_of
from volattn.models.bag_backbone import BagBackbone
from volattn.models.detectors.rcnn import total
from volattn.slabs.loader import SlabDataset
from volattn.slabs.slab import Slab
from volattn.training.loop import slab_losses
from volattn.training.recipe import Recipe, Timetable
from volattn.training.validate import Workload, validates_after

_STATES = {"sgd": 1, "adamw": 2}
"""Tensors of a weight's size that an optimiser keeps for it."""


@dataclass(frozen=True)
class Estimate:
    """The largest time and memory of a run, on each process.

    Attributes:
        memory: Bytes on the device: weights, gradients, the optimiser's state, and what the backward pass of
            a slab keeps.
        program: Other bytes of the process in the same memory: on a CPU libraries and scratch space.
        seconds: For the remaining steps and their validations.
        steps: That remain.
    """

    memory: int
    program: int
    seconds: float
    steps: int

    @property
    def text(self) -> str:
        """In one line."""
        hours, mebibytes = self.seconds / 3600, ceil((self.memory + self.program) / 2**20)
        duration = f"{hours:.1f} h" if hours >= 1 else f"{max(1, ceil(self.seconds / 60))} min"
        size = f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes} MiB"
        return f"{count_of(self.steps, 'step')}, about {duration}, about {size} of memory on each process"


def estimate(
    model: BagBackbone,
    dataset: SlabDataset,
    recipe: Recipe,
    timetable: Timetable,
    accelerator: Accelerator,
    *,
    start: int = 0,
    validated: Workload | None = None,
) -> Estimate:
    """Runs the largest slab of the first epoch forward and backward, twice, and leaves the model unchanged.

    Args:
        model: On the accelerator's device, not yet prepared.
        start: Steps that are done.
        validated: One validation on one process; None for no validation.
    """
    largest = max(range(len(dataset)), key=lambda index: len(dataset.groups[index].targets))
    began = time.perf_counter()
    read = dataset[largest]
    reading = time.perf_counter() - began
    slab = Slab.join([read] * recipe.step.slabs).to(accelerator.device)
    _measure(model, slab, recipe, accelerator)  # The first pass includes what is set up once.
    computing, kept = _measure(model, slab, recipe, accelerator)
    held = psutil.Process().memory_info().rss
    learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    left = timetable.total - start
    calls = recipe.step.accumulate
    per_step = calls * (computing + recipe.step.slabs * reading)
    validations = sum(validates_after(recipe.validation, timetable, step) for step in range(start, timetable.total))
    streaming = validations * _streaming_seconds(model, slab, validated) if validated else 0.0
    return Estimate(
        memory=weights + learning * (1 + _STATES[recipe.optimiser.name]) + kept,
        program=0 if slab.images.is_cuda else max(0, held - weights),
        seconds=left * per_step + streaming,
        steps=left,
    )


def _measure(model: BagBackbone, slab: Slab, recipe: Recipe, accelerator: Accelerator) -> tuple[float, int]:
    """Seconds of a forward and backward pass, and the bytes held for it besides weights and gradients."""
    cuda = slab.images.is_cuda
    before = 0
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # A node that kept its own output would never be freed.

    began = time.perf_counter()
    model.train()
    with accelerator.autocast(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = total(slab_losses(model, slab, (recipe.seed, 0, 0)))
    loss.backward()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    model.zero_grad(set_to_none=True)
    if cuda:
        return seconds, torch.cuda.max_memory_allocated() - before - gradients
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return seconds, sum(size for place, size in kept.items() if place not in own)


@torch.no_grad()
def _streaming_seconds(model: BagBackbone, slab: Slab, work: Workload) -> float:
    """Of one validation, where every image is encoded once and every target detected once."""
    model.eval()
    began = time.perf_counter()
    pyramid = model.encode(slab.images)
    encoded = time.perf_counter()
    target = {level: maps[slab.target_at] for level, maps in pyramid.items()}
    attended = model.attend(target, model.describe(pyramid), slab.bags)
    model.detect(attended, (slab.images.shape[-2], slab.images.shape[-1]))
    if slab.images.is_cuda:
        torch.cuda.synchronize()
    detected = time.perf_counter()
    encoding, detecting = (encoded - began) / len(slab.images), (detected - encoded) / len(slab.target_at)
    return work.images * encoding + work.targets * detecting
