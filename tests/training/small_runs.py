"""A store and a recipe with which a whole run takes seconds; and a script to be killed, or run by torchrun.

python small_runs.py STORE RUN [--slow] [--recipe FILE] [--set key=value ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from volattn.datasets.case import LabelScheme
from volattn.models.config import AttentionConfig, BackboneConfig
from volattn.models.detectors.rcnn import MaskRCNNConfig, RPNConfig
from volattn.models.detectors.roi_heads import MaskHeadsConfig
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.store import (
    CASE,
    IMAGE,
    LABELS,
    STORE,
    CaseDescription,
    PreparedBoxes,
    Store,
    StoreDescription,
    case_folder,
    write_array,
)
from volattn.slabs.slab import component_maps, objects
from volattn.structures.geometry import Geometry
from volattn.training.recipe import OptimiserConfig, Recipe, ScheduleConfig, StepConfig, ValidationConfig, load_recipe

SIZE = 64
PLAN = Plan(z_spacing=1.5, size=SIZE)


def small_recipe(**changes: Any) -> Recipe:
    """Eight steps of a network of a tenth of a million weights, validated twice."""
    values: dict[str, Any] = {
        "name": "small",
        "plan": PLAN,
        "save_every": 2,
        "model": MaskRCNNConfig(
            bag=3,
            mean=(0.5,),
            std=(0.25,),
            attention=AttentionConfig(reduction=4),
            backbone=BackboneConfig(
                name="resnet18", norm="group", trainable_layers=5, width=16, stages=2, pyramid_channels=16
            ),
            rpn=RPNConfig(
                anchor_sizes=((8.0,), (16.0,), (32.0,)),
                batch_size_per_image=32,
                pre_nms_top_n=(60, 40),
                post_nms_top_n=(40, 20),
            ),
            roi_heads=MaskHeadsConfig(
                batch_size_per_image=16, representation_size=32, mask_layers=(16,), detections_per_img=5
            ),
        ),
        "step": StepConfig(targets=2, slabs=1, accumulate=1),
        "optimiser": OptimiserConfig(name="adamw", lr=2e-3, reference_targets=2, clip=5.0),
        "schedule": ScheduleConfig(unit="steps", length=8, decay="cosine", warmup=2),
        "validation": ValidationConfig(every=4, cases=1),
    }
    return Recipe(**values | changes)


def write_store(path: Path, cases: int = 4, depth: int = 14) -> Store:
    """Bright livers with one dark lesion each."""
    arrays = {f"volume-{number}": _case(np.random.default_rng(number), depth) for number in range(cases)}
    return store_of(path, arrays, PLAN)


def write_boxed_store(path: Path, cases: int = 12, depth: int = 14) -> Store:
    """The same lesions, each known by its box on one slice; the last third of the cases is the part "val"."""
    arrays = {f"key-{number}": _case(np.random.default_rng(number), depth) for number in range(cases)}
    boxes = {}
    for name, (_, labels) in arrays.items():
        z = depth // 2
        lesions = objects(component_maps(labels[z], 1))["boxes"]
        boxes[name] = PreparedBoxes(slice=z, boxes=tuple(map(tuple, lesions.tolist())))
    parts = {name: "train" if 3 * place < 2 * cases else "val" for place, name in enumerate(arrays)}
    return store_of(path, arrays, PLAN, boxes, subsets=parts, scheme=LabelScheme(lesion_values=(1,)))


def store_of(
    path: Path,
    arrays: dict[str, tuple[np.ndarray, np.ndarray]],
    plan: Plan,
    boxes: Mapping[str, PreparedBoxes] = MappingProxyType({}),
    **described: Any,
) -> Store:
    """Writes images and labels (Z, h, w), or boxes, by case as `volattn prepare` would have left them."""
    for number, (name, (image, labels)) in enumerate(arrays.items()):
        folder = case_folder(path, name)
        folder.mkdir(parents=True)
        write_array(folder / IMAGE, image)
        if name in boxes:
            labels = np.where(boxes[name].pixels(image.shape)[:, None, None] > 0, labels, 0)
        else:
            write_array(folder / LABELS, labels)
        description = CaseDescription(
            name=name,
            shape=image.shape,
            step=1.5,
            source_shape=image.shape,
            source_affine=tuple(map(tuple, Geometry.aligned(image.shape, (1.5, 1.0, 1.0)).affine.tolist())),
            organ_pixels=tuple((labels >= 1).sum((1, 2)).tolist()),
            lesion_pixels=tuple((labels == 2).sum((1, 2)).tolist()),
            image_sha256=f"{number:064d}",
            labels_sha256="",
            files={},
            measures={},
            boxes=boxes.get(name),
        )
        (folder / CASE).write_text(description.text("json"))
    values = {"scheme": LabelScheme(organ_name="liver", organ_values=(1,), lesion_values=(2,))} | described
    store = StoreDescription(dataset="small", plan=plan, fingerprint="f" * 64, cases=tuple(arrays), **values)
    (path / STORE).write_text(store.text("json"))
    return Store.open(path)


def _case(generator: np.random.Generator, depth: int) -> tuple[np.ndarray, np.ndarray]:
    z, y, x = np.mgrid[:depth, :SIZE, :SIZE]
    middle = generator.uniform(26, 38, 2)
    liver = ((y - middle[0]) / 22) ** 2 + ((x - middle[1]) / 20) ** 2 < 1
    liver &= (z > 0) & (z < depth - 1)
    place = middle + generator.uniform(-8, 8, 2)
    lesion = (y - place[0]) ** 2 + (x - place[1]) ** 2 + (2 * (z - depth / 2)) ** 2 < 8**2
    labels = liver.astype(np.uint8) + (liver & lesion)
    image = np.select([labels == 2, labels == 1], [20, 180], -120) + generator.normal(0, 15, labels.shape)
    return image.round().astype(np.int16), labels


def main(arguments: list[str]) -> None:
    from volattn.training.run import train

    torch.set_num_threads(1)
    recipe = small_recipe()
    if "--recipe" in arguments:
        place = arguments.index("--recipe")
        recipe = load_recipe(arguments.pop(place + 1))
        arguments.pop(place)
    store, run, *settings = [word for word in arguments if word not in ("--slow", "--set")]

    def wait(what: str, done: int, total: int) -> None:
        if "--slow" in arguments and what == "train":  # so that a kill comes while there is something to kill
            time.sleep(0.3)

    # Where there is no GPU the CPU need not be asked for, under torchrun either.
    device = "cpu" if torch.accelerator.is_available() else "auto"
    train(recipe.updated(settings), store, run, device=device, progress=wait)


if __name__ == "__main__":
    main(sys.argv[1:])
