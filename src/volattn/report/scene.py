"""The contents of a picture of a case: its slices, the enlarged parts, and the lesions that were found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LESION, ORGAN
from volattn.structures.lesions import label_components, largest_component

Kind = Literal["lesion", "hit", "false", "missed"]
"""Of a lesion: predicted, without a reference; or found, false positive, missed."""

Area = tuple[slice, slice]
"""Rows and columns of a slice."""

_BODY_HU = -300.0
_MARGIN_MM = 8.0
_ZOOM_MM = 90.0
_REPEATED = 0.6
_NAMED = 12


class Outline(NamedTuple):
    """All lesions of a kind in a slice (y, x), which are drawn with one line."""

    mask: NDArray[np.bool_]
    kind: Kind
    reference: bool


class Label(NamedTuple):
    """A lesion in a slice (y, x), and the text at it: its number and score, or that it was missed."""

    mask: NDArray[np.bool_]
    kind: Kind
    text: str


@dataclass(frozen=True, eq=False)
class View:
    """One slice to draw: z from the feet, (y, x) HU, the predicted organ with its lesions, mm (y, x).

    Attributes:
        outlines: The reference's first, so that predictions are drawn on top.
        named: The largest predicted or missed lesions, in descending order.
        body: The part with the patient in it.
        zoom: The part to enlarge.
    """

    z: int
    depth: int
    image: NDArray[Any]
    organ: NDArray[np.bool_]
    outlines: list[Outline]
    named: list[Label]
    spacing: tuple[float, float]
    body: Area
    zoom: Area

    def size_mm(self, area: Area) -> tuple[float, float]:
        """Height and width of a part."""
        return (area[0].stop - area[0].start) * self.spacing[0], (area[1].stop - area[1].start) * self.spacing[1]


@dataclass(frozen=True, eq=False)
class Scene:
    """The label map of a case, compared with its reference if there is one; canonical axes.

    Attributes:
        image: (z, y, x) HU.
        labels: (z, y, x) 0 background, 1 organ, 2 lesion.
        lesions: (z, y, x) one number per predicted lesion.
        spacing: mm (z, y, x).
        scores: Of the predicted lesions, by number; empty if they have none.
        kinds: Of the predicted lesions, by number.
        truth: (z, y, x) one number per reference lesion; None without a reference.
        found: Reference lesions that a predicted one hits; `missed` are the others.
    """

    image: NDArray[Any]
    labels: NDArray[np.uint8]
    lesions: NDArray[np.unsignedinteger]
    spacing: tuple[float, float, float]
    scores: Sequence[float]
    kinds: dict[int, Kind]
    truth: NDArray[np.unsignedinteger] | None = None
    found: frozenset[int] = frozenset()
    missed: frozenset[int] = frozenset()

    @classmethod
    def compare(
        cls,
        image: NDArray[Any],
        labels: NDArray[np.uint8],
        lesions: NDArray[np.unsignedinteger],
        spacing: tuple[float, float, float],
        scores: Sequence[float] = (),
        reference: NDArray[np.uint8] | None = None,
        hit_iou: float = 0.0,
    ) -> Scene:
        """Matches predicted and reference lesions (3D components): one voxel in common is a hit, or so much IoU."""
        assert image.shape == labels.shape == lesions.shape
        if reference is None:
            return cls(image, labels, lesions, spacing, scores, dict.fromkeys(_numbers(lesions), "lesion"))
        assert reference.shape == labels.shape
        truth, _ = label_components(reference == LESION)
        return cls.matched(image, labels, lesions, spacing, scores, truth, *_matches(lesions, truth, hit_iou))

    @classmethod
    def matched(
        cls,
        image: NDArray[Any],
        labels: NDArray[np.uint8],
        lesions: NDArray[np.unsignedinteger],
        spacing: tuple[float, float, float],
        scores: Sequence[float],
        truth: NDArray[np.unsignedinteger],
        hits: Set[int],
        found: Set[int],
    ) -> Scene:
        """With the numbers of the predicted lesions that are hits, and of those of the reference that are found."""
        kinds: dict[int, Kind] = {number: "hit" if number in hits else "false" for number in _numbers(lesions)}
        missed = frozenset(_numbers(truth)) - found
        return cls(image, labels, lesions, spacing, scores, kinds, truth, frozenset(found), missed)

    def counts(self) -> dict[Kind, int]:
        """Lesions of each kind that the picture can show, in the whole volume."""
        if self.truth is None:
            return {"lesion": len(self.kinds)} if self.kinds else {}
        values = list(self.kinds.values())
        return {"hit": values.count("hit"), "false": values.count("false"), "missed": len(self.missed)}

    def groups(self) -> Iterator[tuple[Kind, NDArray[np.unsignedinteger], list[int]]]:
        """Each kind of lesion that there is: where such lesions are numbered, and their numbers."""
        for kind in dict.fromkeys(self.kinds.values()):
            yield kind, self.lesions, [number for number, its in self.kinds.items() if its == kind]
        if self.truth is not None and self.missed:
            yield "missed", self.truth, sorted(self.missed)

    def view(self, z: int) -> View:
        """A slice, ready to draw."""
        organ = self.labels[z] >= ORGAN
        spacing = (self.spacing[1], self.spacing[2])
        image = self.image[z]
        named = self._named(z)
        # The largest component is the patient, not the table.
        body = _widened(_bounds(largest_component(image > _BODY_HU)), image.shape, spacing, _MARGIN_MM)
        subject, factor = (named[0].mask, 1.5) if named else (organ, 1.1)
        zoom = _square(_bounds(subject), image.shape, spacing, factor)
        return View(z, len(self.image), image, organ, self._outlines(z), named, spacing, body, zoom)

    def _outlines(self, z: int) -> list[Outline]:
        drawn = []
        if self.truth is not None:
            missed = np.isin(self.truth[z], list(self.missed))
            drawn = [Outline((self.truth[z] > 0) & ~missed, "hit", True), Outline(missed, "missed", True)]
        for kind, lesions, numbers in self.groups():
            if kind != "missed":
                drawn.append(Outline(np.isin(lesions[z], numbers), kind, False))
        return drawn

    def _named(self, z: int) -> list[Label]:
        found = []
        for number in _largest_numbers(self.lesions[z]):
            score = f"  {self.scores[number - 1]:.2f}" if len(self.scores) else ""
            found.append(Label(self.lesions[z] == number, self.kinds[number], f"#{number}{score}"))
        if self.truth is not None:
            for number in _largest_numbers(np.where(np.isin(self.truth[z], list(self.missed)), self.truth[z], 0)):
                found.append(Label(self.truth[z] == number, "missed", "missed"))
        return sorted(found, key=lambda one: -np.count_nonzero(one.mask))[:_NAMED]


class _Lesion(NamedTuple):
    """A lesion by its number in the reference (`truth`) or the prediction of the scene at a place."""

    number: int
    truth: bool
    place: int
    wrong: bool


def choose_slices(scenes: Sequence[Scene], most: int) -> list[int]:
    """At most so many slices to show of a case, of which there may be several predictions.

    They are those where the largest lesions, predicted or missed, have their largest area; false ones take turns with
    the others, so that both are shown. A lesion that a chosen slice shows well already gets no slice of its own.
    Without lesions it is the slice with the most organ; without organ the middle one.
    """
    areas: dict[tuple[_Lesion, int], int] = {}
    for place, scene in enumerate(scenes):
        for number, z, area in _areas(scene.lesions):
            areas[_Lesion(number, False, place, scene.kinds[number] == "false"), z] = area
        if scene.truth is not None:
            for number, z, area in _areas(scene.truth):
                if number in scene.missed:
                    areas[_Lesion(number, True, place, False), z] = area
    best: dict[_Lesion, int] = {}
    for lesion, z in sorted(areas, key=lambda key: (-areas[key], key)):
        best.setdefault(lesion, z)
    turns = zip_longest(*([lesion for lesion in best if lesion.wrong == wrong] for wrong in (False, True)))
    chosen: list[int] = []
    for lesion in (lesion for turn in turns for lesion in turn if lesion is not None):
        shown = max((areas.get((lesion, z), 0) for z in chosen), default=0)
        if shown < _REPEATED * areas[lesion, best[lesion]]:
            chosen.append(best[lesion])
        if len(chosen) == most:
            break
    if chosen:
        return chosen
    organ = [
        sum(int(np.count_nonzero(scene.labels[z] >= ORGAN)) for scene in scenes) for z in range(len(scenes[0].labels))
    ]
    return [int(np.argmax(organ)) if any(organ) else len(organ) // 2]


def _areas(numbers: NDArray[np.unsignedinteger]) -> list[tuple[int, int, int]]:
    """(number, slice, pixels) of every lesion in every slice that shows it."""
    where = np.nonzero(numbers)
    codes, areas = np.unique(numbers[where].astype(np.int64) * len(numbers) + where[0], return_counts=True)
    return [(*divmod(code, len(numbers)), area) for code, area in zip(codes.tolist(), areas.tolist(), strict=True)]


def _largest_numbers(plane: NDArray[np.unsignedinteger]) -> list[int]:
    """The numbers of the largest lesions in a slice."""
    numbers, areas = np.unique(plane[plane > 0], return_counts=True)
    return numbers[np.argsort(-areas, kind="stable")][:_NAMED].tolist()


def _numbers(array: NDArray[np.unsignedinteger]) -> list[int]:
    return np.unique(array[array > 0]).tolist()


def _matches(
    lesions: NDArray[np.unsignedinteger], truth: NDArray[np.unsignedinteger], least: float
) -> tuple[set[int], set[int]]:
    """Predicted lesions that hit one of the reference, and those that are hit; IoU 0 means one voxel in common."""
    both = (lesions > 0) & (truth > 0)
    if least <= 0:
        return set(_numbers(lesions[both])), set(_numbers(truth[both]))
    sizes, others = np.bincount(lesions[lesions > 0]), np.bincount(truth[truth > 0])
    pairs, shared = np.unique(np.stack([lesions[both], truth[both]]).astype(np.int64), axis=1, return_counts=True)
    enough = shared >= least * (sizes[pairs[0]] + others[pairs[1]] - shared)
    return set(pairs[0, enough].tolist()), set(pairs[1, enough].tolist())


def _bounds(mask: NDArray[np.bool_]) -> Area:
    """The box around a mask; the whole slice if it is empty."""
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _widened(area: Area, shape: tuple[int, ...], spacing: tuple[float, float], margin: float) -> Area:
    rows, columns = (
        slice(max(0, side.start - round(margin / step)), min(size, side.stop + round(margin / step)))
        for side, size, step in zip(area, shape, spacing, strict=True)
    )
    return rows, columns


def _square(area: Area, shape: tuple[int, ...], spacing: tuple[float, float], factor: float) -> Area:
    """A square (in mm) around an area, so many times as large, moved into the slice where it sticks out."""
    extents = [(side.stop - side.start) * step for side, step in zip(area, spacing, strict=True)]
    limit = min(size * step for size, step in zip(shape, spacing, strict=True))
    side_mm = min(max(_ZOOM_MM, factor * max(extents)), limit)
    parts = []
    for side, size, step in zip(area, shape, spacing, strict=True):
        length = min(size, max(1, round(side_mm / step)))
        start = round((side.start + side.stop - length) / 2)
        start = min(max(0, start), size - length)
        parts.append(slice(start, start + length))
    return parts[0], parts[1]
