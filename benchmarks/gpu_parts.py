"""What `gpu.py` tests and measures: each part is a list of pieces of work, each of which gives one row of numbers."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detector_speed import take
from encode_attend import clocks, make_model
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from volattn.checkpoints import ModelFolder, load_folder, save_folder
from volattn.datasets.open import open_dataset
from volattn.inference.predict import load
from volattn.inference.results import predict_files
from volattn.inference.stream import SliceReader, SliceResult, stream
from volattn.io.readers import read_volume, write_volume
from volattn.models.detectors.rcnn import MaskRCNNConfig
from volattn.models.precision import Precision
from volattn.models.registry import build_model
from volattn.phantoms.write import write_phantoms
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.store import Store
from volattn.provenance import Provenance
from volattn.slabs.images import image_slices, slab_images
from volattn.slabs.loader import SlabDataset
from volattn.slabs.slab import Slab
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume
from volattn.training.faults import reading_workers
from volattn.training.folder import read_metrics
from volattn.training.loop import make_accelerator, make_optimiser, make_timetable, own_accelerate, train_steps
from volattn.training.recipe import Recipe, load_recipe
from volattn.training.run import train
from volattn.workers import available_cores

Row = dict[str, Any]
CLASSES = ("liver", "lesion")


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        phantoms: That networks learn from, their slices `phantom` pixels across.
        image: Side of the input of `lits`, pixels.
        slices: Of the CT that is predicted; its pixels are a phantom's.
        settings: Of `lits`, to make it smaller.
        mixed: Precisions beside fp32; a processor may take minutes for a convolution in them.
        steps: Measured ones of `lits`, after one that warms up.
        depth: Slices of the random volume that attention is timed on, `repeats` times.
        learning: Steps of `tiny`.
    """

    phantoms: int
    phantom: int
    image: int
    slices: int
    settings: tuple[str, ...]
    mixed: tuple[Precision, ...]
    steps: int
    batches: tuple[int, ...]
    bags: tuple[int, ...]
    depth: int
    repeats: int
    learning: int


_FEW = (
    *("model.bag=3", "step.targets=2", "step.accumulate=1", "model.rpn.post_nms_top_n=[40, 20]"),
    *("model.roi_heads.detections_per_img=4", "model.roi_heads.representation_size=32", "model.backbone.name=resnet18"),
)
SIZES = {
    "full": Size(4, 512, 1024, 500, (), ("bf16", "fp16"), 6, (1, 2, 4, 8, 16), (1, 3, 9), 45, 3, 400),
    "toy": Size(2, 64, 64, 5, _FEW, ("fp32",), 1, (1, 2), (1, 3), 4, 1, 2),
}


@dataclass(frozen=True)
class Setting:
    """Where and how large: `until` is when the part must end, by `time.monotonic`."""

    device: str
    size: Size
    seed: int
    work: Path
    until: float

    @property
    def lits(self) -> Recipe:
        """The recipe; a step of it leaves new weights where they are, and costs what any other does."""
        changes = [f"plan.size={self.size.image}", f"seed={self.seed}", "optimiser.lr=1e-9", *self.size.settings]
        return load_recipe("lits").updated(changes)

    def wait(self) -> None:
        """Until the GPU has done all that it was given."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def forget_memory(self) -> None:
        """Frees what earlier work left and starts a new peak."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> Row:
        """The peak since then, GiB: of tensors, and of what PyTorch took for them; nothing on a CPU."""
        if self.device == "cpu":
            return {"allocated_gib": None, "reserved_gib": None}
        return {
            "allocated_gib": torch.cuda.max_memory_allocated() / 2**30,
            "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        }


class Work(NamedTuple):
    """A piece of work: what its row says of it, and what measures the rest of the row."""

    keys: Row
    measure: Callable[[], Row]


def tame(model: nn.Module) -> nn.Module:
    """Lets the blocks of a new ResNet with frozen norms add little, as a trained one's do.

    Its maps would else grow with every block, and float16 ends at 65,504.
    """
    for name, module in model.named_modules():
        if name.endswith("bn3"):
            module.get_buffer("weight").fill_(0.2)
    return model


def inputs(setting: Setting) -> Iterator[Work]:
    """What later parts read."""
    size, work = setting.size, setting.work
    workers = min(available_cores() // 2, size.phantoms)
    yield Work(
        {"what": "phantoms"},
        lambda: _timed(
            lambda: write_phantoms(work / "phantoms", size.phantoms, setting.seed, size=size.phantom, workers=workers)
        ),
    )
    yield Work({"what": "CTs"}, lambda: _timed(lambda: _write_cts(setting)))
    yield Work({"what": "model"}, lambda: _timed(lambda: _write_model(setting)))
    for name, plan in (("lits", setting.lits.plan), ("tiny", load_recipe("tiny").plan)):
        yield Work({"what": f"store for {name}"}, partial(_prepare, work, name, plan, workers))


def _prepare(work: Path, name: str, plan: Plan, workers: int) -> Row:
    return _timed(lambda: prepare_dataset(open_dataset(work / "phantoms"), plan, work / name, workers=workers))


def _timed(work: Callable[[], object]) -> Row:
    began = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - began}


def _write_cts(setting: Setting) -> None:
    """A phantom up and down, its slices as far apart as the network's, and a few slices to warm up with."""
    phantom = read_volume(setting.work / "phantoms" / "volume-0.nii.gz")
    turn = phantom.geometry.turn()
    image, (_, y, x) = turn.apply(phantom.array), phantom.geometry.turned(turn).spacing
    there = np.arange(len(image))
    step = setting.lits.plan.z_spacing
    assert step is not None
    for name, slices in (("ct", setting.size.slices), ("short", min(40, setting.size.slices))):
        array = np.ascontiguousarray(image[np.resize(np.concatenate([there, there[::-1]]), slices)])
        path = setting.work / f"{name}.nii.gz"
        write_volume(path, Volume(array, Geometry.aligned(array.shape, (step, y, x))))


def _write_model(setting: Setting) -> None:
    """`lits` with new weights, the same for all parts."""
    recipe = setting.lits
    torch.manual_seed(setting.seed)
    model = build_model(recipe.model, CLASSES)
    tame(model)
    provenance = Provenance(recipe="lits", dataset="none", fingerprint="0" * 64)
    folder = ModelFolder(
        model=recipe.model, plan=recipe.plan, classes=CLASSES, threshold=0.5, phantoms_only=True, provenance=provenance
    )
    save_folder(setting.work / "model", model, folder)


def steps(setting: Setting) -> Iterator[Work]:
    """Training steps of `lits`: the network's own time in each precision, and once with slabs that workers read."""
    first, *others = dict.fromkeys((*setting.size.mixed, "fp32"))
    for precision, held in ((first, True), (first, False), *((other, True) for other in others)):
        slabs = "in memory" if held else "read by workers"
        yield Work({"precision": precision, "slabs": slabs}, partial(_steps, setting, precision, held))


class HeldSlabs(SlabDataset):
    """The largest slabs of an epoch, read before, again and again."""

    held: Sequence[Slab] = ()

    def __getitem__(self, index: int) -> Slab:
        return self.held[index % len(self.held)]


@cache
def _slabs(setting: Setting, held: bool) -> SlabDataset:
    recipe, store = setting.lits, Store.open(setting.work / "lits")
    kind = HeldSlabs if held else SlabDataset
    dataset = kind(store, store.names, recipe.slabs, augment=recipe.augment, seed=recipe.seed, size=recipe.plan.size)
    if isinstance(dataset, HeldSlabs):
        largest = sorted(range(len(dataset)), key=lambda index: -len(dataset.groups[index].targets))
        count = recipe.step.accumulate * recipe.step.slabs
        dataset.held = [SlabDataset.__getitem__(dataset, index) for index in largest[:count]]
    return dataset


@own_accelerate()
def _steps(setting: Setting, precision: Precision, held: bool) -> Row:
    recipe = setting.lits.updated([f"precision={precision}"])
    accelerator = make_accelerator(precision, setting.device)
    dataset = _slabs(setting, held)
    workers = 0 if held else reading_workers(recipe, setting.device != "cpu", 1)
    bare, _ = load_folder(setting.work / "model")
    bare.to(accelerator.device)
    timetable = make_timetable(recipe, dataset)
    model, optimiser = accelerator.prepare(bare, make_optimiser(recipe.optimiser, bare))
    taken = train_steps(model, optimiser, dataset, recipe, timetable, accelerator, workers=workers)
    seconds, targets, losses, skipped = [], [], [], 0
    next(taken)  # Warm: allocator, kernels, workers.
    setting.wait()
    began = time.perf_counter()
    for step in islice(taken, setting.size.steps):
        setting.wait()
        now = time.perf_counter()
        seconds.append(now - began)
        targets.append(step.targets)
        losses.append(step.losses["loss"])
        skipped += not np.isfinite(step.gradient_norm)
        began = now
        if time.monotonic() > setting.until:
            break
    del taken  # Its workers end.
    return {
        "seconds_a_step": statistics.median(seconds),
        "slowest": max(seconds),
        "steps": len(seconds),
        "targets_a_step": statistics.mean(targets),
        "workers": workers,
        "loss": losses[-1],
        "skipped_steps": skipped,
        **setting.memory(),
    }


def predictions(setting: Setting) -> Iterator[Work]:
    """A CT file to files by `lits`, and its slices through torchvision's Mask R-CNN."""
    batches = setting.size.batches
    most, mixed = batches[-1], setting.size.mixed[0]
    for batch in batches:
        yield Work({"program": "volattn", "precision": "fp32", "batch": batch}, partial(_predict, setting, batch))
        if batch == batches[0]:
            yield Work({"program": "torchvision", "precision": "fp32", "batch": batch}, partial(_plain, setting, batch))
    yield Work({"program": "volattn", "precision": mixed, "batch": most}, partial(_predict, setting, most, mixed))
    yield Work({"program": "torchvision", "precision": "fp32", "batch": most}, partial(_plain, setting, most))


def _predict(setting: Setting, batch: int, precision: Precision = "fp32") -> Row:
    predictor = load(setting.work / "model", device=setting.device, batch=batch, precision=precision)
    out = setting.work / f"predicted-{precision}-{batch}"
    predict_files(predictor, [setting.work / "short.nii.gz"], out)  # Warm.
    setting.forget_memory()
    streamed: list[float] = []
    detect, slices = predictor.detect, setting.size.slices

    def clocked(reader: SliceReader, targets: Sequence[int]) -> Iterator[tuple[int, SliceResult]]:
        assert len(targets) == slices
        began = time.perf_counter()
        yield from detect(reader, targets)
        streamed.append(time.perf_counter() - began)

    setattr(predictor, "detect", clocked)  # noqa: B010
    began = time.perf_counter()
    (outcome,) = predict_files(predictor, [setting.work / "ct.nii.gz"], out)
    seconds = time.perf_counter() - began
    if outcome.error is not None:
        raise outcome.error
    return {
        "slices_a_second": slices / seconds,
        "in_the_stream": slices / streamed[0],
        "seconds": seconds,
        "lesions": outcome.lesions,
        **setting.memory(),
    }


@torch.no_grad()
def _plain(setting: Setting, batch: int) -> Row:
    """torchvision's own forward, pasted masks included, on the same slices; no file is read or written."""
    own, folder = load_folder(setting.work / "model")
    plan, size = folder.plan, folder.plan.size
    config = folder.model
    assert isinstance(config, MaskRCNNConfig)
    backbone = resnet_fpn_backbone(backbone_name=config.backbone.name, weights=None)
    model = MaskRCNN(
        backbone,
        None,
        min_size=size,
        max_size=size,
        rpn_pre_nms_top_n_test=config.rpn.pre_nms_top_n[1],
        rpn_post_nms_top_n_test=config.rpn.post_nms_top_n[1],
        # torchvision takes either these or the number of classes; they are what it makes of that.
        box_head=TwoMLPHead(256 * 7 * 7, config.roi_heads.representation_size),
        box_predictor=FastRCNNPredictor(config.roi_heads.representation_size, len(CLASSES) + 1),
        mask_predictor=MaskRCNNPredictor(256, 256, len(CLASSES) + 1),
        box_score_thresh=config.roi_heads.score_thresh,
        box_detections_per_img=config.roi_heads.detections_per_img,
    )
    take(model, own.state_dict())
    model.to(setting.device).eval()
    volume = read_volume(setting.work / "ct.nii.gz")
    planes = volume.geometry.turn().apply(volume.array)
    side = max(planes.shape[1:])  # Its transform enlarges the slices to `size` itself.

    def through(centres: range) -> None:
        images = slab_images(planes.__getitem__, centres, len(planes), 3, plan.window, side, setting.device)
        for found in model(list(images)):
            for key in ("boxes", "labels", "scores"):
                found[key].cpu()

    through(range(min(batch, len(planes))))  # Warm.
    setting.forget_memory()
    setting.wait()
    began = time.perf_counter()
    for first in range(0, len(planes), batch):
        through(range(first, min(first + batch, len(planes))))
    setting.wait()
    seconds = time.perf_counter() - began
    return {"in_the_stream": len(planes) / seconds, "seconds": seconds, **setting.memory()}


def attention(setting: Setting) -> Iterator[Work]:
    """What attention takes of the stream's time."""
    for precision in dict.fromkeys(("fp32", setting.size.mixed[0])):
        for bag in setting.size.bags:
            yield Work({"precision": precision, "bag": bag}, partial(_share, setting, bag, precision))


def _share(setting: Setting, bag: int, precision: Precision) -> Row:
    config = setting.lits.updated([f"model.bag={bag}"]).model
    assert isinstance(config, MaskRCNNConfig)
    attending = make_model(config, "both")
    tame(attending)
    plain = make_model(config, "none", attending).to(setting.device)
    attending.to(setting.device)
    depth, side = setting.size.depth, setting.size.image
    volume = torch.rand(depth, side, side, generator=torch.Generator().manual_seed(setting.seed)).to(setting.device)

    def read(centres: Sequence[int]) -> Tensor:
        return volume[torch.from_numpy(image_slices(centres, depth, config.slices))]

    def walk(model: Any) -> float:
        setting.wait()
        began = time.perf_counter()
        for _ in stream(model, read, depth, batch=4, precision=precision):
            pass
        setting.wait()
        return 1000 * (time.perf_counter() - began) / depth

    for model in (attending, plain):
        walk(model)  # Warm.
    repeats = range(setting.size.repeats)
    whole, without = (statistics.median(walk(model) for _ in repeats) for model in (attending, plain))
    with clocks(attending, setting.wait) as calls:
        walk(attending)
    parts = {name: 1000 * sum(taken) / depth for name, taken in calls.items()}
    return {
        **{f"{name}_ms": parts[name] for name in ("encode", "describe", "attend", "detect")},
        "share": (parts["describe"] + parts["attend"]) / sum(parts.values()),
        "whole_ms": whole,
        "without_ms": without,
    }


def learning(setting: Setting) -> Iterator[Work]:
    """The network of the demo from new weights."""
    for precision in dict.fromkeys(("fp32", setting.size.mixed[0])):
        yield Work({"precision": precision}, partial(_learn, setting, precision))


class _TimeIsUpError(Exception):
    """Ends a training where its time ends."""


def _learn(setting: Setting, precision: Precision) -> Row:
    count = setting.size.learning
    # Half of what is left for the first, all of it for the second.
    until = time.monotonic() + (setting.until - time.monotonic()) / (2 if precision == "fp32" else 1)
    recipe = load_recipe("tiny").updated(
        [
            f"schedule.length={count}",
            f"schedule.warmup={min(50, count // 4)}",
            f"validation.every={count}",
            "validation.cases=1",
            f"seed={setting.seed}",
        ]
    )

    def stop(what: str, done: int, total: int) -> None:
        if time.monotonic() > until:
            raise _TimeIsUpError

    run = setting.work / f"run-{precision}"
    began = time.perf_counter()
    scores: Row = {}
    try:
        result = train(recipe, setting.work / "tiny", run, device=setting.device, precision=precision, progress=stop)
        scores = {f"validation_{key}": value for key, value in result.validation.scores.items()}
    except _TimeIsUpError:
        pass
    rows = [row for row in read_metrics(run) if "loss" in row]
    losses = [row["loss"] for row in rows]
    some = min(20, max(1, len(losses) // 2))
    return {
        "steps": len(rows),
        "of": count,
        "seconds_a_step": statistics.median(row["seconds"] for row in rows),
        "loss_before": statistics.mean(losses[:some]),
        "loss_after": statistics.mean(losses[-some:]),
        "averaged_over": some,
        "seconds": time.perf_counter() - began,
        **scores,
        **setting.memory(),
    }


PARTS: dict[str, Callable[[Setting], Iterator[Work]]] = {
    "inputs": inputs,
    "steps": steps,
    "predictions": predictions,
    "attention": attention,
    "learning": learning,
}
"""The parts that are pieces of work; the tests are pytest's."""
