"""What a target slice costs in training and in prediction, by detector, beside torchvision's plain Faster R-CNN.

    python benchmarks/detector_speed.py -o docs/results/speed

Each detector is that of a recipe, with new weights, at `--size` pixels, all in one process and in turns, so that
whatever else the machine does meets all of them alike. Medians of:

- a training step: one target with its bag of N through encode, attend and detect, the gradient, and the optimiser;
- a key slice: detection in one slice, its whole bag encoded for it (DeepLesion);
- a slice of a volume: the whole stream by its slices, each encoded once (CT).

torchvision's is `FasterRCNN` on its own ResNet-50 with a feature pyramid, one image of three channels, with the
anchors, samples and frozen layers of the recipe. All have the same weights where they have the same layers: how many
proposals the suppression leaves of new ones is chance. New weights give as many detections as a network may: a trained
one is faster, with a mask head in particular.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from volattn.inference.stream import stream
from volattn.io.files import write_json, write_text
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import ModelConfig
from volattn.models.detectors.rcnn import FasterRCNNConfig
from volattn.models.registry import build_model
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Table
from volattn.slabs.images import image_slices, slab_table
from volattn.training.recipe import load_recipe

ROWS = {
    "faster_rcnn, no attention": "faster-rcnn-resnet50",
    "faster_rcnn": "faster-rcnn-resnet50-va",
    "deformable_faster_rcnn": "deformable-resnet50-va",
    "retinanet": "retinanet-resnet50-va",
    "fcos": "fcos-resnet50-va",
    "mask_rcnn": "lits",
    "faster_rcnn, VGG-16, no attention": "faster-rcnn-vgg16",
    "rfcn": "r-fcn",
    "improved_rfcn": "improved-r-fcn",
    "data_level_fusion": "data-level-fusion",
    "three_dce": "3dce-9",
}
"""Detector -> the recipe that it is taken from."""

BASELINE = "torchvision's Faster R-CNN"
KINDS = ("training step", "key slice", "slice of a volume")


Weights = Mapping[str, Tensor]


def take(model: nn.Module, weights: Weights) -> None:
    """Fills the layers that have these names and shapes."""
    own = model.state_dict()
    model.load_state_dict(
        {name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape},
        strict=False,
    )


class Ours:
    """A detector of the catalogue.

    Args:
        config: Its own.
        bag: N, where it looks at more than one image.
        size: Of the input, pixels.
        depth: Slices of the volume.
        weights: That it takes where it has such layers.
    """

    def __init__(self, config: ModelConfig, bag: int, size: int, depth: int, weights: Weights) -> None:
        torch.manual_seed(0)
        config = config.model_copy(update={"bag": bag if config.bag > 1 else 1})
        self.model: BagBackbone = build_model(config, ("lesion",))
        take(self.model, weights)
        self.size, self.depth, self.slices = size, depth, config.slices
        self.volume = torch.rand(depth, size, size, generator=torch.Generator().manual_seed(1))
        self.optimiser = optimiser_of(self.model)
        self.masks = config.name == "mask_rcnn"

    def train(self) -> None:
        self.model.train()
        table = slab_table([self.depth // 2], self.depth, self.model.bag)
        target = objects(self.size)
        if self.masks:
            target["masks"] = torch.ones(len(target["boxes"]), self.size, self.size, dtype=torch.uint8)
        losses = self.model(
            self.read(table.centres.tolist()), torch.from_numpy(table.bags), torch.from_numpy(table.target_at), [target]
        )
        step(self.optimiser, losses)

    def key_slice(self) -> None:
        self.walk([self.depth // 2])

    def volume_slices(self) -> None:
        self.walk(None)

    def walk(self, targets: Sequence[int] | None) -> None:
        self.model.eval()
        for _ in stream(self.model, self.read, self.depth, targets=targets):
            pass

    def read(self, centres: Sequence[int]) -> Tensor:
        return self.volume[torch.from_numpy(image_slices(centres, self.depth, self.slices))]


class Torchvisions:
    """torchvision's Faster R-CNN, one image for a target.

    Args:
        config: Whose backbone, anchors and samples it has.
        size: Of the input, pixels.
        depth: Slices of the volume.
        weights: Those of our own.
    """

    def __init__(self, config: FasterRCNNConfig, size: int, depth: int, weights: Weights) -> None:
        torch.manual_seed(0)
        rpn, heads = config.rpn, config.roi_heads
        anchors = AnchorGenerator(rpn.anchor_sizes, (rpn.aspect_ratios,) * len(rpn.anchor_sizes))
        backbone = resnet_fpn_backbone(
            backbone_name=config.backbone.name, weights=None, trainable_layers=config.backbone.trainable_layers
        )
        self.model = FasterRCNN(
            backbone,
            2,
            min_size=size,
            max_size=size,
            rpn_anchor_generator=anchors,
            rpn_pre_nms_top_n_train=rpn.pre_nms_top_n[0],
            rpn_pre_nms_top_n_test=rpn.pre_nms_top_n[1],
            rpn_post_nms_top_n_train=rpn.post_nms_top_n[0],
            rpn_post_nms_top_n_test=rpn.post_nms_top_n[1],
            box_batch_size_per_image=heads.batch_size_per_image,
            box_score_thresh=heads.score_thresh,
            box_detections_per_img=heads.detections_per_img,
        )
        take(self.model, weights)
        self.size, self.depth = size, depth
        self.image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(1))
        self.optimiser = optimiser_of(self.model)

    def train(self) -> None:
        self.model.train()
        step(self.optimiser, self.model([self.image], [objects(self.size)]))

    @torch.no_grad()
    def key_slice(self) -> None:
        self.model.eval()
        self.model([self.image])

    def volume_slices(self) -> None:
        for _ in range(self.depth):
            self.key_slice()


def optimiser_of(model: nn.Module) -> torch.optim.Optimizer:
    """A step of it leaves the weights where they are, and costs what any other does."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(learned, lr=0.0, momentum=0.9)


def objects(size: int) -> dict[str, Tensor]:
    """Two lesions."""
    boxes = torch.tensor([[0.2, 0.3, 0.3, 0.4], [0.6, 0.5, 0.75, 0.7]]) * size
    return {"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64)}


def step(optimiser: torch.optim.Optimizer, losses: dict[str, Tensor]) -> None:
    """Backward and step."""
    optimiser.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimiser.step()


def seconds(work: Callable[[], None]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All detectors in turns, each built when its turn comes: together they would need much memory."""
    torch.set_num_threads(options.threads)
    size, depth = options.size, options.depth
    plain = load_recipe(ROWS["faster_rcnn, no attention"]).model
    assert isinstance(plain, FasterRCNNConfig)
    torch.manual_seed(0)
    weights = build_model(plain, ("lesion",)).state_dict()
    makers: dict[str, Callable[[], Ours | Torchvisions]] = {
        BASELINE: partial(Torchvisions, plain, size, depth, weights)
    }
    for name, recipe in ROWS.items():
        config = load_recipe(recipe).model
        makers[name] = partial(Ours, config, options.bag, size, depth, weights)
    taken: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in makers}
    for repeat in range(options.repeats):
        for name, make in makers.items():
            print(f"round {repeat + 1} of {options.repeats}: {name}", file=sys.stderr, flush=True)
            one = make()
            one.key_slice()  # Warm: allocator, kernels, caches.
            times = (seconds(one.train), seconds(one.key_slice), seconds(one.volume_slices) / depth)
            for kind, value in zip(KINDS, times, strict=True):
                taken[name][kind].append(value)
    return {
        "settings": {key: getattr(options, key) for key in ("size", "depth", "bag", "repeats", "threads")},
        "machine": {"processor": platform.processor() or platform.machine(), **versions(), "commit": commit()},
        "recipes": ROWS,
        "milliseconds": {
            name: {kind: round(1000 * statistics.median(values), 2) for kind, values in kinds.items()}
            for name, kinds in taken.items()
        },
    }


def table(found: dict[str, Any]) -> Table:
    """Milliseconds, and how many times torchvision's."""
    times = found["milliseconds"]
    columns = [Column("Detector")]
    for kind in KINDS:
        columns += [Column(kind, ".0f"), Column("times", ".2f")]
    rows = []
    for name, row in times.items():
        cells: list[Any] = [name]
        for kind in KINDS:
            cells += [row[kind], row[kind] / times[BASELINE][kind]]
        rows.append(tuple(cells))
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    return Table(
        f"Milliseconds per target slice, medians, and times torchvision's ({settings})", tuple(columns), tuple(rows)
    )


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192, help="side of the images, pixels (default: %(default)s)")
    parser.add_argument("--depth", type=int, default=9, help="slices of the volume (default: %(default)s)")
    parser.add_argument("--bag", type=int, default=3, help="N (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, help="folder for detectors.md and detectors.json")
    options = parser.parse_args()
    found = measure(options)
    print(table(found).text())
    if options.out is not None:
        write_json(options.out / "detectors.json", found)
        command = "python benchmarks/detector_speed.py " + " ".join(
            f"--{key} {value}" for key, value in found["settings"].items()
        )
        text = f"# What detectors cost\n\n`{command}`\n\n```\n{table(found).text()}```\n"
        write_text(options.out / "detectors.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
