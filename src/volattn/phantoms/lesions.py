"""Lesions, and distractors that no single slice tells from them.

Both kinds draw their cross-section from the same distributions: diameter, aspect, irregularity, sharpness, contrast
and place in the liver. What differs is their course through the slices: a lesion is about as deep as it is wide; a
distractor is a vessel or duct that runs through many slices, or partial volume that is gone in the next.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volattn.phantoms.liver import Liver
from volattn.phantoms.shapes import Canvas, Field, Grid, Part, Wobble, add, ellipsoid, take

LOG_MEAN, LOG_SD, LOG_SHAPE = 2.77, 0.72, 6.25
"""Log of the longest axial extent of LiTS's lesions, mm: gamma-distributed, for its median (14.5 mm) lies below the
16 mm of a log-normal of this mean and deviation; 53 % are under 15 mm."""

COUNT_MEDIAN, COUNT_LOG_SD, COUNT_MOST = 4.0, 1.0, 76
"""Lesions in a case: log-normal, 80 % of cases have 1 to 14."""

LEAST_DISTRACTORS = 5
WIDEST_COURSE = 25.0
"""mm; no vessel or duct of the liver is wider: a wider look-alike is partial volume."""
_GAP = 3.0  # mm between neighbours, so that two never look like one

Kind = Literal["lesion", "vessel", "duct", "partial volume"]


@dataclass(frozen=True)
class Structure:
    """A lesion or distractor, as it was drawn.

    Attributes:
        kind: "lesion" or what the distractor imitates.
        centre: (x, y, z) mm from the middle of the body and the bottom of the volume.
        slice: Index of the slice through its centre; row and column are of the centre too.
        diameter: Of its cross-section, mm.
        contrast: HU above the liver (mostly negative).
        depth: Extent through the slices, mm.
    """

    kind: Kind
    centre: tuple[float, float, float]
    slice: int
    row: float
    column: float
    diameter: float
    contrast: float
    depth: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, rounded to 0.001."""
        values = asdict(self)
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()} | {
            "centre": [round(v, 3) for v in self.centre]
        }


@dataclass(frozen=True)
class Look:
    """A cross-section.

    Attributes:
        diameter: Longest extent, mm.
        aspect: Short over long axis.
        angle: Of the long axis in the plane.
        roughness: Amplitude of its irregularity, mm.
        edge: Width of its border, mm.
        contrast: HU above the liver.
        flatness: Depth over diameter, had it been a lesion.
    """

    diameter: float
    aspect: float
    angle: float
    roughness: float
    edge: float
    contrast: float
    flatness: float

    @classmethod
    def draw(cls, rng: np.random.Generator, diameter: float) -> Look:
        """Everything but the diameter; one in ten is brighter than the liver."""
        return cls(
            diameter=diameter,
            aspect=rng.uniform(0.7, 1.0),
            angle=rng.uniform(0, np.pi),
            roughness=diameter * rng.uniform(0.02, 0.07),
            edge=diameter * rng.uniform(0, 0.08),
            contrast=rng.uniform(25, 70) * (1 if rng.random() < 0.1 else -1),
            flatness=rng.uniform(0.7, 1.2),
        )


def draw_count(rng: np.random.Generator) -> int:
    if rng.random() < 0.05:
        return 0
    drawn = np.exp(rng.normal(np.log(COUNT_MEDIAN), COUNT_LOG_SD))
    return int(np.clip(np.rint(drawn), 1, COUNT_MOST))


def draw_diameter(rng: np.random.Generator, largest: float) -> float:
    """Longest axial extent, mm; what does not fit the liver is drawn again."""
    while True:
        standard = (rng.gamma(LOG_SHAPE) - LOG_SHAPE) / np.sqrt(LOG_SHAPE)
        diameter = float(np.exp(LOG_MEAN + LOG_SD * standard))
        if diameter < largest:
            return diameter


def _off_middle(rng: np.random.Generator) -> float:
    """A cross-section of a lesion over its longest: most slices miss its middle, but none that of a course."""
    return float(np.sqrt(1 - rng.uniform(0, 0.8) ** 2))


def paint_structures(
    canvas: Canvas, rng: np.random.Generator, liver: Liver, spacing: float, depth: float
) -> tuple[Field, NDArray[np.uint8], list[Structure]]:
    """Places lesions and distractors in the liver.

    Args:
        canvas: With the liver painted.
        spacing: Between the final slices, mm.
        depth: Of the liver, mm: no structure is larger.

    Returns:
        Coverage of the lesions; a map (D, H, W) with k where the k-th structure is; and the structures.
    """
    grid = canvas.grid
    lesions = canvas.blank()
    free = liver.coverage.copy()  # what courses may cover: no lesion, so that its label is where it shows
    numbers = np.zeros(grid.shape, np.uint8)
    spots = _Spots(grid, liver.coverage, rng)
    largest = min(110.0, depth)
    wanted: list[tuple[float, bool]] = [(draw_diameter(rng, largest), True) for _ in range(draw_count(rng))]
    # Distractors are as wide as cross-sections of lesions, but for the widest: no vessel is that wide.
    count = LEAST_DISTRACTORS + int(rng.poisson(0.5))
    wanted += [(draw_diameter(rng, min(largest, 60.0)) * _off_middle(rng), False) for _ in range(count)]
    found: list[Structure] = []
    for diameter, is_lesion in sorted(wanted, reverse=True):
        centre = spots.take(diameter)
        while centre is None and not is_lesion and diameter > 5:
            diameter *= 0.7
            centre = spots.take(diameter)
        if centre is None:
            continue
        look = Look.draw(rng, diameter)
        if is_lesion:
            structure, (box, outside) = _paint_lesion(canvas, rng, liver, look, centre, spacing)
            room = liver.coverage
            painted = (box, box.coverage(outside) * room[box.place])
            add(lesions, painted)
            take(free, painted)
        else:
            structure, (box, outside) = _paint_distractor(canvas, rng, liver.hu, free, look, centre, spacing)
            room = free
        found.append(structure)
        numbers[box.place][(outside < 0) & (room[box.place] > 0.5)] = len(found)
    return lesions, numbers, found


class _Spots:
    def __init__(self, grid: Grid, coverage: Field, rng: np.random.Generator) -> None:
        self.grid = grid
        self.rng = rng
        self.coverage = coverage
        self.inside = np.argwhere(coverage[:, ::4, ::4] > 0.5) * (1, 4, 4)
        self.taken: list[tuple[NDArray[np.float64], float]] = []

    def take(self, diameter: float, tries: int = 80) -> NDArray[np.float64] | None:
        """The centre (x, y, z) of a place at some distance from all others; None if none was found."""
        for _ in range(tries if len(self.inside) else 0):
            z, y, x = self.inside[self.rng.integers(len(self.inside))] + (0, *self.rng.integers(-2, 3, 2))
            if self.coverage[z, y, x] < 0.5:
                continue
            centre = np.array([self.grid.x[x], self.grid.y[y], self.grid.z[z]], np.float64)
            apart = ((np.linalg.norm(centre - other), (diameter + size) / 2) for other, size in self.taken)
            if all(distance > reach + _GAP for distance, reach in apart):
                self.taken.append((centre, diameter))
                return centre
        return None


def _rough(rng: np.random.Generator, look: Look) -> Wobble | None:
    return Wobble.draw(rng, look.roughness, 0.9 * look.diameter) if look.diameter > 4 else None


def _paint_lesion(
    canvas: Canvas, rng: np.random.Generator, liver: Liver, look: Look, centre: NDArray[np.float64], spacing: float
) -> tuple[Structure, Part]:
    radius = look.diameter / 2
    radii = (radius, radius * look.aspect, radius * look.flatness)
    part = ellipsoid(canvas.grid, centre, radii, angle=look.angle, wobble=_rough(rng, look))
    assert part is not None, "a place in the liver is on the grid"
    box, outside = part
    canvas.paint(part, liver.hu + look.contrast, within=liver.coverage, edge=look.edge)
    if look.diameter > 12 and rng.random() < 0.2:
        necrosis = (box, outside + np.float32(0.2 * look.diameter))
        canvas.paint(necrosis, liver.hu + look.contrast - 20, within=liver.coverage)
    return _structure(canvas.grid, "lesion", look, centre, look.contrast, 2 * radii[2], spacing), part


def _paint_distractor(
    canvas: Canvas,
    rng: np.random.Generator,
    liver: float,
    free: Field,
    look: Look,
    centre: NDArray[np.float64],
    spacing: float,
) -> tuple[Structure, Part]:
    lesion_depth = look.diameter * look.flatness
    # A lesion thinner than a slice fades in it; its look-alike must fade as much.
    faded = look.contrast * min(1.0, 0.8 * lesion_depth / spacing)
    if spacing < 0.35 * look.diameter and (look.diameter > WIDEST_COURSE or rng.random() < 0.5):
        # One slice of fat or fissure, cut flat: the whole of it in that slice, nothing in the next.
        middle = (np.floor(centre[2] / spacing) + 0.5) * spacing
        centre = np.array([centre[0], centre[1], middle])
        depth = max(spacing, 0.16 * look.diameter)
        radius = look.diameter / 2
        radii = (radius, radius * look.aspect, radius)
        part = ellipsoid(canvas.grid, centre, radii, angle=look.angle, wobble=_rough(rng, look))
        assert part is not None
        box, outside = part
        flat = np.abs(box.z - np.float32(middle)) - np.float32(depth / 2)
        # Steep, so that the border of the one slice does not leak into its neighbours.
        part = (box, np.maximum(outside, 10 * flat).astype(np.float32))
        canvas.paint(part, liver + look.contrast, within=free, edge=look.edge)
        return _structure(canvas.grid, "partial volume", look, centre, look.contrast, depth, spacing), part
    depth = look.diameter * rng.uniform(1.8, 3) + 12
    part = _course(canvas.grid, rng, look, centre, depth)
    canvas.paint(part, liver + faded, within=free, edge=look.edge)
    kind: Kind = "duct" if look.diameter < 8 else "vessel"
    return _structure(canvas.grid, kind, look, centre, faded, depth, spacing), part


def _course(grid: Grid, rng: np.random.Generator, look: Look, centre: NDArray[np.float64], depth: float) -> Part:
    """A tube that winds through the slices, its cross-section that of a lesion in each."""
    slope, bend = rng.normal(0, 0.35, 2), rng.normal(0, 0.15 * look.diameter, 2)
    pace, phase = 2 * np.pi / (0.7 * depth), rng.uniform(0, 2 * np.pi, 2)
    reach = 0.8 * look.diameter + float(np.abs(slope).max()) * depth / 2 + 2 * float(np.abs(bend).max()) + 4
    half = depth / 2 + 3
    box = grid.box((centre - (reach, reach, half)).tolist(), (centre + (reach, reach, half)).tolist())
    assert box is not None, "a place in the liver is on the grid"
    along = box.z - np.float32(centre[2])
    at = [
        centre[axis] + slope[axis] * along + bend[axis] * (np.sin(pace * along + phase[axis]) - np.sin(phase[axis]))
        for axis in (0, 1)
    ]
    width = 1 + 0.12 * (np.sin(0.8 * pace * along + phase[0]) - np.sin(phase[0]))
    cosine, sine = np.cos(look.angle), np.sin(look.angle)
    radius = look.diameter / 2
    u = (cosine * (box.x - at[0]) + sine * (box.y - at[1])) / (radius * width)
    v = (cosine * (box.y - at[1]) - sine * (box.x - at[0])) / (radius * look.aspect * width)
    outside = (np.sqrt(u * u + v * v) - 1) * (radius * look.aspect)
    rough = _rough(rng, look)
    if rough is not None:
        outside = outside - rough.at(box)
    return box, np.maximum(outside, np.abs(along) - depth / 2).astype(np.float32)


def _structure(
    grid: Grid, kind: Kind, look: Look, centre: NDArray[np.float64], contrast: float, depth: float, spacing: float
) -> Structure:
    x, y, z = (float(value) for value in centre)
    return Structure(
        kind=kind,
        centre=(x, y, z),
        slice=int(z / spacing),
        row=(y - float(grid.y[0])) / grid.pixel,
        column=(x - float(grid.x[0])) / grid.pixel,
        diameter=look.diameter,
        contrast=contrast,
        depth=depth,
    )
