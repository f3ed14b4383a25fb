"""Detections pooled over images: their metrics, and bootstrap intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, TypeAdapter

from volattn.datasets.case import natural_key
from volattn.io.names import count_of
from volattn.scoring.froc import AveragePrecision, Froc, Start
from volattn.scoring.metrics import IMAGE_LEVELS, METRICS, SCAN_LEVELS, Count, Name, Number, metrics_of
from volattn.scoring.statistics import described as described_bootstrap
from volattn.scoring.statistics import percentile_interval, resamples


@dataclass(frozen=True)
class ScoredDetection:
    """One detection.

    Attributes:
        lesions: The lesions of its image that it hits, by their place; none makes it a false positive.
        matched: The one lesion that it is matched to one to one, for average precision; None if there is none.
    """

    score: Number
    lesions: tuple[Count, ...] = ()
    matched: Count | None = None
    label: Count = 0

    def as_json(self) -> float | dict[str, Any]:
        """Plain values; most are false positives of the only class, and those are their bare score."""
        if not self.lesions and self.matched is None and not self.label:
            return self.score
        content: dict[str, Any] = {"score": self.score, "lesions": list(self.lesions), "matched": self.matched}
        return content | {"label": self.label} if self.label else content


def _from_score(value: Any) -> Any:
    return value if isinstance(value, Mapping | ScoredDetection) else {"score": value}


@dataclass(frozen=True)
class ScoredImage:
    """The lesions that the detections of one image hit: a key slice of DeepLesion, or a whole scan.

    Attributes:
        patient: Images of one patient are drawn together by the bootstrap.
        lesions: For each lesion the groups it belongs to, e.g. {"size": "<10 mm"}.
        detections: In descending order of scores; the order among equal scores is part of the record.
        labels: The class of each lesion; empty if there is one class only.
    """

    name: Name
    patient: Name
    lesions: tuple[Mapping[str, str], ...]
    detections: tuple[Annotated[ScoredDetection, BeforeValidator(_from_score)], ...]
    labels: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.lesions)
        if self.labels and len(self.labels) != count:
            raise ValueError(f"has {count_of(len(self.labels), 'label')} for {count_of(count, 'lesion')}")
        before = math.inf
        for place, found in enumerate(self.detections):
            if found.score > before:
                raise ValueError(f"detection {place} has a higher score than the one before it")
            before = found.score
            highest = max((*found.lesions, -1 if found.matched is None else found.matched))
            if highest >= count:
                raise ValueError(f"detection {place} names lesion {highest} of {count}")

    def as_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "name": self.name,
            "patient": self.patient,
            "lesions": [dict(lesion) for lesion in self.lesions],
            "detections": [detection.as_json() for detection in self.detections],
        }
        return content | {"labels": list(self.labels)} if self.labels else content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ScoredImage:
        return _IMAGE.validate_python(content)


_IMAGE = TypeAdapter(ScoredImage)


@dataclass(frozen=True)
class FrocSettings:
    """How a pool is measured.

    Attributes:
        averaged: The false positives per image whose sensitivities are averaged, of `levels`.
        start: The sensitivity before the curve's first point.
        precision_cap: Most detections per image that average precision looks at; None looks at all.
        without: Keys of metrics that are not measured.
    """

    unit: Literal["image", "scan"]
    averaged: tuple[float, ...]
    start: Start
    precision_cap: int | None = None
    without: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[float, ...]:
        """False positives per image or scan at which sensitivity is given."""
        return IMAGE_LEVELS if self.unit == "image" else SCAN_LEVELS

    @property
    def names(self) -> list[str]:
        """Keys of the metrics in the order of `Pool.measure`'s columns."""
        metrics = metrics_of("boxes" if self.unit == "image" else "scans")
        return [key for key, metric in metrics.items() if metric.pooled is not None and key not in self.without]

    @property
    def sensitivity_key(self) -> str:
        """The key of the sensitivities in a file."""
        return f"sensitivity_at_fp_per_{self.unit}"

    def described(self, values: Sequence[Any]) -> dict[str, Any]:
        """Values in the order of `names` under their keys, nested at the first dot."""
        content: dict[str, Any] = {}
        for name, value in zip(self.names, values, strict=True):
            key, _, nested = name.partition(".")
            if nested:
                content.setdefault(key, {})[nested] = value
            else:
                content[key] = value
        return content


class Pool:
    """Images whose detections are sorted together.

    Raises:
        ValueError: Two images have one name.
    """

    def __init__(self, images: Iterable[ScoredImage], settings: FrocSettings) -> None:
        self.images = sorted(images, key=lambda image: image.name)
        self.settings: FrocSettings = settings
        assert self.images
        for first, second in zip(self.images, self.images[1:], strict=False):
            if first.name == second.name:
                raise ValueError(f"image {first.name} is there twice; keep one of them")
        self.patients = sorted({image.patient for image in self.images}, key=natural_key)
        numbers = {patient: number for number, patient in enumerate(self.patients)}
        self._image_patients = np.array([numbers[image.patient] for image in self.images])
        counts = [len(image.lesions) for image in self.images]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.lesion_patients = np.repeat(self._image_patients, counts)

    @property
    def lesions(self) -> int:
        """How many lesions there are."""
        return len(self.lesion_patients)

    def group(self, kind: str, name: str) -> NDArray[np.bool_]:
        """(L,) the lesions of a group, e.g. `group("size", "<10 mm")`."""
        return np.array([lesion.get(kind) == name for image in self.images for lesion in image.lesions], dtype=bool)

    def whole(self) -> NDArray[np.bool_]:
        """(1, L) the group of all lesions, for `measure`."""
        return np.ones((1, self.lesions), bool)

    def measure(self, groups: NDArray[np.bool_], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(G, V) the metrics of `FrocSettings.names` of (G, L) groups of lesions; NaN where a group has no lesion.

        Args:
            weights: (P,) how often each patient counts; once by default.
        """
        sample = Sample(self, groups, weights)
        columns = [metric.pooled(sample) for name in self.settings.names if (metric := METRICS[name]).pooled]
        return np.stack(columns, axis=1)

    def measure_patients(self) -> NDArray[np.float64]:
        """(P, V) the metrics of each patient; NaN without lesions."""
        patients = np.arange(len(self.patients))
        values = self.measure(self.lesion_patients == patients[:, None])
        alone = [METRICS[name].of_patient_alone for name in self.settings.names]
        if any(alone):
            whole = self.whole()
            own = np.stack([self.measure(whole, only)[0] for only in np.eye(len(patients))])
            values = np.where(alone, own, values)
        return values

    @cached_property
    def froc(self) -> Froc:
        lesion_scores = np.full(self.lesions, -np.inf)
        false_scores: list[float] = []
        false_patients: list[int] = []
        for place, image in enumerate(self.images):
            for detection in image.detections:
                if detection.lesions:
                    hit = self._first[place] + np.array(detection.lesions)
                    lesion_scores[hit] = np.maximum(lesion_scores[hit], detection.score)
                else:
                    false_scores.append(detection.score)
                    false_patients.append(self._image_patients[place])
        return Froc(
            lesion_scores,
            self.lesion_patients,
            np.array(false_scores, dtype=np.float64),
            np.array(false_patients, dtype=np.int64),
            self._image_patients,
            self.settings.start,
        )

    @cached_property
    def precision(self) -> list[tuple[NDArray[np.bool_], AveragePrecision]]:
        """For each class of lesions, those that are of it (L,), and its average precision."""
        rows = [
            (detection.score, place, -1 if detection.matched is None else detection.matched, detection.label)
            for place, image in enumerate(self.images)
            for detection in image.detections[: self.settings.precision_cap]
        ]
        # Stable: equal scores stay in the order of the images, and in an image in that of its record.
        rows.sort(key=lambda row: -row[0])
        places, matched, labels = np.array([row[1:] for row in rows], dtype=np.int64).reshape(-1, 3).T
        matches = np.where(matched < 0, -1, self._first[places] + matched)
        patients = self._image_patients[places]
        classes = np.array(
            [label for image in self.images for label in image.labels or (0,) * len(image.lesions)], dtype=np.int64
        )
        return [
            (
                classes == label,
                AveragePrecision(matches[labels == label], patients[labels == label], self.lesion_patients),
            )
            for label in np.unique(classes)
        ]


@dataclass(frozen=True, eq=False)
class Sample:
    """Groups of a pool's lesions, and how often each patient counts: what a pooled metric is measured on.

    A false positive has no type and no size, so that every group is measured against all of them.

    Attributes:
        groups: (G, L) the lesions of each group.
        weights: (P,); once by default.
    """

    pool: Pool
    groups: NDArray[np.bool_]
    weights: NDArray[np.float64] | None = None

    def sensitivities(self, levels: Sequence[float]) -> NDArray[np.float64]:
        """(G, K) at K of the settings' levels, at the operating points of the whole pool; NaN without lesions."""
        return self._sensitivities[:, [self.pool.settings.levels.index(level) for level in levels]]

    @cached_property
    def _sensitivities(self) -> NDArray[np.float64]:
        lesion = np.ones(self.pool.lesions) if self.weights is None else self.weights[self.pool.lesion_patients]
        detected = self.pool.froc.detected(np.array(self.pool.settings.levels), self.weights)
        sizes = (self.groups @ lesion)[:, None]
        found = self.groups.astype(np.float64) @ (lesion[:, None] * detected)
        return np.divide(found, sizes, out=np.full(found.shape, np.nan), where=sizes > 0)

    @property
    def average_precision(self) -> NDArray[np.float64]:
        """(G,) for each group the mean over the classes that have lesions in it; NaN without any."""
        if not self.pool.precision:
            return np.full(len(self.groups), np.nan)
        values = np.stack([one.values(self.groups & of_class, self.weights) for of_class, one in self.pool.precision])
        defined = ~np.isnan(values)
        counts = defined.sum(axis=0)
        total = np.where(defined, values, 0.0).sum(axis=0)
        return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def score_pool(pool: Pool, kinds: Mapping[str, Sequence[str]], seed: int) -> dict[str, Any]:
    """Measures a pool and its groups, with bootstrap intervals over patients.

    Args:
        kinds: Kind of group -> names of its groups, e.g. {"size": ["<10 mm", ...]}; those without any lesion
            are left out.

    Returns:
        Plain values: the measures of all lesions and their `intervals`, and `by_KIND` with the same for each group
        and the number of its `lesions`. There are no intervals with fewer than two patients.
    """
    named = [(kind, name, pool.group(kind, name)) for kind, names in kinds.items() for name in names]
    named = [(kind, name, group) for kind, name, group in named if group.any()]
    groups = np.concatenate([pool.whole(), *(group[None] for _, _, group in named)])
    values = pool.measure(groups)
    intervals = np.full((2, *values.shape), np.nan)
    if len(pool.patients) > 1:
        drawn = [pool.measure(groups, weights) for weights in resamples(len(pool.patients), seed)]
        intervals = percentile_interval(np.stack(drawn))

    def described(place: int) -> dict[str, Any]:
        ends = [None if np.isnan(pair).any() else pair.tolist() for pair in intervals[:, place].T]
        found = [None if math.isnan(value) else value for value in values[place].tolist()]
        return pool.settings.described(found) | {"intervals": pool.settings.described(ends)}

    content = {
        "patients": len(pool.patients),
        f"{pool.settings.unit}s": len(pool.images),
        "lesions": pool.lesions,
        "detections": sum(len(image.detections) for image in pool.images),
        **described(0),
        **{f"by_{kind}": {} for kind in kinds},
    }
    for place, (kind, name, group) in enumerate(named, start=1):
        content[f"by_{kind}"][name] = {"lesions": int(group.sum()), **described(place)}
    content["bootstrap"] = described_bootstrap(seed)
    return content


def pool_of(cases: Iterable[Mapping[str, Any]], settings: FrocSettings) -> Pool:
    """The pool that the cases of a `scores.json` were made of."""
    return Pool([ScoredImage.from_json(case) for case in cases], settings)


def sensitivity_band(pool: Pool, levels: NDArray[np.float64], seed: int) -> NDArray[np.float64] | None:
    """(2, K) the 95 % interval of the FROC curve at K levels, each by itself, by bootstrap over patients.

    The seed of the scores gives their own intervals again. None with fewer than two patients, or without a lesion.
    """
    if len(pool.patients) < 2 or not pool.lesions:
        return None
    drawn = [pool.froc.sensitivity(levels, weights) for weights in resamples(len(pool.patients), seed)]
    return percentile_interval(np.stack(drawn))


@dataclass(frozen=True)
class ImageErrors:
    """Lesions of an image that no detection hits at a threshold, and detections there that hit no lesion."""

    name: str
    missed: int
    false_positives: int


def image_errors(pool: Pool, threshold: float) -> list[ImageErrors]:
    """The errors in each image, most of them first; of equally many those with more missed lesions."""
    errors = []
    for image in pool.images:
        counted = [detection for detection in image.detections if detection.score >= threshold]
        hit = {lesion for detection in counted for lesion in detection.lesions}
        false = sum(not detection.lesions for detection in counted)
        errors.append(ImageErrors(image.name, len(image.lesions) - len(hit), false))
    return sorted(errors, key=lambda one: (-one.missed - one.false_positives, -one.missed))
