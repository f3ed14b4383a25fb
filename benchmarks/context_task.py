"""Whether volumetric attention can carry context at all: the detector's question without the detector.

    volattn phantom -o phantoms --cases 300 --seed 1 --size 256 --workers 2
    python benchmarks/context_task.py phantoms WORK --seeds 0,1,2 -o out

Training a detector is mostly about finding things; what of its score tells a lesion from a look-alike comes late. Here
the boxes are given. A Faster R-CNN without its proposals (encode, attend, RoIAlign, box head) is trained on one
question alone, lesion or look-alike, on the slice through each finding's centre, cut out with the slices around it.
Only the attention changes:

* none: the target's three slices;
* N = 1: the gates of both attentions, without context;
* channel, spatial, both: the bag of five images;
* both, leaky: with rectifiers that leak;
* both, half open, fast: and gates that start at 0.5 with PyTorch's own weights, attention at ten times the rate;
* rcnn, leaky: both attentions, on the regions after RoIAlign;
* stacked: no attention, `StackedContext` in its place: eight maps of each image, side by side, added;
* regions: no attention, the regions of all five images side by side before the box head;
* regions, mean: the target's region, and the mean over the bag;
* slices: no attention, all 15 slices as channels.

The score is the area under the ROC curve on phantoms that were not trained on; its interval is by bootstrap over them,
on the mean over the seeds. Findings are cut out once and kept in WORK; finished trainings, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from volattn.config import merged
from volattn.datasets.open import open_dataset
from volattn.inference.reader import SliceReader
from volattn.io.files import atomic_path, write_json, write_text
from volattn.io.readers.nifti import read_volume
from volattn.models.attention import ChannelAttention, SpatialAttention
from volattn.models.catalogue import build_model
from volattn.models.config import ModelConfig
from volattn.models.detectors.rcnn import BagRCNN
from volattn.preprocessing.plan import Plan
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Table, span
from volattn.scoring.statistics import described, percentile_interval, resamples
from volattn.slabs.images import STRIDE, bag_centres, image_slices
from volattn.training.recipe import load_recipe

BAG, SLICES = 5, 3
SPAN = (BAG - 1) * STRIDE + SLICES
SIDE = 64
HELD_OUT = 0.25
ARMS: dict[str, dict[str, Any]] = {
    "none": {"attention": {"kind": "none"}},
    "N = 1": {"attention": {"kind": "both"}, "bag": 1},
    "channel": {"attention": {"kind": "channel"}},
    "spatial": {"attention": {"kind": "spatial"}},
    "both": {"attention": {"kind": "both"}},
    "both, leaky": {"attention": {"kind": "both", "rectifier": "leaky"}},
    "both, half open, fast": {"attention": {"kind": "both", "rectifier": "leaky"}, "start": "half", "rate": 10.0},
    "rcnn": {"attention": {"kind": "both", "location": "rcnn"}},
    "rcnn, leaky": {"attention": {"kind": "both", "location": "rcnn", "rectifier": "leaky"}},
    "stacked": {"attention": {"kind": "stacked"}},
    "regions": {"attention": {"kind": "none"}, "fusion": "all"},
    "regions, mean": {"attention": {"kind": "none"}, "fusion": "mean"},
    "slices": {"attention": {"kind": "none"}, "bag": 1, "slices": SPAN},
}


NETWORK = {
    "name": "faster_rcnn",
    "bag": BAG,
    "slices": SLICES,
    "mean": [0.5],
    "std": [0.25],
    "backbone": {
        "name": "resnet18",
        "norm": "group",
        "frozen_stages": 0,
        "width": 32,
        "stages": 2,
        "pyramid_channels": 64,
    },
    "proposals": {"anchor_sizes": [[8], [16], [32]]},
    "regions": {"box_channels": 128},
}


class Findings(NamedTuple):
    """All findings of some phantoms.

    Attributes:
        images: Float16 (F, 15, 64, 64) in [0, 1]: the slices of their bags, cut out around them.
        boxes: Float32 (F, 4) xyxy, pixels of the cut-outs.
        lesion: Whether each is one.
        case: Index of its phantom.
    """

    images: NDArray[np.float16]
    boxes: NDArray[np.float32]
    lesion: NDArray[np.bool_]
    case: NDArray[np.int64]


def cut_out(phantoms: Path, plan: Plan) -> Findings:
    """Reads the phantoms, and what their truth says of each finding."""
    images, boxes, lesion, cases = [], [], [], []
    dataset = open_dataset(phantoms)
    for number, case in enumerate(dataset.cases):
        reader = SliceReader(read_volume(case.image), plan)
        truth = json.loads((phantoms / f"truth-{case.image.name.split('-')[1].split('.')[0]}.json").read_text())
        step, row_mm, column_mm = truth["spacing_mm_zyx"]
        scale = reader.filled[0] / reader.canonical.shape[1]
        for finding in (*truth["lesions"], *truth["distractors"]):
            z = min(round(finding["slice"] * step / reader.step), reader.depth - 1)
            slices = image_slices(bag_centres(z, reader.depth, BAG), reader.depth, SLICES).ravel()
            whole = reader.images(slices.tolist(), 1, torch.device("cpu"))[:, 0]
            row, column = (scale * (finding[key] + 0.5) for key in ("row", "column"))
            top, left = (min(max(round(place) - SIDE // 2, 0), plan.size - SIDE) for place in (row, column))
            images.append(whole[:, top : top + SIDE, left : left + SIDE].half().numpy())
            half = scale * finding["diameter"] / (row_mm + column_mm)
            boxes.append((column - left - half, row - top - half, column - left + half, row - top + half))
            lesion.append(finding["kind"] == "lesion")
            cases.append(number)
        print(f"cut out: {number + 1} of {len(dataset.cases)} phantoms", file=sys.stderr, flush=True)
    return Findings(np.stack(images), np.array(boxes, np.float32), np.array(lesion), np.array(cases))


def cached(phantoms: Path, plan: Plan, path: Path) -> Findings:
    """The findings, cut out at the first call."""
    if not path.exists():
        found = cut_out(phantoms, plan)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **found._asdict())
    with np.load(path) as kept:
        return Findings(**{name: kept[name] for name in Findings._fields})


class Question(torch.nn.Module):
    """Lesion or look-alike, of a box in the middle image of a bag: a detector's way from images to a class.

    Args:
        config: Of a Faster R-CNN.
        fusion: Whether the box head is given the regions of all images, side by side, or the target's and the mean over
            the bag; None for the target's alone.
    """

    def __init__(self, config: ModelConfig, fusion: Literal["all", "mean"] | None = None) -> None:
        super().__init__()
        self.fusion = fusion
        model = build_model(config, ("lesion",))
        assert isinstance(model, BagRCNN)
        self.model = model
        if fusion is not None:
            regions = config.bag if fusion == "all" else 2
            size = regions * model.channels * config.regions.box_pool**2
            model.roi_heads.box_head = TwoMLPHead(size, config.regions.box_channels)

    def forward(self, slices: Tensor, boxes: Tensor) -> Tensor:
        """Scores (F, 2), the look-alike's first.

        Args:
            slices: (F, 15, H, W) in [0, 1].
            boxes: (F, 4).
        """
        config = self.model.config
        count = len(slices)
        bag = config.images if self.fusion is None else config.bag
        around = bag * config.slices
        first = (slices.shape[1] - around) // 2
        images = slices[:, first : first + around].unflatten(1, (bag, config.slices)).flatten(0, 1)
        bags = torch.arange(len(images)).view(count, bag)
        heads: Any = self.model.roi_heads
        size = (int(slices.shape[-2]), int(slices.shape[-1]))
        if self.fusion is None:
            attended = self.model.attend_slab(images, bags, bags[:, bag // 2])
            regions = heads.box_roi_pool(attended.maps(), [box[None] for box in boxes], [size] * count)
        else:
            everywhere = boxes.repeat_interleave(bag, 0)[:, None].unbind()
            of_all = heads.box_roi_pool(self.model.encode(images), list(everywhere), [size] * len(images))
            of_all = of_all.unflatten(0, (count, bag))
            means = torch.stack((of_all[:, bag // 2], of_all.mean(1)), 1)
            regions = (of_all if self.fusion == "all" else means).flatten(1, 2)
        return heads.box_predictor(heads.box_head(regions))[0]


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """So many batches; every finding once before any is seen again."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(count) for _ in range(steps * size // count + 1)])
    yield from (order[step * size : (step + 1) * size] for step in range(steps))


def turned(images: Tensor, boxes: Tensor, way: int) -> tuple[Tensor, Tensor]:
    """One of the eight ways to lay a square."""
    side = images.shape[-1]
    if way & 1:
        images, boxes = (
            images.flip(-1),
            torch.stack((side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]), 1),
        )
    if way & 2:
        images, boxes = (
            images.flip(-2),
            torch.stack((boxes[:, 0], side - boxes[:, 3], boxes[:, 2], side - boxes[:, 1]), 1),
        )
    if way & 4:
        images, boxes = images.transpose(-1, -2), boxes[:, [1, 0, 3, 2]]
    return images, boxes


def answer(found: Findings, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains an arm, and asks it about the held-out findings."""
    torch.manual_seed(seed)
    given = dict(ARMS[arm])
    started, factor = given.pop("start", "open"), given.pop("rate", 1.0)
    fusion = given.pop("fusion", None)
    model = Question(ModelConfig.parse(merged(NETWORK, given), arm), fusion)
    gates = [one.gate for one in model.modules() if isinstance(one, (ChannelAttention, SpatialAttention))]
    for gate in gates if started == "half" else ():
        gate.reset_parameters()
        assert gate.bias is not None
        torch.nn.init.zeros_(gate.bias)
    held_out = found.case >= (1 - HELD_OUT) * (found.case.max() + 1)
    images, boxes = torch.from_numpy(found.images), torch.from_numpy(found.boxes)
    truth = torch.from_numpy(found.lesion.astype(np.int64))
    train = np.flatnonzero(~held_out & (found.case < (options.trained or np.inf)))
    fast = [one for name, one in model.named_parameters() if "attention" in name]
    others = [one for name, one in model.named_parameters() if "attention" not in name]
    rates = [options.rate, options.rate * factor]
    optimiser = torch.optim.AdamW([{"params": others}, {"params": fast}], options.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, options.steps, pct_start=0.1)
    began, losses = time.monotonic(), []
    ways = np.random.default_rng(seed).integers(0, 8, options.steps)
    for step, batch in enumerate(batches(len(train), options.batch, options.steps, seed)):
        rows = torch.from_numpy(train[batch])
        slices, places = turned(images[rows].float(), boxes[rows], int(ways[step]))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
            scores = model(slices, places)
        loss = F.cross_entropy(scores.float(), truth[rows])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            print(
                f"{arm}, seed {seed}: {step + 1} of {options.steps}, loss {np.mean(losses[-50:]):.3f}",
                file=sys.stderr,
                flush=True,
            )
    seconds = time.monotonic() - began
    model.eval()
    with torch.inference_mode():
        parts = torch.from_numpy(np.flatnonzero(held_out)).split(options.batch)
        scores = torch.cat([model(images[rows].float(), boxes[rows]).softmax(1)[:, 1] for rows in parts])
    return {"scores": scores.tolist(), "loss": float(np.mean(losses[-100:])), "seconds": round(seconds, 1)}


def area(found: Findings, scores: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Under the ROC curve, each phantom weighed; the mean over the rows of `scores`."""
    drawn = weights[found.case]
    if len(set(found.lesion[drawn > 0].tolist())) < 2:
        return float("nan")
    return float(np.mean([roc_auc_score(found.lesion, row, sample_weight=drawn) for row in scores]))


def measure(found: Findings, arms: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """All arms and seeds; what is finished is read from WORK."""
    settings = {key: getattr(options, key) for key in ("steps", "batch", "rate", "bf16", "trained")}
    settings["window"] = list(options.window)
    asked = Findings(*(part[found.case >= (1 - HELD_OUT) * (found.case.max() + 1)] for part in found))
    cases = np.unique(asked.case)
    asked = asked._replace(case=np.searchsorted(cases, asked.case))
    samples = list(resamples(len(cases), 0))
    results: dict[str, Any] = {}
    first: NDArray[np.float64] | None = None
    for arm in arms:
        runs = []
        for seed in options.seeds:
            path = options.work / f"{arm.replace(' ', '').replace(',', '-')}-{seed}.json"
            if not path.exists() or json.loads(path.read_text())["settings"] != settings:
                write_json(path, answer(found, arm, seed, options) | {"settings": settings})
            runs.append(json.loads(path.read_text()))
        scores = np.array([run["scores"] for run in runs])
        areas = np.array([area(asked, scores, weights) for weights in samples])
        first = areas if first is None else first
        results[arm] = {
            "auc": area(asked, scores, np.ones(len(cases))),
            "auc_interval": percentile_interval(areas).tolist(),
            "seeds": [float(roc_auc_score(asked.lesion, row)) for row in scores],
            "gain_interval": percentile_interval(areas - first).tolist(),
            "training_loss": [run["loss"] for run in runs],
            "seconds": [run["seconds"] for run in runs],
        }
        print(f"{arm}: AUC {results[arm]['auc']:.3f}", file=sys.stderr, flush=True)
    counts = {"lesions": int(asked.lesion.sum()), "look-alikes": int((~asked.lesion).sum())}
    return {
        "settings": settings,
        "phantoms": len(cases),
        **counts,
        "results": results,
        "intervals": described(0, "phantoms"),
    }


def table(content: dict[str, Any]) -> Table:
    """A row an arm."""
    columns = (
        Column("Attention"),
        Column("AUC", ".3f"),
        Column("95 %"),
        Column("Seeds"),
        Column("Gain, 95 %"),
        Column("Training loss", ".3f"),
    )
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
    title = f"{counts} of {content['phantoms']} phantoms, boxes given"
    return Table(title, columns, tuple(rows))


def main() -> None:
    """Cuts out, trains, asks, and writes what was said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path, help="folder of `volattn phantom`; a quarter of it is asked about")
    parser.add_argument("work", type=Path, help="for what is cut out, and finished trainings")
    parser.add_argument("--arms", default=";".join(ARMS), help="of them, by ';' (default: all)")
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[0])
    parser.add_argument("--steps", type=int, default=800, help="of training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="findings (default: %(default)s)")
    parser.add_argument("--trained", type=int, help="phantoms to train on (default: all that are not asked about)")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate (default: %(default)s)")
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        default=(0.0, 200.0),
        metavar=("LOW", "HIGH"),
        help="HU; narrow, for the question is context, not contrast (default: 0 200)",
    )
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("-o", "--out", type=Path, required=True, help="for context_task.json and .md")
    options = parser.parse_args()
    arms = options.arms.split(";")
    if unknown := set(arms) - set(ARMS):
        parser.error(f"no such arm: {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    plan = load_recipe("tiny").plan.model_copy(update={"window": tuple(options.window)})
    found = cached(options.phantoms, plan, options.work / "findings-{:g}-{:g}.npz".format(*plan.window))
    content = measure(found, arms, options)
    text = table(content).text()
    write_json(options.out / "context_task.json", content | {"versions": versions(), "commit": commit()})
    write_text(options.out / "context_task.md", f"```\n{text.rstrip()}\n```\n")
    print(text)


if __name__ == "__main__":
    main()
