"""The first losses of `tiny` on a fixed phantom.

    python tests/training/golden.py        writes golden_losses.json anew

Do that when a change is meant to move them, and say why in the commit.

The losses are the same on every machine to far better than 1e-3, because nothing before them rounds
differently: the phantom is made of integers, has the recipe's size and is not augmented, and the network
computes in float64. In float32 the last bits alone turn the order of proposals with nearly equal scores, and with
it the regions that are sampled: after three steps the losses of two machines would be 1 % apart.
"""

from __future__ import annotations

import json
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from small_runs import store_of

from volattn.models.registry import build_model
from volattn.slabs.loader import SlabDataset
from volattn.training.loop import make_optimiser, make_timetable, train_steps
from volattn.training.recipe import load_recipe

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS = 5


def fixed_phantom(size: int, depth: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """A body, a liver that narrows along z, round lesions in it, a vessel that looks like them, and noise.

    Args:
        size: Rows and columns, at least 128.
        depth: Slices.

    Returns:
        HU, int16, and labels, uint8, (depth, size, size).
    """
    generator = np.random.default_rng(0)
    z, y, x = np.mgrid[:depth, :size, :size] - np.array([depth // 2, size // 2, size // 2])[:, None, None, None]
    body = 9 * y**2 + 4 * x**2 < size**2
    liver = (y + 10) ** 2 + (x + 25) ** 2 + 4 * z**2 < (size // 4) ** 2
    vessel = (y + 30) ** 2 + (x + 40 - z) ** 2 < 25
    labels = liver.astype(np.uint8)
    for radius in (3, 4, 6, 8, 11):
        place = generator.integers((-6, -35, -50), (7, 15, 0))
        distance = (y - place[1]) ** 2 + (x - place[2]) ** 2 + 4 * (z - place[0]) ** 2
        labels[liver & (distance < radius**2)] = 2
    image = np.select([labels == 2, vessel & liver, labels == 1, body], [60, 60, 110, 40], -150)
    noise = generator.integers(-30, 31, image.shape) + generator.integers(-30, 31, image.shape)
    return (image + noise).astype(np.int16), labels


def first_losses(folder: Path) -> list[dict[str, float]]:
    """The losses of the first steps, on the CPU.

    Args:
        folder: Empty; the store is written there.
    """
    recipe = load_recipe("tiny")
    store = store_of(folder / "store", {"phantom": fixed_phantom(recipe.plan.size)}, recipe.plan)
    dataset = SlabDataset(store, store.names, recipe.slabs, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model, store.classes).double()
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(model, make_optimiser(recipe.optimiser, model))
    steps = train_steps(*prepared, dataset, recipe, make_timetable(recipe, dataset), accelerator)
    return [step.losses for step in islice(steps, STEPS)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        losses = first_losses(Path(scratch))
    GOLDEN.write_text(json.dumps(losses, indent=2) + "\n", encoding="utf-8")
    print(GOLDEN.read_text(encoding="utf-8"))
