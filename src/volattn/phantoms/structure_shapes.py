"""Shapes of painted structures, as distances outside a surface, and the texture that fills them; lengths in mm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

RADII = (4.0, 8.0, 16.0, 32.0)
"""mm; each axis of a lesion is one of them, times 0.75 to 1.25."""
_BENDING = (0.5, 1.0, 3.0, 5.0)
"""mm; the least standard deviation of the displacements that bend a lesion of each radius; the most is twice that."""


@dataclass(frozen=True)
class Look:
    """A cross-section and what fills it; lengths in mm, contrast in HU above the organ.

    Attributes:
        bending: Standard deviation of the displacements of its surface.
        edge: That of the blur of its border.
        texture: That of the smooth noise inside, HU.
    """

    radius: float
    aspect: float
    angle: float
    bending: float
    edge: float
    contrast: float
    texture: float

    @classmethod
    def draw(cls, rng: np.random.Generator, radius: float, contrast: tuple[float, float], bright: float) -> Look:
        hu = -rng.uniform(*contrast)
        if rng.random() < bright / 2:
            hu = rng.uniform(20, 70)
        return cls(
            radius=radius,
            aspect=rng.uniform(0.65, 1.0),
            angle=rng.uniform(0, math.pi),
            bending=min(float(np.interp(radius, RADII, _BENDING)), radius / 6) * rng.uniform(1, 2),
            edge=rng.uniform(1.0, 2.0),
            contrast=hu,
            texture=rng.uniform(1.5, 8.6),
        )


@dataclass(frozen=True)
class Shape:
    """A surface: `outside` gives the distance outside it, mm, at offsets from its centre; `reach` is (z, y, x) mm."""

    outside: Outside
    reach: NDArray[np.float64]
    depth: float
    hu: float | None = None


class Outside:
    """Distance outside an ellipsoid whose centre line may wind and whose surface is bent."""

    def __init__(
        self,
        radii: tuple[float, float, float],
        angle: float,
        bend: Array | None = None,
        *,
        slope: NDArray[np.float64] | None = None,
        wave: NDArray[np.float64] | None = None,
        pace: float = 0.0,
        flat: float | None = None,
    ) -> None:
        self.radii, self.angle, self.bend, self.flat = radii, angle, bend, flat
        self.slope, self.wave, self.pace = slope, wave, pace

    def __call__(self, z: Array, y: Array, x: Array) -> Array:
        rz, ry, rx = (np.float32(radius) for radius in self.radii)
        along, bent = z, np.zeros((3, 1, 1, 1), np.float32)
        if self.bend is not None:
            deep, wide = (np.float32(1.6 * radius) for radius in (self.radii[0], max(self.radii[1:])))
            bent = _bent(self.bend, z / deep, y / wide, x / wide)
        if self.slope is not None and self.wave is not None:
            (sy, sx), (wy, wx, phase) = self.slope.astype(np.float32), self.wave.astype(np.float32)
            swing = np.sin(np.float32(self.pace) * z + phase) - np.sin(phase)
            y, x = y - sy * z - wy * swing, x - sx * z - wx * swing
        z, y, x = z + bent[0], y + bent[1], x + bent[2]
        cosine, sine = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        u, v = cosine * x + sine * y, cosine * y - sine * x
        if math.isinf(self.radii[0]):
            norm = np.sqrt((u / rx) ** 2 + (v / ry) ** 2)
        else:
            norm = np.sqrt((u / rx) ** 2 + (v / ry) ** 2 + (z / rz) ** 2)
        distance = (norm - 1) * min(rx, ry)
        return distance if self.flat is None else np.maximum(distance, 10 * (np.abs(along) - np.float32(self.flat)))


def _bent(control: Array, z: Array, y: Array, x: Array) -> Array:
    """Smooth displacements (3, d, h, w) from (3, 3, 3, 3) control points; coordinates run from -1 to 1 over them."""

    def basis(t: Array) -> Array:
        t = np.clip((t.ravel() + 1) / 2, 0, 1)
        return np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)

    bent = np.tensordot(control, basis(x), (3, 1))
    bent = np.tensordot(bent, basis(y), (2, 1))
    return np.tensordot(bent, basis(z), (1, 1)).transpose(0, 3, 2, 1)


def lesion_shape(look: Look, dz: float, rng: np.random.Generator) -> Shape:
    radii = (look.radius * rng.uniform(0.75, 1.25), look.radius * look.aspect, look.radius)
    bend = rng.normal(0, look.bending, (3, 3, 3, 3)).astype(np.float32)
    return Shape(
        Outside(radii, look.angle, bend),
        np.array([1.6 * radii[0], 1.6 * look.radius, 1.6 * look.radius]) + 4,
        2 * radii[0],
    )


def course_shape(look: Look, dz: float, rng: np.random.Generator) -> Shape:
    """A vessel or duct: the cross-section of a lesion in each of many slices, winding; longer than a bag is deep."""
    radius = look.radius
    half = radius + rng.uniform(22, 45)
    slope, wave = rng.normal(0, 0.35, 2), np.append(rng.normal(0, 0.3 * radius, 2), rng.uniform(0, 2 * math.pi))
    bend = rng.normal(0, look.bending / 2, (3, 3, 3, 3)).astype(np.float32)
    outside = Outside(
        (half * 2, radius * look.aspect, radius),
        look.angle,
        bend,
        slope=slope,
        wave=wave,
        pace=2 * math.pi / (1.4 * half),
        flat=half,
    )
    side = 1.6 * radius + np.abs(slope) * half + 2 * np.abs(wave[:2]) + 4
    return Shape(outside, np.array([half + dz, *side]), 2 * half)


def partial_volume_shape(look: Look, dz: float, rng: np.random.Generator) -> Shape:
    """What fills one slice and none of its neighbours."""
    bend = rng.normal(0, look.bending, (3, 3, 3, 3)).astype(np.float32)
    outside = Outside((math.inf, look.radius * look.aspect, look.radius), look.angle, bend, flat=dz / 2)
    return Shape(outside, np.array([dz, 1.6 * look.radius + 4, 1.6 * look.radius + 4]), dz)


def fissure_shape(look: Look, dz: float, rng: np.random.Generator) -> Shape:
    """A cleft of fat that runs into the organ from its border."""
    length, width, half = rng.uniform(12, 35), rng.uniform(1.5, 4), rng.uniform(8, 25)
    bend = rng.normal(0, 2.0, (3, 3, 3, 3)).astype(np.float32)
    outside = Outside((half, width, length), look.angle, bend)
    return Shape(outside, np.array([half, length, length]) * 1.2 + 5, 2 * half, rng.uniform(-60, 20))


def gallbladder_shape(look: Look, dz: float, rng: np.random.Generator) -> Shape:
    radius, half = rng.uniform(9, 20), rng.uniform(18, 40)
    bend = rng.normal(0, 3.0, (3, 3, 3, 3)).astype(np.float32)
    outside = Outside(
        (half, radius * look.aspect, radius), look.angle, bend, slope=rng.normal(0, 0.3, 2), wave=np.zeros(3)
    )
    side = 1.6 * radius + 0.6 * half + 4
    return Shape(outside, np.array([1.2 * half, side, side]), 2 * half, rng.uniform(0, 20))


def texture(shape: tuple[int, ...], spacing: NDArray[np.float64], deviation: float, rng: np.random.Generator) -> Array:
    """Smooth noise of two scales (3 to 15 and 4 to 7 mm), HU, in (d, h, w)."""
    total = np.zeros(shape, np.float32)
    for scale in (rng.uniform(3, 15), rng.uniform(4, 7)):
        counts = [max(2, math.ceil(size * step / scale) + 1) for size, step in zip(shape, spacing, strict=True)]
        noise = rng.standard_normal(counts, np.float32)
        for axis, size in enumerate(shape):
            noise = np.moveaxis(np.tensordot(_hats(size, counts[axis]), noise, (1, axis)), 0, axis)
        total += noise
    # Interpolation between two points of variance one keeps two thirds of it along each axis; two scales add up.
    return total * np.float32(deviation / math.sqrt(2 * (2 / 3) ** 3))


def _hats(size: int, count: int) -> Array:
    """(size, count) weights of linear interpolation."""
    position = np.linspace(0, count - 1, size)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(count))).astype(np.float32)
