"""The metrics, in one table: one line more in `METRICS`, and comparisons, studies and reports show it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

if TYPE_CHECKING:
    from volattn.scoring.pool import Sample

# Types of the values of a score file: read strictly, finite, and of a sane size.
Name = Annotated[str, Field(min_length=1, max_length=400)]
Number = Annotated[float, Field(strict=True, ge=-1e12, le=1e12)]  # far beyond any measure, and no sum overflows
Length = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=0, le=10**12)]

Kind = Literal["masks", "boxes", "scans", "overlap", "validation"]
"""Of label maps; of boxes on slices or in scans, pooled over all detections; of two masks; of a training run."""

IMAGE_LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SCAN_LEVELS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives per image or scan at which sensitivity is given."""


@dataclass(frozen=True)
class Metric:
    """A number that measures how good a prediction is.

    Attributes:
        key: Its name in files and studies; nested keys are joined by dots.
        title: Its name in tables and figures.
        better: Which way is better; None where neither is (signed errors, whose best value is 0).
        unit: "share" is from 0 to 1, and in percent in studies; anything else is shown as it is.
        short: Its name in narrow columns; the title by default.
        values: Of "masks": the numbers that one case (an entry of `cases` in `scores.json` or in a study's results)
            adds to the mean over all cases: one, one for each lesion, or none.
        compared: Whether `compare` adds its mean per case to the numbers that the cases hold.
        pooled: Of "boxes" and "scans": (G,) the values of a sample's G groups of lesions.
        also: Another kind that it is of.
        of_patient_alone: Whether `compare` tests each patient's value of its own images, as if there were no others;
            else that of its lesions at the operating points of all patients together.
    """

    key: str
    title: str
    kind: Kind
    better: Literal["higher", "lower"] | None = "higher"
    unit: str = "share"
    short: str = ""
    values: Callable[[Mapping[str, Any]], Sequence[float]] | None = None
    compared: bool = True
    pooled: Callable[[Sample], NDArray[np.float64]] | None = None
    also: Kind | None = None
    of_patient_alone: bool = False

    @property
    def column(self) -> str:
        """Its short name with its unit, if it is a length or volume."""
        name = self.short or self.title
        return name if self.unit in ("share", "count", "ratio") else f"{name}, {self.unit}"

    @property
    def highest(self) -> float:
        """The largest value that it can take."""
        return 1.0 if self.unit == "share" else float("inf")

    @property
    def scale(self) -> float:
        """From a value to that of a study's table: shares are in percent there, as in the paper."""
        return 100.0 if self.unit == "share" else 1.0

    def improves(self, difference: float) -> bool | None:
        """Whether a difference is an improvement; None if neither way is better."""
        return None if self.better is None else (difference > 0) == (self.better == "higher")


def _organ(case: Mapping[str, Any]) -> list[float]:
    organ = case.get("organ") or case.get("liver")
    return [] if organ is None else [organ["dice"]]


def _of_size(size: str) -> Callable[[Mapping[str, Any]], list[float]]:
    return lambda case: [lesion["dice"] for lesion in case["reference_lesions"] if lesion["size"] == size]


def _sensitivities(unit: str, kind: Kind, levels: Sequence[float]) -> Iterator[Metric]:
    for level in levels:
        yield Metric(
            f"sensitivity_at_fp_per_{unit}.{level:g}",
            f"Sensitivity at {level:g} FP per {unit}",
            kind,
            short=f"{level:g} FP",
            pooled=partial(_sensitivity, level=level),
        )


def _sensitivity(sample: Sample, level: float) -> NDArray[np.float64]:
    return sample.sensitivities([level])[:, 0]


def _average_precision(sample: Sample) -> NDArray[np.float64]:
    return sample.average_precision


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        # The cases of `evaluate lits` hold these numbers, or what they are means of: `compare` has them already.
        Metric(
            "dice_per_case", "Lesion Dice per case", "masks", values=lambda case: [case["lesion"]["dice"]],
            compared=False,
        ),
        Metric("organ_dice_per_case", "Organ Dice per case", "masks", values=_organ, compared=False),
        Metric(
            "recall", "Recall of lesions, overlapped at all", "masks", short="Recall", compared=False,
            values=lambda case: [float(lesion["dice"] > 0) for lesion in case["reference_lesions"]],
        ),
        *(
            Metric(
                f"dice_{size}", f"Dice of lesions, {size}", "masks", short=f"Dice, {size}", values=_of_size(size),
                compared=False,
            )
            for size in ("small", "medium", "large")
        ),
        Metric(
            "false_positives_per_case", "False positives per case", "masks", "lower", "count", "FP per case",
            lambda case: [case["false_positives"]], compared=False,
        ),
        *_sensitivities("image", "boxes", IMAGE_LEVELS),
        *_sensitivities("scan", "scans", SCAN_LEVELS),
        Metric(
            "mean_sensitivity", "Mean sensitivity", "boxes", also="scans",
            pooled=lambda sample: sample.sensitivities(sample.pool.settings.averaged).mean(axis=1),
        ),
        Metric("ap50", "AP50", "boxes", pooled=_average_precision, of_patient_alone=True),
        Metric("average_precision", "AP", "scans", pooled=_average_precision, of_patient_alone=True),
        Metric("dice", "Dice", "overlap"),
        Metric("jaccard", "Jaccard", "overlap"),
        Metric("voe", "VOE", "overlap", "lower"),
        Metric("rvd", "RVD", "overlap", None, "ratio"),
        Metric("rvd_conventional", "RVD, predicted - reference", "overlap", None, "ratio"),
        Metric("assd", "ASSD", "overlap", "lower", "mm"),
        Metric("rmsd", "RMSD", "overlap", "lower", "mm"),
        Metric("msd", "MSD", "overlap", "lower", "mm"),
        Metric("surface_dice_2mm", "Surface Dice, 2 mm", "overlap"),
        Metric("lesion_dice", "Lesion Dice", "validation"),
        Metric("liver_dice", "Liver Dice", "validation"),
        Metric("organ_dice", "Organ Dice", "validation"),
        Metric("sensitivity_at_1", "Sensitivity at 1 FP per image", "validation"),
        Metric("false_positives", "False positives", "validation", "lower", "count"),
    )
}  # fmt: skip


def metrics_of(kind: Kind) -> dict[str, Metric]:
    """The metrics of a kind, by key."""
    return {key: metric for key, metric in METRICS.items() if kind in (metric.kind, metric.also)}


def find_metric(key: str) -> Metric | None:
    """A metric by its key, also in a part of a file: `lesion.assd` is the ASSD of lesions."""
    if key in METRICS:
        return METRICS[key]
    part, _, last = key.rpartition(".")
    found = METRICS.get(last)
    if found is None or found.kind != "overlap":
        return None
    return replace(found, key=key, title=f"{part.replace('_', ' ').capitalize()}: {found.title}")


def title_of(key: str, organ: str | None = None) -> str:
    """The title of a number in a file, whether it is a metric or not; `organ` is named instead of the liver."""
    found = find_metric(key)
    words = re.sub(r"(?<!\d)\.|\.(?!\d)", ": ", key.replace("_", " "))  # 0.5 is a number
    title = words[:1].upper() + words[1:] if found is None else found.title
    if organ is None:
        return title
    return re.sub(r"(?i)\b(liver|organ)", lambda word: organ.capitalize() if word[0][0].isupper() else organ, title)


def sums_of(cases: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
    """Metrics of label maps, by their keys, as quotients: the sum over the cases of the first by that of the second.

    Returns:
        (C, V) sums of each case's values, and (C, V) how many values there are.
    """
    values = [[_values(case, METRICS[key]) for key in metrics] for case in cases]
    sums = np.array([[sum(of_case) for of_case in row] for row in values], np.float64)
    return sums, np.array([[len(of_case) for of_case in row] for row in values], np.float64)


def mean_of(case: Mapping[str, Any], metric: Metric) -> float | None:
    """The mean of what one case adds to a metric; None if it adds nothing."""
    values = _values(case, metric)
    return float(np.mean(values)) if len(values) else None


def _values(case: Mapping[str, Any], metric: Metric) -> Sequence[float]:
    assert metric.values is not None
    return metric.values(case)
