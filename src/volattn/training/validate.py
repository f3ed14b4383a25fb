"""The operating threshold: the score from which on a lesion counts, chosen on the validation cases.

Validation: whole cases through the stream that prediction uses, read as the model finds: masks or boxes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from volattn.inference.stream import SliceDetections, stream
from volattn.inference.windows import window_shares
from volattn.models.bag_backbone import BagBackbone
from volattn.preprocessing.store import Store, StoredCase
from volattn.slabs.images import bag_centres, image_slices, to_input
from volattn.training.recipe import Timetable, ValidationConfig

# float32, because scores are: a candidate then compares with them here exactly as in prediction.
CANDIDATES: NDArray[np.float32] = (np.arange(5, 100) / 100).astype(np.float32)
"""Thresholds that are tried: 0.05, 0.06, ..., 0.99."""


def passed(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """How many candidates each score reaches: all that a cut at any of them needs to know, in a byte."""
    return np.searchsorted(CANDIDATES, scores, side="right").astype(np.uint8)


def dice_curve(levels: NDArray[np.uint8], reference: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Lesion Dice of a case at every candidate; 1 where neither the reference nor the prediction has a lesion.

    Args:
        levels: `passed` of every voxel's highest score among the lesions that cover it, 0 without any.
        reference: Whether a voxel is lesion; the same shape.
    """
    covered = levels > 0
    inside = reference[covered]
    size = len(CANDIDATES) + 1
    hits = _at_least(np.bincount(levels[covered][inside], minlength=size))
    misses = _at_least(np.bincount(levels[covered][~inside], minlength=size))
    both_sizes = hits + misses + np.count_nonzero(reference)
    return np.where(both_sizes > 0, 2 * hits / np.maximum(both_sizes, 1), 1.0)


def _at_least(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Voxels whose score reaches each candidate: those that passed it or a higher one."""
    return counts[::-1].cumsum()[::-1][1:]


@dataclass(frozen=True)
class OperatingPoint:
    """The chosen threshold.

    Attributes:
        threshold: The candidate with the highest mean; the middle one of several.
        values: Those of each curve there, in the order given.
    """

    threshold: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the curves."""
        return sum(self.values) / len(self.values)


def f1_curve(matched: NDArray[np.float32], false: NDArray[np.float32], lesions: int) -> NDArray[np.float64]:
    """F1 of boxes at every candidate: 2 TP / (2 TP + FP + FN); 1 where there is neither a lesion nor a detection.

    Args:
        matched: Scores of the detections that are matched to a lesion of their own.
        false: Scores of those that hit none. (What hits a lesion that another one is matched to is neither.)
        lesions: How many there are.
    """
    size = len(CANDIDATES) + 1
    hits, misses = (_at_least(np.bincount(passed(scores), minlength=size)) for scores in (matched, false))
    both = hits + misses + lesions
    return np.where(both > 0, 2 * hits / np.maximum(both, 1), 1.0)


def choose_threshold(curves: Sequence[NDArray[np.float64]]) -> OperatingPoint:
    """Chooses the threshold at which the mean of some curves is highest.

    Args:
        curves: A value for each candidate, e.g. `dice_curve` of each case; at least one.
    """
    assert len(curves) > 0
    table = np.stack(list(curves))
    mean = table.mean(axis=0)
    best = np.flatnonzero(np.isclose(mean, mean.max(), rtol=0, atol=1e-12))
    place = int(best[len(best) // 2])
    return OperatingPoint(round(float(CANDIDATES[place]), 2), tuple(table[:, place].tolist()))


Progress = Callable[[str, int, int], None]

_WORDS = {
    "lesion_dice": "lesion Dice",
    "organ_dice": "organ Dice",
    "mean_sensitivity": "mean sensitivity at 0.5 to 4 false positives an image",
    "sensitivity_at_1": "at 1",
    "ap50": "AP50",
}


@dataclass(frozen=True)
class Validation:
    """What validation found.

    Attributes:
        scores: By name, all over the validated cases; the first decides which weights are the best, the others only
            while it is level. Masks: "lesion_dice", the mean lesion Dice per case at `threshold`, and "organ_dice", the
            same, if the data have an organ. Boxes: "mean_sensitivity" at 0.5, 1, 2 and 4 false positives an image,
            "sensitivity_at_1" and "ap50".
        threshold: The operating threshold: the lesion score that gives the best result there.
        cases: Per case the Dice of "lesion" and "organ", or its "lesions", those "found" at the threshold and the
            "false_positives" there.
        entropies: Mean entropy of the attention weights over the bag by "kind.level", as a share of log N: 1 where all
            slices speak, 0 where one does.
        single_organ: Whether the organ's Dice is higher where only its largest connected part counts, and with it the
            lesions in that; all numbers are then of this reading.
    """

    scores: dict[str, float]
    threshold: float
    cases: dict[str, dict[str, float]]
    entropies: dict[str, float]
    single_organ: bool = False

    @property
    def ranking(self) -> tuple[float, ...]:
        """Better weights have a higher one."""
        return tuple(self.scores.values())

    @property
    def text(self) -> str:
        """In one line."""
        named = ", ".join(f"{_WORDS[name]} {value:.3f}" for name, value in self.scores.items())
        return f"{named}; operating score {self.threshold:.2f}"


CaseStats = Any
"""What one case adds to a validation. It travels between processes, and only the measure that made it reads it."""


class CaseAccumulator(Protocol):
    """One case while its slices come in."""

    def add(self, z: int, detections: SliceDetections) -> None:
        """Takes the detections of a slice, once; the order of the slices is free."""
        ...

    def finish(self) -> CaseStats:
        """What the case adds."""
        ...


class Evaluator(Protocol):
    """How cases are read, and what their findings come to."""

    def begin(self, store: Store, case: StoredCase) -> CaseAccumulator:
        """Begins to read a case."""
        ...

    def join(self, found: Mapping[str, CaseStats], entropies: Mapping[str, float]) -> Validation:
        """The validation, from the findings of its cases, at least one."""
        ...


@dataclass(frozen=True)
class CaseResult:
    """One case.

    Attributes:
        name: The case.
        finding: What the measure found.
        entropies: Mean over its slices.
    """

    name: str
    finding: CaseStats
    entropies: dict[str, float]


@dataclass(frozen=True)
class Workload:
    """What a validation streams, on one process.

    Attributes:
        images: Encoded.
        targets: Detected in; of a model with windows, one for each.
    """

    images: int
    targets: int


def follows(config: ValidationConfig, timetable: Timetable, step: int) -> bool:
    """Whether a validation follows `step`."""
    if config.every == 0 or step + 1 == timetable.total:
        return timetable.ends_epoch(step)
    return (step + 1) % config.every == 0


def workload(store: Store, names: Sequence[str], model: BagBackbone) -> Workload:
    """What validating on these cases takes.

    Args:
        store: Where they are.
        names: Of one process.
        model: Which is validated.
    """
    images = targets = 0
    for case in map(store.case, names):
        depth = case.shape[0]
        shares = window_shares(depth, model.window, case.known)
        spoken = {centre for row in shares.values() for centre in row}
        images += len({z for centre in spoken for z in bag_centres(centre, depth, model.bag).tolist()})
        targets += len(spoken)
    return Workload(images, targets)


def share_out(store: Store, names: Sequence[str], processes: int) -> list[list[str]]:
    """The cases of each process: the longest first, each to the process that has the fewest slices until then.

    Args:
        store: Where the cases are.
        names: The cases.
        processes: How many share them; some have none where there are more processes than cases.
    """
    lengths = {name: len(store.case(name).known) for name in names}
    shares: list[list[str]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for name in sorted(names, key=lambda name: (-lengths[name], name)):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += lengths[name]
    return shares


def validate(
    measure: Evaluator,
    model: BagBackbone,
    store: Store,
    names: Sequence[str],
    accelerator: Accelerator,
    *,
    batch: int = 4,
    progress: Progress | None = None,
) -> Validation:
    """Scores cases in float32, as prediction runs, and chooses the operating threshold.

    Args:
        measure: How they are read.
        model: On the accelerator's device; left in evaluation mode.
        store: Where the cases are.
        names: At least one; they are shared out among the processes.
        accelerator: Of the run.
        batch: Images encoded at a time.
        progress: Told of every slice.
    """
    model.eval()
    mine = share_out(store, names, accelerator.num_processes)[accelerator.process_index]
    slices = {name: len(store.case(name).known) for name in mine}
    done, total = 0, sum(slices.values())
    found: list[CaseResult] = []
    for name in mine:

        def advance(count: int, done: int = done) -> None:
            if progress is not None:
                progress("validate", done + count, total)

        found.append(examine(measure, model, store, name, accelerator.device, batch=batch, progress=advance))
        done += slices[name]
    by_name: dict[str, CaseResult] = {case.name: case for case in gather_object(found)}
    everyone = [by_name[name] for name in names]  # in this order sums are the same for any number of processes
    rows = [case.entropies for case in everyone]
    entropies = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return measure.join({case.name: case.finding for case in everyone}, entropies)


def examine(
    measure: Evaluator,
    model: BagBackbone,
    store: Store,
    name: str,
    device: torch.device,
    *,
    batch: int = 4,
    progress: Callable[[int], None] | None = None,
) -> CaseResult:
    """Streams one case and reads it."""
    case = store.case(name)
    reading = measure.begin(store, case)
    weights: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    images = _reader(case, store, model.config.slices, device)
    slices = stream(model, images, case.shape[0], targets=case.known, batch=batch, device=device)
    for count, (z, detections) in enumerate(slices, start=1):
        reading.add(z, detections)
        for key, value in detections.weights.items():
            weights[key].append(value)
        if progress is not None:
            progress(count)
    entropies = {key: bag_entropy(np.stack(value)) for key, value in weights.items() if value[0].size > 1}
    return CaseResult(name, reading.finish(), entropies)


def bag_entropy(weights: NDArray[np.floating]) -> float:
    """Mean entropy of softmax weights as a share of log N.

    Args:
        weights: (n, N), N > 1, each row sums to 1.
    """
    weights = weights.astype(np.float64)
    terms = np.where(weights > 0, weights * np.log(np.maximum(weights, np.finfo(np.float64).tiny)), 0)
    return float(-terms.sum(axis=1).mean() / np.log(weights.shape[1]))


def _reader(
    case: StoredCase, store: Store, slices: int, device: torch.device
) -> Callable[[Sequence[int]], torch.Tensor]:
    """Reads the 2.5D images of some centres as the network sees them."""

    def read(centres: Sequence[int]) -> torch.Tensor:
        needed = image_slices(centres, case.shape[0], slices)
        planes = {z: np.asarray(case.image[z]) for z in np.unique(needed).tolist()}
        images = np.stack([np.stack([planes[z] for z in row]) for row in needed.tolist()])
        return to_input(torch.from_numpy(images).to(device), store.plan.window, store.plan.size)

    return read
