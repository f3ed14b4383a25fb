"""How much faster a volume is as a stream than as bags, and what attention costs.

With every bag built from scratch N images are encoded for each slice, in the stream one. This script counts
and times both on the same network, volume and threads, in one process:

    python benchmarks/encode_attend.py -o docs/results/speed

It holds the results against four bars and exits with 1 if one of them is missed:

1. a hook on the backbone counts one encoded image for each slice of the stream;
2. encode + attend is at least 7 times faster as a stream than as bags of 9;
3. the whole prediction is faster by (N e + d) / (e + d) within 10 %, e being the time to encode and describe
   an image and d the time to attend and detect in a slice, medians of the same run;
4. VA Mask R-CNN takes at most 1.10 times as long as plain Mask R-CNN, per slice.

Both ways encode the same number of images in a call (`--batch`): what is compared is how often an image is
encoded, not how well a batch fills the processor. The weights are random and `--detections` says how many
detections a slice has, which is then the same for all.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volattn.inference.stream import stream
from volattn.io.files import write_json, write_text
from volattn.models.bag_backbone import BagBackbone
from volattn.models.detectors.rcnn import MaskRCNNConfig
from volattn.models.registry import build_model
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Table
from volattn.slabs.images import bag_centres, image_slices
from volattn.training.recipe import load_recipe

LEAST_SPEEDUP = 7.0
FORMULA_TOLERANCE = 0.10
MOST_OVERHEAD = 1.10

ReadImages = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Walk:
    """One walk through the volume.

    Attributes:
        whole: Seconds for everything.
        calls: Seconds of each call of encode, describe, attend and detect.
        images: How many images went through the backbone.
    """

    whole: float
    calls: dict[str, list[float]]
    images: int

    @property
    def encode_attend(self) -> float:
        """Seconds for all but detection."""
        return sum(sum(self.calls[name]) for name in ("encode", "describe", "attend"))


def walk(model: BagBackbone, through: Callable[[], None]) -> Walk:
    """Goes through a volume once, with a clock around the model's functions and a counter on its backbone."""
    images = 0

    def count(module: Any, arguments: tuple[Tensor, ...], result: Any) -> None:
        nonlocal images
        images += len(arguments[0])

    hook = model.backbone.register_forward_hook(count)
    try:
        with clocks(model) as calls:
            began = time.perf_counter()
            through()
            return Walk(time.perf_counter() - began, calls, images)
    finally:
        hook.remove()


@contextmanager
def clocks(model: BagBackbone, wait: Callable[[], object] = lambda: None) -> Iterator[dict[str, list[float]]]:
    """Notes how long every call of the model's functions takes; `wait` lets a GPU finish before a clock is read."""
    calls: dict[str, list[float]] = defaultdict(list)

    def clock(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            wait()
            began = time.perf_counter()
            result = function(*arguments)
            wait()
            calls[name].append(time.perf_counter() - began)
            return result

        return call

    names = ("encode", "describe", "attend", "detect")
    for name in names:
        setattr(model, name, clock(name, getattr(model, name)))
    try:
        yield calls
    finally:
        for name in names:
            delattr(model, name)


@torch.no_grad()
def as_bags(model: BagBackbone, read: ReadImages, depth: int, batch: int) -> None:
    """Every slice with its whole bag, encoded anew."""
    for z in range(depth):
        centres = bag_centres(z, depth, model.bag).tolist()
        images = read(centres)
        parts = [model.encode(part) for part in images.split(batch)]
        pyramid = {level: torch.cat([part[level] for part in parts]) for level in parts[0]}
        own = len(centres) // 2
        target = {level: maps[own : own + 1] for level, maps in pyramid.items()}
        attended = model.attend(target, model.describe(pyramid), torch.arange(len(centres))[None])
        model.detect(attended, (images.shape[-2], images.shape[-1]))


def as_stream(model: BagBackbone, read: ReadImages, depth: int, batch: int) -> None:
    """What `volattn predict` does."""
    for _ in stream(model, read, depth, batch=batch):
        pass


def make_model(config: MaskRCNNConfig, attention: str, like: BagBackbone | None = None) -> BagBackbone:
    """The network with this kind of attention, with the other one's weights where it has them."""
    kind = config.attention.model_copy(update={"kind": attention})
    torch.manual_seed(0)
    model = build_model(config.model_copy(update={"attention": kind}), ("liver", "lesion")).eval()
    if like is not None:
        model.load_state_dict({key: value for key, value in like.state_dict().items() if key in model.state_dict()})
    return model


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All walks, in turns, so that whatever else the machine does meets all of them alike."""
    torch.set_num_threads(options.threads)
    recipe = load_recipe(options.recipe)
    assert isinstance(recipe.model, MaskRCNNConfig)
    heads = recipe.model.roi_heads.model_copy(update={"score_thresh": 0.0, "detections_per_img": options.detections})
    config = recipe.model.model_copy(update={"bag": options.bag, "roi_heads": heads})
    attending = make_model(config, "both")
    plain = make_model(config, "none", attending)
    volume = torch.rand(options.depth, options.size, options.size, generator=torch.Generator().manual_seed(1))

    def read(centres: Sequence[int]) -> Tensor:
        return volume[torch.from_numpy(image_slices(centres, options.depth, config.slices))]

    ways: dict[str, tuple[BagBackbone, Callable[..., None]]] = {
        "stream": (attending, as_stream),
        "plain": (plain, as_stream),
        "bags": (attending, as_bags),
    }
    as_stream(attending, read, 2 * options.batch + 1, options.batch)  # Warm: allocator, kernels, caches.
    walks: dict[str, list[Walk]] = {name: [] for name in ways}
    for repeat in range(options.repeats):
        for name, (model, way) in ways.items():
            print(f"round {repeat + 1} of {options.repeats}: {name}", file=sys.stderr, flush=True)
            walks[name].append(walk(model, partial(way, model, read, options.depth, options.batch)))
    return summarise(walks, options)


def summarise(walks: dict[str, list[Walk]], options: argparse.Namespace) -> dict[str, Any]:
    """The numbers and the bars."""
    streams, bags = walks["stream"], walks["bags"]
    depth, n = options.depth, options.bag

    def median(way: str, value: Callable[[Walk], float]) -> float:
        return statistics.median(map(value, walks[way]))

    def per_slice(*names: str) -> float:
        return median("stream", lambda one: sum(sum(one.calls[name]) for name in names) / depth)

    e, d = per_slice("encode", "describe"), per_slice("attend", "detect")
    formula = (n * e + d) / (e + d)
    whole = median("bags", lambda one: one.whole) / median("stream", lambda one: one.whole)
    pooled = median("bags", lambda one: one.encode_attend) / median("stream", lambda one: one.encode_attend)
    overhead = median("stream", lambda one: one.whole) / median("plain", lambda one: one.whole)
    images = {one.images for one in streams}
    return {
        "settings": {
            key: getattr(options, key)
            for key in ("recipe", "size", "depth", "bag", "batch", "detections", "repeats", "threads")
        },
        "machine": {"processor": platform.processor() or platform.machine(), **versions(), "commit": commit()},
        "milliseconds_per_slice": {
            "encode and describe (e)": 1000 * e,
            "attend": 1000 * per_slice("attend"),
            "attend and detect (d)": 1000 * d,
            "VA, stream": 1000 * median("stream", lambda one: one.whole) / depth,
            "plain, stream": 1000 * median("plain", lambda one: one.whole) / depth,
            "VA, bags": 1000 * median("bags", lambda one: one.whole) / depth,
        },
        "bars": [
            bar("images encoded per slice, stream", max(images) / depth, "= 1", images == {depth}),
            bar(
                "images encoded per slice, bags",
                bags[0].images / depth,
                f"= {n}",
                {one.images for one in bags} == {n * depth},
            ),
            bar("encode + attend, bags / stream", pooled, f">= {LEAST_SPEEDUP:g}", pooled >= LEAST_SPEEDUP),
            bar(
                "whole prediction, bags / stream",
                whole,
                f"{formula:.2f} +- {FORMULA_TOLERANCE:.0%} from (N e + d) / (e + d)",
                abs(whole / formula - 1) <= FORMULA_TOLERANCE,
            ),
            bar("VA / plain Mask R-CNN, stream", overhead, f"<= {MOST_OVERHEAD:.2f}", overhead <= MOST_OVERHEAD),
        ],
    }


def bar(name: str, value: float, needed: str, met: bool) -> dict[str, Any]:
    """A result and what it is held against."""
    return {"name": name, "value": value, "needed": needed, "met": met}


def report(found: dict[str, Any]) -> str:
    """The numbers as text."""
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    times = Table(
        "Milliseconds per slice, medians",
        (Column("What"), Column("ms", ".1f")),
        tuple(found["milliseconds_per_slice"].items()),
    )
    bars = Table(
        "Bars",
        (Column("What"), Column("Result", ".2f"), Column("Needed"), Column("Met")),
        tuple((row["name"], row["value"], row["needed"], "yes" if row["met"] else "NO") for row in found["bars"]),
    )
    return f"{settings}\n\n{times.text()}\n{bars.text()}"


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="lits", help="whose network (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="side of the images, pixels (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=24, help="slices (default: %(default)s)")
    parser.add_argument("--bag", type=int, default=9, help="N (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images per call (default: %(default)s)")
    parser.add_argument("--detections", type=int, default=5, help="detections per slice (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="walks of each kind (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, help="folder for encode_attend.json and .txt")
    options = parser.parse_args()
    found = measure(options)
    text = report(found)
    print(text)
    if options.out is not None:
        write_json(options.out / "encode_attend.json", found)
        write_text(options.out / "encode_attend.txt", text)
    return 0 if all(row["met"] for row in found["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
