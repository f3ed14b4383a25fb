"""Whether attention can carry context at all: the detector's question without the detector.

    volattn phantom -o phantoms --cases 108 --seed 1 --size 256
    volattn prepare phantoms -o store --recipe tiny
    python benchmarks/context_task.py store WORK --seeds 0,1,2 -o docs/results/claim

Training a detector is mostly about finding things; what of its score tells a lesion from a look-alike comes late. Here
the boxes are given. A Faster R-CNN without its proposals (encode, attend, RoIAlign, box head) is trained on one
question alone, lesion or vessel, on a slice of each painted structure, cut out with the slices around it. (Of other
look-alikes the three slices of one image tell enough.) Only the attention changes. The score is the area under the ROC
curve on phantoms that were not trained on; its interval is by bootstrap over them, on the mean over the seeds. What is
cut out, and finished trainings, are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from volattn.config import merged
from volattn.datasets.case import ORGAN
from volattn.io.files import atomic_path, write_json, write_text
from volattn.models.bag_backbone import BagBackbone
from volattn.models.registry import build_model, parse_model
from volattn.phantoms.painter import SyntheticConfig, paint_structures
from volattn.preprocessing.store import Store
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Table, span
from volattn.scoring.statistics import described, percentile_interval, resamples
from volattn.slabs.images import bag_centres, image_slices, to_unit

BAG, SLICES, SIDE = 5, 3, 48
WINDOW = (0.0, 200.0)
"""HU; narrow, for the question is context, not contrast."""
HELD_OUT = 0.25
CONFIG = SyntheticConfig(look_alikes=(20, 40))
FREE: dict[str, Any] = {
    "embedding": "channels",
    "kernel_size": 3,
    "rectifier": "leaky",
    "norm": True,
    "gate": "twice_sigmoid",
    "gate_channels": "all",
}
"""Attention whose gates can move; what each part does for it is seen by leaving it out."""


def _spatial(**changes: Any) -> dict[str, Any]:
    return {"attention": {"kind": "spatial", **FREE, **changes}}


ARMS: dict[str, dict[str, Any]] = {
    "none": {"attention": {"kind": "none"}},
    "free": _spatial(),
    "paper": {"attention": {"kind": "both"}},
    "free, N = 1": {**_spatial(), "bag": 1},
    "free, offsets": _spatial(offsets=True),
    "stacked": {"attention": {"kind": "stacked"}},
    "free, both": _spatial(kind="both"),
    "free, pooled embedding": _spatial(embedding="pooled", kernel_size=7),
    "free, one gate": _spatial(gate_channels="one"),
    "free, sigmoid from 0.95": _spatial(gate="sigmoid"),
    "free, no norm": _spatial(norm=False),
    "free, relu": _spatial(rectifier="relu"),
    "free, 16 maps": _spatial(maps=16),
    "free, offsets, 16 maps": _spatial(offsets=True, maps=16),
    "slices": {"attention": {"kind": "none"}, "bag": 1, "slices": (BAG - 1) * 3 + SLICES},
}
NETWORK: dict[str, Any] = {
    "name": "faster_rcnn",
    "bag": BAG,
    "slices": SLICES,
    "mean": [0.5],
    "std": [0.25],
    "backbone": {
        "name": "resnet18",
        "norm": "group",
        "trainable_layers": 5,
        "width": 32,
        "stages": 2,
        "pyramid_channels": 64,
    },
    "rpn": {"anchor_sizes": [[8], [16], [32]]},
    "roi_heads": {"representation_size": 128},
}


class Findings(NamedTuple):
    """Painted structures of some phantoms.

    Attributes:
        images: Float16 (F, 15, 48, 48) in [0, 1]: the slices of their bags, cut out around them.
        boxes: Float32 (F, 4) xyxy, pixels of the cut-outs.
        lesion: Whether each is one.
        case: Index of its phantom.
    """

    images: NDArray[np.float16]
    boxes: NDArray[np.float32]
    lesion: NDArray[np.bool_]
    case: NDArray[np.int64]


def cut_out(store_path: Path, paintings: int) -> Findings:
    """Paints every case of a store so many times, and cuts out a slice of each structure, chosen at random."""
    images, boxes, lesion, cases = [], [], [], []
    store = Store.open(store_path)
    for number, name in enumerate(store.names):
        case = store.case(name)
        hu, labels = np.asarray(case.image[:]).astype(np.float32), np.asarray(case.labels[:])
        depth, height, width = hu.shape
        for painting in range(paintings):
            rng = np.random.default_rng([number, painting])
            painted_hu = hu.copy()
            painted = paint_structures(painted_hu, labels == ORGAN, case.spacing, rng, CONFIG)
            for index, structure in enumerate(painted.structures, start=1):
                kind = structure.kind
                if kind not in ("lesion", "vessel", "duct"):
                    continue
                mask = painted.numbers == index
                shown = np.flatnonzero(mask.sum(axis=(1, 2)) >= 6)
                if not len(shown):
                    continue
                z = int(rng.choice(shown))
                rows, columns = np.nonzero(mask[z])
                y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
                if max(y1 - y0, x1 - x0) > SIDE - 4:
                    continue
                top = min(max((y0 + y1) // 2 - SIDE // 2, 0), height - SIDE)
                left = min(max((x0 + x1) // 2 - SIDE // 2, 0), width - SIDE)
                around = image_slices(bag_centres(z, depth, BAG), depth, SLICES).ravel()
                patch = np.stack([painted_hu[s, top : top + SIDE, left : left + SIDE] for s in around])
                images.append(to_unit(torch.from_numpy(patch), WINDOW).half().numpy())
                boxes.append((x0 - left, y0 - top, x1 - left, y1 - top))
                lesion.append(kind == "lesion")
                cases.append(number)
        print(f"cut out: {number + 1} of {len(store.names)} phantoms, {len(cases)} structures", file=sys.stderr)
    return Findings(np.stack(images), np.array(boxes, np.float32), np.array(lesion), np.array(cases))


def cached(store: Path, paintings: int, path: Path) -> Findings:
    """The findings, cut out at the first call."""
    if not path.exists():
        found = cut_out(store, paintings)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **found._asdict())
    with np.load(path) as kept:
        return Findings(**{name: kept[name] for name in Findings._fields})


def scores(model: BagBackbone, slices: Tensor, boxes: Tensor) -> Tensor:
    """(F, 2), the look-alike's first, of slices (F, 15, H, W) in [0, 1] and boxes (F, 4) in their middle images."""
    config: Any = model.config
    count, bag = len(slices), config.images
    around = bag * config.slices
    first = (slices.shape[1] - around) // 2
    images = slices[:, first : first + around].unflatten(1, (bag, config.slices)).flatten(0, 1)
    bags = torch.arange(len(images)).view(count, bag)
    heads: Any = model.roi_heads
    size = (int(slices.shape[-2]), int(slices.shape[-1]))
    attended = model.attend_slab(images, bags, bags[:, bag // 2])
    regions = heads.box_roi_pool(attended.maps(), [box[None] for box in boxes], [size] * count)
    return heads.box_predictor(heads.box_head(regions))[0]


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """So many batches; every finding once before any is seen again."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(count) for _ in range(steps * size // count + 1)])
    yield from (order[step * size : (step + 1) * size] for step in range(steps))


def turned(images: Tensor, boxes: Tensor, way: int) -> tuple[Tensor, Tensor]:
    """One of the eight ways to lay a square."""
    x0, y0, x1, y1 = boxes.unbind(1)
    if way & 1:
        images, x0, x1 = images.flip(-1), SIDE - x1, SIDE - x0
    if way & 2:
        images, y0, y1 = images.flip(-2), SIDE - y1, SIDE - y0
    boxes = torch.stack((x0, y0, x1, y1), 1)
    return (images.transpose(-1, -2), boxes[:, [1, 0, 3, 2]]) if way & 4 else (images, boxes)


def answer(found: Findings, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains an arm, and asks it about the held-out findings."""
    torch.manual_seed(seed)
    model = build_model(parse_model(merged(NETWORK, ARMS[arm]), arm), ("lesion",))
    held_out = found.case >= (1 - HELD_OUT) * (found.case.max() + 1)
    images, boxes = torch.from_numpy(found.images), torch.from_numpy(found.boxes)
    truth = torch.from_numpy(found.lesion.astype(np.int64))
    train = np.flatnonzero(~held_out)
    optimiser = torch.optim.AdamW(model.parameters(), options.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, options.steps, pct_start=0.1)
    began, losses = time.monotonic(), []
    ways = np.random.default_rng(seed).integers(0, 8, options.steps)
    for step, batch in enumerate(batches(len(train), options.batch, options.steps, seed)):
        rows = torch.from_numpy(train[batch])
        slices, places = turned(images[rows].float(), boxes[rows], int(ways[step]))
        loss = F.cross_entropy(scores(model, slices, places), truth[rows])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            print(
                f"{arm}, seed {seed}: {step + 1} of {options.steps}, loss {np.mean(losses[-100:]):.3f}, "
                f"{time.monotonic() - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    model.eval()
    with torch.inference_mode():
        parts = torch.from_numpy(np.flatnonzero(held_out)).split(options.batch)
        found_scores = torch.cat([scores(model, images[rows].float(), boxes[rows]).softmax(1)[:, 1] for rows in parts])
    seconds = time.monotonic() - began
    return {"scores": found_scores.tolist(), "loss": float(np.mean(losses[-100:])), "seconds": round(seconds, 1)}


def area(found: Findings, of_seeds: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Under the ROC curve, each phantom weighed; the mean over the rows of `of_seeds`."""
    drawn = weights[found.case]
    return float(np.mean([roc_auc_score(found.lesion, row, sample_weight=drawn) for row in of_seeds]))


def measure(found: Findings, arms: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """All arms and seeds; what is finished is read from WORK."""
    settings = {key: getattr(options, key) for key in ("steps", "batch", "rate", "paintings")}
    held_out = found.case >= (1 - HELD_OUT) * (found.case.max() + 1)
    asked = Findings(*(part[held_out] for part in found))
    cases = np.unique(asked.case)
    asked = asked._replace(case=np.searchsorted(cases, asked.case))
    samples = list(resamples(len(cases), 0, 500))
    results: dict[str, Any] = {}
    first: NDArray[np.float64] | None = None
    for seed in options.seeds:  # One seed of every arm first, so that what is there can be compared.
        for arm in arms:
            path = run_path(options.work, arm, seed)
            if not path.exists() or json.loads(path.read_text())["settings"] != settings:
                write_json(path, answer(found, arm, seed, options) | {"settings": settings})
                auc = roc_auc_score(asked.lesion, json.loads(path.read_text())["scores"])
                print(f"{arm}, seed {seed}: AUC {auc:.3f}", file=sys.stderr, flush=True)
    for arm in arms:
        runs = [json.loads(run_path(options.work, arm, seed).read_text()) for seed in options.seeds]
        of_seeds = np.array([run["scores"] for run in runs])
        areas = np.array([area(asked, of_seeds, weights) for weights in samples])
        first = areas if first is None else first
        results[arm] = {
            "auc": area(asked, of_seeds, np.ones(len(cases))),
            "auc_interval": percentile_interval(areas).tolist(),
            "seeds": [float(roc_auc_score(asked.lesion, row)) for row in of_seeds],
            "gain_interval": percentile_interval(areas - first).tolist(),
            "training_loss": [run["loss"] for run in runs],
        }
    counts = {"lesions": int(asked.lesion.sum()), "look-alikes": int((~asked.lesion).sum())}
    content = {"settings": settings, "phantoms": len(cases), "trained_on": int((~held_out).sum()), **counts}
    return {**content, "results": results, "intervals": described(0, "phantoms")}


def run_path(work: Path, arm: str, seed: int) -> Path:
    """Of a finished training."""
    return work / f"{arm.replace(' ', '-').replace(',', '')}-{seed}.json"


def table(content: dict[str, Any]) -> Table:
    """A row an arm."""
    names = ("Attention", "AUC", "95 %", "Seeds", "Gain, 95 %", "Training loss")
    columns = tuple(Column(name, ".3f") if name in ("AUC", "Training loss") else Column(name) for name in names)
    rows = [
        (
            arm,
            one["auc"],
            span(one["auc_interval"], ".3f"),
            ", ".join(f"{value:.3f}" for value in one["seeds"]),
            span(one["gain_interval"], "+.3f"),
            float(np.mean(one["training_loss"])),
        )
        for arm, one in content["results"].items()
    ]
    counts = f"{content['lesions']} lesions against {content['look-alikes']} look-alikes"
    return Table(f"{counts} of {content['phantoms']} phantoms, boxes given", columns, tuple(rows))


def main() -> None:
    """Cuts out, trains, asks, and writes the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="of phantoms; a quarter of them is asked about")
    parser.add_argument("work", type=Path, help="for what is cut out, and finished trainings")
    parser.add_argument("--arms", default=";".join(ARMS), help="of them, by ';' (default: all)")
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[0])
    parser.add_argument("--paintings", type=int, default=6, help="of each phantom (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="of training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="findings (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="for boxes_given.json and .md")
    options = parser.parse_args()
    arms = options.arms.split(";")
    if unknown := set(arms) - set(ARMS):
        parser.error(f"no such arm: {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    found = cached(options.store, options.paintings, options.work / f"findings-{options.paintings}.npz")
    content = measure(found, arms, options)
    text = table(content).text()
    write_json(options.out / "boxes_given.json", content | {"versions": versions(), "commit": commit()})
    write_text(options.out / "boxes_given.md", f"```\n{text.rstrip()}\n```\n")
    print(text)


if __name__ == "__main__":
    main()
