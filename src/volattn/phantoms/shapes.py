"""Smooth shapes painted over each other in a volume, in HU; each touches only its own bounding box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Point = Sequence[float] | NDArray[np.float64]
"""(x, y, z) mm."""


@dataclass(frozen=True)
class Grid:
    """Sample positions, mm, ascending: x (W,) to the left, y (H,) to the back, z (D,) to the head."""

    x: Field
    y: Field
    z: Field

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.z), len(self.y), len(self.x)

    @property
    def pixel(self) -> float:
        """mm in the plane."""
        return float(self.x[1] - self.x[0])

    def box(self, low: Sequence[float], high: Sequence[float]) -> Box | None:
        """The samples between two corners (x, y, z) mm; None where there are none."""
        bounds = []
        for axis, a, b in zip((self.z, self.y, self.x), low[::-1], high[::-1], strict=True):
            start, stop = (int(value) for value in np.searchsorted(axis, (a, b)))
            if start >= stop:
                return None
            bounds.append(slice(start, stop))
        zs, ys, xs = bounds
        return Box((zs, ys, xs), self.x[None, None, xs], self.y[None, ys, None], self.z[zs, None, None], self.pixel)


@dataclass(frozen=True)
class Box:
    """A part of a grid, its axes ready to broadcast to (d, h, w)."""

    place: tuple[slice, slice, slice]
    x: Field
    y: Field
    z: Field
    pixel: float

    def coverage(self, outside: Field, edge: float = 0.0) -> Field:
        """Share of each sample inside a surface, from the distance outside it (mm, negative inside).

        Args:
            outside: (d, h, w) mm.
            edge: Width of the border, mm; a pixel at least.
        """
        return np.clip(0.5 - outside / np.float32(max(self.pixel, edge)), 0, 1)


@dataclass(frozen=True)
class Wobble:
    """A few plane waves that make a smooth surface irregular.

    Attributes:
        amplitude: mm.
        waves: (n, 4) wave vectors (x, y, z) in 1/mm and phases.
    """

    amplitude: float
    waves: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, amplitude: float, length: float, count: int = 3) -> Wobble:
        """Waves of about `length` mm in random directions."""
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        k = direction * (2 * np.pi / (length * rng.uniform(0.7, 1.5, (count, 1))))
        return cls(amplitude, np.concatenate([k, rng.uniform(0, 2 * np.pi, (count, 1))], axis=1))

    def at(self, box: Box) -> Field:
        """Displacement in mm, (d, h, w)."""
        total = np.zeros((), np.float32)
        for kx, ky, kz, phase in self.waves.astype(np.float32):
            total = total + np.sin(kx * box.x + ky * box.y + (kz * box.z + phase))
        return np.float32(self.amplitude / np.sqrt(len(self.waves))) * total


def ellipsoid(
    grid: Grid, centre: Point, radii: Point, *, angle: float = 0.0, wobble: Wobble | None = None, power: float = 2.0
) -> tuple[Box, Field] | None:
    """Distance outside an ellipsoid (mm, about), turned by `angle` radians in the plane.

    Args:
        radii: (x, y, z) mm, before the turn.
        angle: Turn about z.
        power: 2 is an ellipsoid, more is boxier.
    """
    reach = max(radii[0], radii[1]) + (2 * wobble.amplitude if wobble else 0) + 2 * grid.pixel
    deep = radii[2] + (2 * wobble.amplitude if wobble else 0) + 2 * grid.pixel
    low = (centre[0] - reach, centre[1] - reach, centre[2] - deep)
    box = grid.box(low, (centre[0] + reach, centre[1] + reach, centre[2] + deep))
    if box is None:
        return None
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy, dz = (axis - np.float32(value) for axis, value in zip((box.x, box.y, box.z), centre, strict=True))
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    exponent = np.float32(power)
    a, b, c = (np.abs(part / np.float32(r)) ** exponent for part, r in zip((u, v, dz), radii, strict=True))
    outside = ((a + b + c) ** (1 / exponent) - 1) * np.float32(min(radii))
    if wobble is not None:
        outside = outside - wobble.at(box)
    return box, np.asarray(outside, np.float32)


def curve(start: Point, middle: Point, end: Point, count: int) -> NDArray[np.float64]:
    """Points (count, 3) on a quadratic Bezier curve."""
    t = np.linspace(0, 1, count)[:, None]
    a, b, c = (np.asarray(point, np.float64) for point in (start, middle, end))
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c


def tube(grid: Grid, points: NDArray[np.float64], radii: NDArray[np.float64]) -> list[tuple[Box, Field]]:
    """Distance outside a tube along points (n, 3) with radii (n,), one part per segment."""
    parts = []
    for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        reach = max(ra, rb) + 2 * grid.pixel
        box = grid.box((np.minimum(a, b) - reach).tolist(), (np.maximum(a, b) + reach).tolist())
        if box is None:
            continue
        d = (b - a).astype(np.float32)
        length = float(d @ d) or 1.0
        px, py, pz = (axis - np.float32(value) for axis, value in zip((box.x, box.y, box.z), a, strict=True))
        t = np.clip((px * d[0] + py * d[1] + pz * d[2]) / np.float32(length), 0, 1)
        square = (px - t * d[0]) ** 2 + (py - t * d[1]) ** 2 + (pz - t * d[2]) ** 2
        parts.append((box, (np.sqrt(square) - (np.float32(ra) + t * np.float32(rb - ra))).astype(np.float32)))
    return parts


AIR = -1000.0

Part = tuple[Box, Field]
"""A box and the distance outside a surface in it, mm."""


class Canvas:
    """A volume under paint."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.hu: Field = np.full(grid.shape, AIR, np.float32)

    def paint(
        self, part: Part | None, hu: float, *, within: Field | None = None, edge: float = 0.0
    ) -> tuple[Box, Field] | None:
        """Covers what was there, edges in proportion, as partial volume does; gives what was painted.

        Args:
            part: Nothing is painted where it misses the grid.
            within: (D, H, W) coverage that limits it.
            edge: Width of its border, mm; a pixel at least.
        """
        if part is None:
            return None
        box, outside = part
        coverage = box.coverage(outside, edge)
        if within is not None:
            coverage = coverage * within[box.place]
        view = self.hu[box.place]
        view += coverage * (np.float32(hu) - view)
        return box, coverage

    def paint_tube(
        self, points: NDArray[np.float64], radii: NDArray[np.float64], hu: float, *, within: Field | None = None
    ) -> None:
        for part in tube(self.grid, points, radii):
            self.paint(part, hu, within=within)

    def blank(self) -> Field:
        return np.zeros(self.grid.shape, np.float32)


def add(total: Field, painted: tuple[Box, Field] | None) -> None:
    """Joins a coverage to another: the union."""
    if painted is not None:
        box, coverage = painted
        np.maximum(total[box.place], coverage, out=total[box.place])


def take(total: Field, painted: tuple[Box, Field] | None) -> None:
    """Cuts a coverage out of another."""
    if painted is not None:
        box, coverage = painted
        total[box.place] *= 1 - coverage
