"""Errors of training in one line: the slices at fault, or the setting to change; and the limits of reading ahead."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from volattn.slabs.slab import Slab
from volattn.training.recipe import Recipe
from volattn.workers import available_cores


def explain_divergence(
    model: nn.Module, slabs: Sequence[Slab], step: int, losses: Mapping[str, float], accelerator: Accelerator
) -> str:
    """Names the targets whose loss is not finite, on all processes; all targets if none is alone at fault.

    The model has the weights that gave the losses, the slabs are those of this process, and `step` counts from 0.
    """
    found = [origin for slab in slabs for origin in targets_at_fault(model, slab.to(accelerator.device))]
    found = gather_object(found)
    blamed = found or gather_object([origin for slab in slabs for origin in slab.origins])
    broken = [name for name, value in losses.items() if not math.isfinite(value)] or ["gradient"]
    where = ", ".join(f"{case} slice {z}" for case, z in sorted(set(blamed)))
    return (
        f"step {step + 1}: {', '.join(broken)} not finite; caused by {where}; check these slices, or start "
        f"another run with a lower optimiser.lr or optimiser.clip (the last saved state is complete)"
    )


@torch.no_grad()
def targets_at_fault(model: nn.Module, slab: Slab) -> list[tuple[str, int]]:
    """The targets of a slab whose loss is not finite when they are alone with their bag; the model is training."""
    found = []
    for row, origin in enumerate(slab.origins):
        bag = slab.bags[row : row + 1]
        needed, rows = torch.unique(torch.cat([bag[0], slab.target_at[row : row + 1]]), return_inverse=True)
        losses = model(slab.images[needed], rows[None, :-1], rows[-1:], [slab.targets[row]])
        if not all(bool(torch.isfinite(loss)) for loss in losses.values()):
            found.append(origin)
    return found


@contextmanager
def memory_advice(recipe: Recipe) -> Iterator[None]:
    """Names the setting to lower if memory runs out.

    Raises:
        ValueError: Memory ran out inside the block.
    """
    try:
        yield
    except RuntimeError as error:  # torch's OutOfMemoryError is one; its CPU allocator raises a bare one.
        if isinstance(error, torch.OutOfMemoryError) or "CPUAllocator" in str(error):
            raise ValueError(f"out of memory: {_advice(recipe)}") from error
        if any(sign in str(error) for sign in _NO_SHARING):
            raise ValueError(
                f"the processes that read ahead cannot pass on what they read{_shared_memory()}; give fewer "
                "--workers, more shared memory (docker run --shm-size=2g), or more open files (ulimit -n 4096)"
            ) from error
        raise
    except MemoryError as error:
        raise ValueError(f"out of memory: {_advice(recipe)}") from error


def allow_open_files(recipe: Recipe, workers: int) -> None:
    """Raises this process's limit of open files to what workers need to pass on their slabs.

    Every tensor that a worker reads ahead takes one; a worker without one drops the slab silently.

    Raises:
        ValueError: The system allows too few.
    """
    if not workers or find_spec("resource") is None:  # not on Windows
        return
    import resource

    tensors = 3 + 3 * recipe.step.targets * recipe.step.slabs  # the images, two tables; boxes, labels and masks
    needed = _FILES_OF_TRAINING + workers * _READ_AHEAD * tensors
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ValueError(
                f"--workers {workers}: needs {needed} open files, {hard} are allowed; run `ulimit -n {needed}` "
                "first, or give fewer --workers"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


_FILES_OF_TRAINING = 128
_READ_AHEAD = 3
"""Steps that PyTorch's loader holds for each worker: two read ahead, one on its way."""

_NO_SHARING = ("shared memory", "shm", "No space left on device", "Too many open files", "Bus error")
"""What PyTorch's errors contain where slabs cannot be shared between processes."""


def reading_workers(recipe: Recipe, on_gpu: bool, processes: int) -> int:
    """Processes that read ahead where none are asked for: up to four for a GPU, as far as cores and memory allow."""
    if not on_gpu:
        return 0
    step, model = recipe.step, recipe.model
    slab = (step.targets + model.images) * model.slices * recipe.plan.size**2 * 4  # bytes, float32
    held = _READ_AHEAD * slab * step.slabs * processes
    shared = int(_free_shared_memory() / 2 / held) if _SHM.is_dir() else 4
    return max(0, min(4, available_cores() // processes - 1, shared))


_SHM = Path("/dev/shm")


def _free_shared_memory() -> int:
    return shutil.disk_usage(_SHM).free


def _shared_memory() -> str:
    return f" (/dev/shm has {_free_shared_memory() / 2**20:.0f} MiB free)" if _SHM.is_dir() else ""


def _advice(recipe: Recipe) -> str:
    """The setting to lower, those first that leave the result unchanged."""
    step, model = recipe.step, recipe.model
    if step.slabs > 1:
        accumulate = step.accumulate * step.slabs
        return (
            f"lower step.slabs from {step.slabs} to 1 and raise step.accumulate to {accumulate} (the same "
            f"step, one slab at a time)"
        )
    if model.images > 1 and model.context_grad == "full":
        return "set model.context_grad to checkpoint (the same gradient, computed slice by slice)"
    if step.targets > 1:
        return (
            f"lower step.targets from {step.targets} to {step.targets // 2} and raise step.accumulate to "
            f"{step.accumulate * 2} (as many targets a step, fewer at a time)"
        )
    if recipe.precision == "fp32":
        return "set precision to bf16"
    return f"lower plan.size from {recipe.plan.size} (and prepare the store again) or model.bag from {recipe.model.bag}"
