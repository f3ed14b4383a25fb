"""Lesions and look-alikes painted into an organ, in HU: the same for phantoms, and for any CT while training.

What is painted is added to what is there, so that a CT keeps its noise. Lesions and look-alikes share the
distributions of their cross-sections (diameter, aspect, border, contrast, texture, place): what differs is their course
through the slices. A lesion is about as deep as it is wide; a vessel or duct runs on; partial volume is gone in the
next slice. Fissures and the gallbladder lie at the organ's border, and are no part of it.

Sizes, bending, texture, border and contrast follow the numbers of Hu et al., "Label-free liver tumor segmentation"
(CVPR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import ndtr

from volattn.config import Config
from volattn.phantoms.structure_shapes import (
    RADII,
    Array,
    Look,
    course_shape,
    fissure_shape,
    gallbladder_shape,
    lesion_shape,
    partial_volume_shape,
    texture,
)

_WIDEST_COURSE = 12.5
"""Radius, mm; no vessel or duct of the liver is wider: a wider look-alike is partial volume."""
_ORGAN_ML = 1500.0
"""Volume of the organ for which the counts are given: an adult's liver."""
_GAP = 3.0  # mm between neighbours, so that two never look like one
_FINEST = 1.6  # mm; thicker slices average several samples, as a scanner does

LOOK_ALIKE = "look-alike"
"""The auxiliary class of all that is painted and no lesion."""

Kind = Literal["lesion", "vessel", "duct", "partial volume", "fissure", "gallbladder"]
_Count = Annotated[float, Field(ge=0, le=1000)]
_Contrast = Annotated[float, Field(ge=0, le=1000)]


class SyntheticConfig(Config):
    """Lesions and look-alikes that are painted while training.

    Attributes:
        lesions: Least and most in 1,500 ml of the organ; more than patients have, so that a step sees more of them.
        look_alikes: Likewise, of vessels, ducts, partial volume, fissures and gallbladders.
        contrast: Least and most HU below the organ.
        bright: Share of lesions that are brighter than the organ, or have a bright rim.
    """

    lesions: tuple[_Count, _Count] = (10.0, 30.0)
    look_alikes: tuple[_Count, _Count] = (8.0, 20.0)
    contrast: tuple[_Contrast, _Contrast] = (15.0, 80.0)
    bright: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("lesions", "look_alikes", "contrast"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name} must be two values, least first, found {[least, most]}")
        return self


@dataclass(frozen=True)
class Structure:
    """A lesion or look-alike, as it was drawn.

    Attributes:
        centre: (z, y, x) mm from the centre of the organ array's first voxel.
        diameter: Of its cross-section, mm.
        contrast: HU above the organ (mostly negative); of fat and fluid their own HU.
        depth: Extent through the slices, mm.
    """

    kind: Kind
    centre: tuple[float, float, float]
    diameter: float
    contrast: float
    depth: float


@dataclass(frozen=True)
class Painted:
    """What was painted into a block of slices.

    Attributes:
        numbers: (d, h, w) int16: k where the k-th structure is, 0 elsewhere.
        structures: Structures 1, 2, ...
        organ: (d, h, w) bool: the organ, without what a fissure or gallbladder took from it.
    """

    numbers: NDArray[np.int16]
    structures: tuple[Structure, ...]
    organ: NDArray[np.bool_]

    @cached_property
    def lesions(self) -> NDArray[np.bool_]:
        """(d, h, w) where a lesion is."""
        return np.array([False, *(structure.kind == "lesion" for structure in self.structures)])[self.numbers]


@dataclass(frozen=True)
class Wanted:
    """A structure to be painted, if there is room: its radius in mm."""

    radius: float
    lesion: bool


def draw_crowd(rng: np.random.Generator, config: SyntheticConfig, share: float) -> list[Wanted]:
    """More structures than patients have, mostly of one or two sizes; `share` is the organ's volume over 1,500 ml."""
    weights = rng.dirichlet((0.8, 0.8, 0.6, 0.25))
    wanted = []
    for lesion, bounds in ((True, config.lesions), (False, config.look_alikes)):
        sizes = rng.choice(4, rng.poisson(rng.uniform(*bounds) * share), p=weights)
        # No look-alike of the liver is as wide as the largest lesions.
        wanted += [
            Wanted(RADII[size if lesion else min(size, 2)] * rng.uniform(0.75, 1.25), lesion) for size in sizes.tolist()
        ]
    return wanted


def paint_structures(
    hu: Array,
    organ: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    config: SyntheticConfig,
    *,
    first: int = 0,
    wanted: Sequence[Wanted] | None = None,
    at_border: bool = True,
) -> Painted:
    """Paints lesions and look-alikes into the organ of a block of slices.

    Structures whose centre is outside the block reach into it, as those of a whole CT do.

    Args:
        hu: (d, h, w) float32; changed in place.
        organ: (D, h, w): the organ in the block and in some slices about it.
        spacing: (z, y, x) mm.
        rng: Decides everything.
        config: How many, and how they look.
        first: The slice of `organ` that is the first of `hu`.
        wanted: What is painted, in place of the numbers in `config`.
        at_border: Whether fissures and gallbladders are among the look-alikes.
    """
    block = _Block(hu, organ[first : first + len(hu)].copy(), np.array(spacing), first)
    spots = _Spots(organ, np.array(spacing), rng)
    if wanted is None:
        wanted = draw_crowd(rng, config, spots.millilitres / _ORGAN_ML)
    structures: list[Structure] = []
    for one in sorted(wanted, key=lambda one: (-one.radius, one.lesion)):
        # A look-alike is as wide in each slice as a lesion is, most of whose slices miss its middle.
        radius = one.radius * (1.0 if one.lesion else math.sqrt(1 - rng.uniform(0, 0.8) ** 2))
        kind: Kind = "lesion" if one.lesion else _draw_kind(rng, radius, spacing[0], at_border)
        centre = spots.take(radius, at_border=kind in ("fissure", "gallbladder"))
        while centre is None and not one.lesion and radius > 2.5:
            radius *= 0.7
            centre = spots.take(radius, at_border=kind in ("fissure", "gallbladder"))
        if centre is None:
            continue
        structure = block.paint(
            kind, Look.draw(rng, radius, config.contrast, config.bright), centre, rng, len(structures) + 1, config
        )
        if structure is not None:
            structures.append(structure)
    return Painted(block.numbers, tuple(structures), block.organ)


def _draw_kind(rng: np.random.Generator, radius: float, dz: float, at_border: bool) -> Kind:
    drawn = rng.random()
    if at_border and drawn < 0.2:
        return "gallbladder" if drawn < 0.08 else "fissure"
    # One slice can hide in the next ones only if a lesion of that width would show in several.
    if (drawn < 0.6 or radius > _WIDEST_COURSE) and dz < 0.7 * radius:
        return "partial volume"
    return "duct" if radius < 4 else "vessel"


_SHAPES = {
    "lesion": lesion_shape,
    "vessel": course_shape,
    "duct": course_shape,
    "partial volume": partial_volume_shape,
    "fissure": fissure_shape,
    "gallbladder": gallbladder_shape,
}


class _Spots:
    """Places for centres in an organ (D, h, w), at some distance from each other."""

    def __init__(self, organ: NDArray[np.bool_], spacing: NDArray[np.float64], rng: np.random.Generator) -> None:
        coarse = organ[:, ::4, ::4]
        self._rng, self._spacing = rng, spacing
        self._inside = np.argwhere(coarse) * (1, 4, 4)
        edge = coarse & ~(_shifted(coarse, 1) & _shifted(coarse, 2))
        self._border = np.argwhere(edge) * (1, 4, 4)
        self._taken: list[tuple[NDArray[np.float64], float]] = []
        self.millilitres = float(len(self._inside) * 16 * spacing.prod() / 1000)

    def take(self, radius: float, *, at_border: bool, tries: int = 40) -> NDArray[np.float64] | None:
        """A centre (z, y, x) in mm; None if none was found."""
        places = self._border if at_border else self._inside
        for place in self._rng.integers(len(places), size=tries) if len(places) else ():
            centre = (places[place] + (0, *self._rng.uniform(-2, 2, 2))) * self._spacing
            if all(np.linalg.norm(centre - other) > radius + reach + _GAP for other, reach in self._taken):
                self._taken.append((centre, radius))
                return centre
        return None


def _shifted(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    return np.roll(mask, 1, axis) & np.roll(mask, -1, axis)


class _Block:
    """Slices under paint."""

    def __init__(self, hu: Array, organ: NDArray[np.bool_], spacing: NDArray[np.float64], first: int) -> None:
        self.hu, self.organ = hu, organ
        self.numbers = np.zeros(hu.shape, np.int16)
        self.lesions = np.zeros(hu.shape, bool)
        self._spacing = spacing
        self._first = first
        self._samples = max(1, math.ceil(spacing[0] / _FINEST))

    def paint(
        self,
        kind: Kind,
        look: Look,
        centre: NDArray[np.float64],
        rng: np.random.Generator,
        number: int,
        config: SyntheticConfig,
    ) -> Structure | None:
        """Paints one structure; None if nothing of it shows in the block."""
        shape = _SHAPES[kind](look, float(self._spacing[0]), rng)
        contrast = look.contrast if shape.hu is None else shape.hu
        if kind in ("vessel", "duct"):
            # A lesion that is thinner than a slice fades in it; its look-alike must fade as much.
            contrast *= min(1.0, 1.6 * look.radius / float(self._spacing[0]))
        place = self._place(centre, shape.reach)
        if place is None:
            return None
        z, y, x = self._coordinates(place, centre)
        outside = shape.outside(z, y, x)
        view, organ = self.hu[place], self.organ[place]
        # A lesion's label is where it shows: nothing is painted over it.
        free = organ if kind == "lesion" else organ & ~self.lesions[place]
        edge = max(look.edge, float(self._spacing[1]) / 2)
        cover = self._averaged(ndtr(-outside / np.float32(edge))) * free
        shown = cover > 0.5
        if not shown.any():
            return None
        if shape.hu is not None:  # Fat and fluid have their own HU, whatever the organ's.
            view += cover * np.float32(shape.hu - view[organ].mean())
            organ[shown] = False
        else:
            added = cover * np.float32(contrast)
            if kind == "lesion":
                added += self._inner(outside, look, edge, rng, config) * organ
                self.lesions[place][shown] = True
            added += cover * texture(cover.shape, self._spacing, look.texture, rng)
            view += added
        self.numbers[place][shown] = number
        cz, cy, cx = centre.tolist()
        return Structure(kind, (cz, cy, cx), 2 * look.radius, contrast, shape.depth)

    def _inner(
        self, outside: Array, look: Look, edge: float, rng: np.random.Generator, config: SyntheticConfig
    ) -> Array:
        """HU of a bright rim or a darker core; mostly none."""
        if rng.random() < config.bright / 2:
            width = np.float32(rng.uniform(1.5, 4))
            rim = ndtr(-outside / edge) - ndtr(-(outside + width) / edge)
            return self._averaged(rim) * np.float32(rng.uniform(20, 60) - look.contrast)
        if look.radius > 6 and rng.random() < 0.2:
            return self._averaged(ndtr(-(outside + np.float32(0.4 * look.radius)) / (2 * edge))) * np.float32(-20)
        return np.zeros((1, 1, 1), np.float32)

    def _place(self, centre: NDArray[np.float64], reach: NDArray[np.float64]) -> tuple[slice, ...] | None:
        """The voxels of the block within reach of a centre."""
        middle = centre / self._spacing - (self._first, 0, 0)
        far = reach / self._spacing + 1
        bounds = [
            slice(max(0, math.floor(m - f)), min(size, math.ceil(m + f) + 1))
            for m, f, size in zip(middle, far, self.hu.shape, strict=True)
        ]
        return None if any(axis.start >= axis.stop for axis in bounds) else tuple(bounds)

    def _coordinates(self, place: tuple[slice, ...], centre: NDArray[np.float64]) -> Iterator[Array]:
        """mm from the centre along z (all samples of each slice), y and x, ready to broadcast."""
        steps = (np.arange(self._samples) + 0.5) / self._samples - 0.5
        zs = (np.arange(place[0].start, place[0].stop)[:, None] + self._first + steps).ravel()
        ys, xs = (np.arange(axis.start, axis.stop) for axis in place[1:])
        for axis, (values, shape) in enumerate(((zs, (-1, 1, 1)), (ys, (1, -1, 1)), (xs, (1, 1, -1)))):
            yield (values * self._spacing[axis] - centre[axis]).reshape(shape).astype(np.float32)

    def _averaged(self, samples: Array) -> Array:
        """(d * samples, h, w) to (d, h, w)."""
        d, h, w = samples.shape
        return samples.reshape(d // self._samples, self._samples, h, w).mean(axis=1, dtype=np.float32)
