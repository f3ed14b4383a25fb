"""Validation: whole cases through the stream that prediction uses, scored on the prepared grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from volattn.evaluation.overlap import Overlap
from volattn.inference.stitch import ORGAN_SCORE, score_maps
from volattn.inference.stream import stream
from volattn.models.bag_backbone import BagBackbone
from volattn.preprocessing.store import Store, StoredCase
from volattn.slabs.images import image_slices, to_input
from volattn.slabs.slab import LESION, ORGAN
from volattn.structures.components import largest_component
from volattn.training.operating import choose_threshold, dice_curve, passed
from volattn.training.recipe import ValidationConfig
from volattn.training.schedule import Timetable

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Validation:
    """What validation found.

    Attributes:
        lesion_dice: Mean lesion Dice per case at `threshold`.
        organ_dice: Mean organ Dice per case; None for data with lesions only.
        threshold: The lesion score that gives the highest mean lesion Dice per case.
        cases: Per case the Dice of "lesion" and "organ".
        entropies: Mean entropy of the attention weights over the bag by "kind.level", as a share of log N:
            1 where all slices speak, 0 where one does.
        single_organ: Whether the organ's Dice is higher where only its largest connected part counts, and
            with it the lesions in that; all numbers are then of this reading.
    """

    lesion_dice: float
    organ_dice: float | None
    threshold: float
    cases: dict[str, dict[str, float]]
    entropies: dict[str, float]
    single_organ: bool = False


@dataclass(frozen=True)
class Reading:
    """The scores of a case for one way to read its organ.

    Attributes:
        lesion: Lesion Dice at each candidate threshold.
        organ: None for data with lesions only.
    """

    lesion: NDArray[np.float64]
    organ: Overlap | None


@dataclass(frozen=True)
class CaseFindings:
    """What one case adds to a validation.

    Attributes:
        name: The case.
        whole: With every part of the organ.
        single: With its largest connected part alone; as `whole` for data with lesions only.
        entropies: Mean over its slices.
    """

    name: str
    whole: Reading
    single: Reading
    entropies: dict[str, float]


def follows(config: ValidationConfig, timetable: Timetable, step: int) -> bool:
    """Whether a validation follows `step`."""
    if config.every == 0 or step + 1 == timetable.total:
        return timetable.ends_epoch(step)
    return (step + 1) % config.every == 0


def validate(
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
        store: Where the cases are.
        names: At least one; they are shared out among the processes.
        accelerator: Of the run.
        batch: Images encoded at a time.
        progress: Told of every slice.
    """
    model.eval()
    mine = names[accelerator.process_index :: accelerator.num_processes]
    depths = {name: store.case(name).shape[0] for name in mine}
    done, total = 0, sum(depths.values())
    found: list[CaseFindings] = []
    for name in mine:

        def advance(slices: int, done: int = done) -> None:
            if progress is not None:
                progress("validate", done + slices, total)

        found.append(examine(model, store, name, accelerator.device, batch=batch, progress=advance))
        done += depths[name]
    return summarise(gather_object(found))


def examine(
    model: BagBackbone,
    store: Store,
    name: str,
    device: torch.device,
    *,
    batch: int = 4,
    progress: Callable[[int], None] | None = None,
) -> CaseFindings:
    """Streams one case and scores it; of the volume it keeps three bytes a prepared voxel."""
    case = store.case(name)
    depth, *plane = case.shape
    shape = (plane[0], plane[1])
    levels = np.zeros((depth, *shape), np.uint8)
    organ = np.zeros((depth, *shape), bool) if len(store.classes) == 2 else None
    weights: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    read = _reader(case, store, model.config.slices, device)
    for count, (z, detections) in enumerate(stream(model, read, depth, batch=batch, device=device), start=1):
        maps = score_maps(detections, shape, store.plan.size, len(store.classes))
        levels[z] = passed(maps[-1])
        if organ is not None:
            organ[z] = maps[0] >= ORGAN_SCORE
        for key, value in detections.weights.items():
            weights[key].append(value)
        if progress is not None:
            progress(count)
    entropies = {key: bag_entropy(np.stack(value)) for key, value in weights.items() if value[0].size > 1}
    labels = np.asarray(case.labels[:])
    whole = read_organ(levels, organ, labels)
    single = whole if organ is None else read_organ(levels, largest_component(organ), labels)
    return CaseFindings(name, whole, single, entropies)


def read_organ(
    levels: NDArray[np.uint8], organ: NDArray[np.bool_] | None, labels: NDArray[np.uint8]
) -> Reading:
    """Scores a case; a lesion counts where the organ is.

    Args:
        levels: (Z, h, w), see `dice_curve`.
        organ: What is taken for the organ; None for data with lesions only.
        labels: The reference: 0, 1 organ, 2 lesion.
    """
    if organ is None:
        return Reading(dice_curve(levels, labels == LESION), None)
    curve = dice_curve(np.where(organ, levels, np.uint8(0)), labels == LESION)
    return Reading(curve, Overlap.of(labels >= ORGAN, organ))


def bag_entropy(weights: NDArray[np.floating]) -> float:
    """Mean entropy of softmax weights as a share of log N.

    Args:
        weights: (n, N), N > 1, each row sums to 1.
    """
    weights = weights.astype(np.float64)
    terms = np.where(weights > 0, weights * np.log(np.maximum(weights, np.finfo(np.float64).tiny)), 0)
    return float(-terms.sum(axis=1).mean() / np.log(weights.shape[1]))


def summarise(found: Sequence[CaseFindings]) -> Validation:
    """Joins the findings of all cases; at least one."""
    whole, single = [case.whole for case in found], [case.single for case in found]
    single_organ = (_organ_dice(single) or 0) > (_organ_dice(whole) or 0)
    readings = single if single_organ else whole
    point = choose_threshold([reading.lesion for reading in readings])
    cases: dict[str, dict[str, float]] = {}
    for case, reading, dice in zip(found, readings, point.dice, strict=True):
        organ = {} if reading.organ is None else {"organ": reading.organ.dice}
        cases[case.name] = {"lesion": dice} | organ
    return Validation(
        lesion_dice=point.mean,
        organ_dice=_organ_dice(readings),
        threshold=point.threshold,
        cases=cases,
        entropies=_mean_by_key([case.entropies for case in found]),
        single_organ=single_organ,
    )


def _organ_dice(readings: Sequence[Reading]) -> float | None:
    """Mean per case; None for data with lesions only."""
    values = [reading.organ.dice for reading in readings if reading.organ is not None]
    return sum(values) / len(values) if values else None


def _mean_by_key(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in (rows[0] if rows else {})}


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
