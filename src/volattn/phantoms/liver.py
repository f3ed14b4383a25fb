"""The liver with its vessels, and what lies against it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volattn.phantoms.anatomy import Body, vessel_tree
from volattn.phantoms.shapes import Canvas, Field, Wobble, add, curve, ellipsoid, take

_LONG = 900.0


@dataclass(frozen=True)
class LiverPlan:
    """Centre and radii (x, y, z) of the right lobe, mm, drawn before the organs around it are painted."""

    centre: NDArray[np.float64]
    radii: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, body: Body) -> LiverPlan:
        """A large right lobe under the right dome, against the ribs."""
        a, b = body.cavity
        radii = np.array([a * rng.uniform(0.44, 0.55), b * rng.uniform(0.56, 0.74), rng.uniform(62, 86)])
        x = -a + radii[0] * rng.uniform(0.95, 1.05) + 4
        centre = np.array([x, rng.uniform(-0.15, 0.1) * b, body.dome - radii[2] * rng.uniform(0.85, 1.0)])
        return cls(centre, radii)


@dataclass(frozen=True)
class Liver:
    """What lesions need to know of the liver.

    Attributes:
        hu: Of its tissue.
        coverage: (D, H, W): the liver without the large vessels and the gallbladder beside it.
    """

    hu: float
    coverage: Field


def paint_liver(canvas: Canvas, rng: np.random.Generator, body: Body, plan: LiverPlan) -> Liver:
    """Two lobes cut off below, aorta and vena cava, hepatic and portal veins, gallbladder."""
    grid = canvas.grid
    a, b = body.cavity
    centre, radii = plan.centre, plan.radii
    hu = rng.uniform(80, 130)
    shape = Wobble.draw(rng, rng.uniform(4, 8), 80)
    left = centre + (radii[0] * rng.uniform(0.8, 1.05), -radii[1] * rng.uniform(0.25, 0.5), rng.uniform(0, 30))
    left_radii = (a * rng.uniform(0.4, 0.6), b * rng.uniform(0.25, 0.37), rng.uniform(32, 52))
    tilt, lean = rng.uniform(0.2, 0.7), rng.uniform(-0.3, 0.3)
    lowest = centre[2] - radii[2] * rng.uniform(0.75, 1.0)
    coverage = canvas.blank()
    for middle, lobe, angle in ((centre, radii, rng.uniform(-0.25, 0.25)), (left, left_radii, rng.uniform(-0.3, 0.2))):
        part = ellipsoid(grid, middle, lobe, angle=angle, wobble=shape, power=2.2)
        if part is None:
            continue
        box, outside = part
        below = (lowest + tilt * (box.x - np.float32(centre[0])) + lean * box.y - box.z) * np.float32(0.8)
        add(coverage, (box, box.coverage(np.maximum(outside, below))))
    coverage *= (ndimage.uniform_filter(body.inside, (0, 3, 3)) > 0.5).astype(np.float32)
    spine = ellipsoid(grid, (0, body.spine, body.height / 2), (body.vertebra + 14, body.vertebra + 10, _LONG))
    assert spine is not None
    take(coverage, (spine[0], spine[0].coverage(spine[1])))
    canvas.hu += coverage * (np.float32(hu) - canvas.hu)
    if rng.random() < 0.5:
        everywhere = grid.box((-1e4, -1e4, -1e4), (1e4, 1e4, 1e4))
        assert everywhere is not None
        patches = Wobble.draw(rng, rng.uniform(1, 5), rng.uniform(25, 60))
        canvas.hu += coverage * patches.at(everywhere)

    cava = _paint_great_vessels(canvas, rng, body, hu, coverage)
    _paint_veins(canvas, rng, body, plan, left, left_radii, lowest, cava, hu, coverage)
    if rng.random() < 0.85:
        at = (
            centre[0] + radii[0] * rng.uniform(0.1, 0.5),
            centre[1] - radii[1] * rng.uniform(0.3, 0.6),
            lowest + rng.uniform(-5, 18),
        )
        size = (rng.uniform(11, 18), rng.uniform(11, 18), rng.uniform(20, 34))
        part = ellipsoid(grid, at, size, wobble=Wobble.draw(rng, 1.5, 30))
        take(coverage, canvas.paint(part, rng.uniform(0, 20), within=body.inside))
    return Liver(hu, coverage)


def _paint_great_vessels(
    canvas: Canvas, rng: np.random.Generator, body: Body, liver: float, coverage: Field
) -> tuple[float, float]:
    """Aorta and vena cava; returns where the latter runs (x, y)."""
    grid, middle = canvas.grid, body.height / 2
    front = body.spine - body.vertebra
    arterial = rng.uniform(120, 200)
    radius = rng.uniform(9, 13)
    aorta = ellipsoid(grid, (rng.uniform(4, 16), front - rng.uniform(6, 10), middle), (radius, radius, _LONG))
    canvas.paint(aorta, arterial)
    venous = arterial * rng.uniform(0.8, 1.05) if rng.random() < 0.8 else liver + rng.uniform(-10, 20)
    at = (-rng.uniform(14, 24), front - rng.uniform(8, 16))
    part = ellipsoid(grid, (*at, middle), (rng.uniform(10, 14), rng.uniform(8, 12), _LONG))
    take(coverage, canvas.paint(part, venous))
    return at


def _paint_veins(
    canvas: Canvas,
    rng: np.random.Generator,
    body: Body,
    plan: LiverPlan,
    left: NDArray[np.float64],
    left_radii: tuple[float, float, float],
    lowest: float,
    cava: tuple[float, float],
    hu: float,
    coverage: Field,
) -> None:
    """Hepatic veins from the cava, the portal vein from below; both enhanced, more or less."""
    grid, centre, radii = canvas.grid, plan.centre, plan.radii
    into_left = left + (0.4 * left_radii[0], 0, 0)
    root = np.array([cava[0] - 4, cava[1] - 8, centre[2] + 0.7 * radii[2]])
    ends = [
        centre + radii * (rng.uniform(-0.7, -0.3), rng.uniform(-0.5, 0.5), rng.uniform(-0.3, 0.2)),
        centre + radii * (0, -0.6, -0.1),
        into_left,
        centre + radii * (-0.4, 0.6, -0.2),
    ]
    hilum = np.array([centre[0] + 0.7 * radii[0], centre[1], lowest + 35])
    portal_ends = [
        centre + radii * (-0.6, -0.3, 0.1),
        centre + radii * (-0.5, 0.5, -0.2),
        centre + radii * (-0.3, 0.1, 0.5),
        left + (10, 0, 0),
    ]
    trees = (
        (vessel_tree(grid, rng, root, ends, rng.uniform(4, 6)), hu + rng.uniform(20, 70)),
        (vessel_tree(grid, rng, hilum, portal_ends, rng.uniform(5, 7.5)), hu + rng.uniform(20, 75)),
    )
    for courses, value in trees:
        for points, sizes in courses:
            canvas.paint_tube(points, sizes, value, within=coverage)
    front = body.spine - body.vertebra
    trunk = curve((-5, front - 25, lowest - 50), (-15, front - 35, lowest), hilum, 6)
    canvas.paint_tube(trunk, np.full(6, 6.5), hu + 50, within=body.inside)
