"""Validation: whole cases through the stream that prediction uses, scored as masks or as boxes.

The operating threshold, the score from which a lesion counts, is chosen on the validated cases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from volattn.config import Config
from volattn.datasets.case import LESION, ORGAN
from volattn.inference.stream import SliceResult, stream
from volattn.inference.windows import window_shares
from volattn.models.attention import GateState, entropy, watch_gates
from volattn.models.bag_backbone import BagBackbone
from volattn.phantoms.lesions import LARGEST, LOOK, draw_structures
from volattn.phantoms.painter import paint_structures
from volattn.preprocessing.store import Store, StoredCase
from volattn.slabs.images import bag_centres, slab_images
from volattn.training.recipe import Timetable, ValidationConfig
from volattn.workers import Progress

# float32, because scores are: a candidate then compares with them here exactly as in prediction.
CANDIDATES: NDArray[np.float32] = (np.arange(5, 100) / 100).astype(np.float32)
"""Thresholds that are tried: 0.05, 0.06, ..., 0.99."""


def passed(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """How many candidates each score reaches: all that a cut at any of them needs to know, in a byte."""
    return np.searchsorted(CANDIDATES, scores, side="right").astype(np.uint8)


def count_at_candidates(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many scores reach each candidate, from what `passed` makes of the scores."""
    return np.bincount(levels, minlength=len(CANDIDATES) + 1)[::-1].cumsum()[::-1][1:]


def choose_threshold(curves: Sequence[NDArray[np.float64]]) -> tuple[float, tuple[float, ...]]:
    """The candidate at which the mean of some curves is highest, the middle one of several; and their values there.

    Args:
        curves: A value for each candidate, e.g. the Dice of each case; at least one.
    """
    assert len(curves) > 0
    table = np.stack(list(curves))
    mean = table.mean(axis=0)
    best = np.flatnonzero(np.isclose(mean, mean.max(), rtol=0, atol=1e-12))
    place = int(best[len(best) // 2])
    return round(float(CANDIDATES[place]), 2), tuple(table[:, place].tolist())


_TITLES = {
    "lesion_dice": "lesion Dice",
    "organ_dice": "organ Dice",
    "mean_sensitivity": "mean sensitivity at 0.5 to 4 false positives an image",
    "sensitivity_at_1": "at 1",
    "ap50": "AP50",
}


class Validation(Config):
    """The result of a validation.

    Attributes:
        step: Optimiser steps behind the validated weights.
        scores: By name, over all validated cases; the first decides which weights are the best, the others only
            between equal ones. Masks: "lesion_dice", the mean lesion Dice per case at `threshold`, and "organ_dice",
            if the data have an organ. Boxes: "mean_sensitivity" at 0.5, 1, 2 and 4 false positives an image,
            "sensitivity_at_1" and "ap50".
        threshold: The operating threshold, chosen for the best result on these cases.
        cases: Per case the Dice of "lesion" and "organ", or its "lesions", those "found" at the threshold and the
            "false_positives" there.
        entropies: Mean entropy of the attention weights over the bag by "kind.level", as a share of log N: 1 for
            uniform weights, 0 for one slice alone.
        gates: What the gates do, by "kind.level": the mean share of values above 0 in front of the rectifier, the mean
            gate and its mean standard deviation. A gate that is the same everywhere attends to nothing.
        single_organ: Whether only the largest connected part of the organ is kept, and the lesions in it, because its
            Dice is then higher; all scores are of this choice.
    """

    step: int = 0
    scores: dict[str, float]
    threshold: float
    cases: dict[str, dict[str, float | None]]
    entropies: dict[str, float]
    gates: dict[str, GateState] = {}
    single_organ: bool = False

    @property
    def ranking(self) -> tuple[float, ...]:
        """Better weights have a higher one."""
        return tuple(self.scores.values())

    @property
    def summary(self) -> str:
        """In one line."""
        named = ", ".join(f"{_TITLES[name]} {value:.3f}" for name, value in self.scores.items())
        return f"{named}; operating score {self.threshold:.2f}"


CaseStats = Any
"""The contribution of one case to a validation; it travels between processes, and only its evaluator reads it."""


class CaseAccumulator(Protocol):
    """One case while its slices come in."""

    def add(self, z: int, found: SliceResult) -> None:
        """Takes the detections of a slice, each once, in any order."""
        ...

    def finish(self) -> CaseStats:
        """The case's contribution."""
        ...


class Evaluator(Protocol):
    """Scores cases, and summarises them."""

    def start(self, store: Store, case: StoredCase) -> CaseAccumulator: ...

    def summarise(self, cases: Mapping[str, CaseStats], entropies: Mapping[str, float]) -> Validation:
        """The validation, from the contributions of its cases, at least one."""
        ...


@dataclass(frozen=True)
class CaseResult:
    """One case: what its accumulator made of it, and means over its slices, see `Validation`."""

    name: str
    stats: CaseStats
    entropies: dict[str, float]
    gates: dict[str, GateState]


@dataclass(frozen=True)
class Workload:
    """What a validation computes on one process: images that are encoded, and targets that are detected in."""

    images: int
    targets: int


def validates_after(config: ValidationConfig, timetable: Timetable, step: int) -> bool:
    """Whether a validation follows `step`."""
    if config.every == 0 or step + 1 == timetable.total:
        return timetable.ends_epoch(step)
    return (step + 1) % config.every == 0


def workload(store: Store, names: Sequence[str], model: BagBackbone) -> Workload:
    """The work of validating on these cases of one process."""
    images = targets = 0
    for case in map(store.case, names):
        depth = case.shape[0]
        shares = window_shares(depth, model.window, case.annotated_slices)
        centres = {centre for row in shares.values() for centre in row}
        images += len({z for centre in centres for z in bag_centres(centre, depth, model.bag).tolist()})
        targets += len(centres)
    return Workload(images, targets)


def distribute(store: Store, names: Sequence[str], processes: int) -> list[list[str]]:
    """The cases of each process: the longest first, each to the process that has the fewest slices until then."""
    lengths = {name: len(store.case(name).annotated_slices) for name in names}
    shares: list[list[str]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for name in sorted(names, key=lambda name: (-lengths[name], name)):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += lengths[name]
    return shares


def validate(
    evaluator: Evaluator,
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
        model: On the accelerator's device; left in evaluation mode.
        names: At least one; the processes share them.
        batch: Images encoded at a time.
        progress: Called with ("validate", slices done, slices) of this process.
    """
    model.eval()
    mine = distribute(store, names, accelerator.num_processes)[accelerator.process_index]
    slices = {name: len(store.case(name).annotated_slices) for name in mine}
    done, total = 0, sum(slices.values())
    results: list[CaseResult] = []
    for name in mine:

        def advance(count: int, done: int = done) -> None:
            if progress is not None:
                progress("validate", done + count, total)

        results.append(evaluate_case(evaluator, model, store, name, accelerator.device, batch=batch, progress=advance))
        done += slices[name]
    by_name: dict[str, CaseResult] = {result.name: result for result in gather_object(results)}
    everyone = [by_name[name] for name in names]  # in this order sums are the same for any number of processes
    rows = [result.entropies for result in everyone]
    entropies = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    gates = _mean_gates([result.gates for result in everyone])
    validation = evaluator.summarise({result.name: result.stats for result in everyone}, entropies)
    return validation.model_copy(update={"gates": gates})


def _mean_gates(rows: Sequence[Mapping[str, GateState]]) -> dict[str, GateState]:
    return {key: GateState(*np.mean([row[key] for row in rows], axis=0).round(4).tolist()) for key in rows[0]}


def evaluate_case(
    evaluator: Evaluator,
    model: BagBackbone,
    store: Store,
    name: str,
    device: torch.device,
    *,
    batch: int = 4,
    progress: Callable[[int], None] | None = None,
) -> CaseResult:
    """Streams one case and scores it; `progress` is called with the slices done."""
    case = store.case(name)
    if not store.scheme.lesion_values:
        case = painted_case(case)
    accumulator = evaluator.start(store, case)
    weights: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    depth, config = case.shape[0], model.config

    def read(centres: Sequence[int]) -> torch.Tensor:
        plan = store.plan
        return slab_images(case.image.__getitem__, centres, depth, config.slices, plan.window, plan.size, device)

    with watch_gates(model) as seen:
        slices = stream(model, read, depth, targets=case.annotated_slices, batch=batch, device=device)
        for count, (z, detections) in enumerate(slices, start=1):
            accumulator.add(z, detections)
            for key, value in detections.weights.items():
                weights[key].append(value)
            if progress is not None:
                progress(count)
    entropies = {
        key: float(entropy(torch.from_numpy(np.stack(rows)).double()).mean())
        for key, rows in weights.items()
        if rows[0].size > 1
    }
    gates = {key: GateState(*np.mean(states, axis=0).tolist()) for key, states in seen.items()}
    return CaseResult(name, accumulator.finish(), entropies, gates)


def painted_case(case: StoredCase) -> StoredCase:
    """A case of organs alone with lesions and look-alikes, as many and as large as LiTS has; always the same ones."""
    hu, labels = np.asarray(case.image[:], np.float32), np.array(case.labels[:])
    rng = np.random.default_rng(list(case.name.encode()))
    wanted = draw_structures(rng, LARGEST)
    painted = paint_structures(hu, labels == ORGAN, case.spacing, rng, LOOK, wanted=wanted, at_border=False)
    labels[painted.lesions] = LESION
    changed = copy(case)
    # They stand in the place of the arrays on disk, which the case opens when first asked.
    vars(changed).update(image=hu.round().astype(np.int16), labels=labels)
    return changed
