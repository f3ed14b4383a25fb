"""The abdomen around the liver: as varied as patients are, or more, so that nothing in it can be learnt by heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volattn.phantoms.shapes import Canvas, Field, Grid, Wobble, add, curve, ellipsoid, tube

_LONG = 900.0
"""Semi-axis of what runs through the whole volume, mm."""


@dataclass(frozen=True)
class Body:
    """The frame that organs are placed in; mm, the origin in the middle of the body, z from the lowest slice.

    Attributes:
        cavity: Semi-axes (x, y) of the abdominal cavity.
        wall: Semi-axes (x, y) of the middle of the muscle wall, where the ribs run.
        spine: y of the middle of the vertebrae.
        vertebra: Their radius.
        dome: z of the top of the diaphragm.
        inside: (D, H, W) coverage of the cavity.
    """

    height: float
    cavity: tuple[float, float]
    wall: tuple[float, float]
    spine: float
    vertebra: float
    dome: float
    inside: Field


def paint_body(canvas: Canvas, rng: np.random.Generator, a: float, height: float) -> Body:
    """Table, skin, fat, muscle and the fat of the cavity, for a body of half width `a`."""
    grid = canvas.grid
    b = a * rng.uniform(0.62, 0.82)
    if rng.random() < 0.9:
        _paint_table(canvas, rng, a, b)
    outline = Wobble.draw(rng, 4, 160)
    middle = height / 2

    def layer(inset: float, hu: float, shift: float = 0.0, power: float = 2.3) -> object:
        radii = (a - inset, b - 0.85 * inset, _LONG)
        part = ellipsoid(grid, (0, shift, middle), radii, wobble=outline, power=power)
        return canvas.paint(part, hu)

    layer(0, rng.uniform(-20, 30))
    layer(2.5, rng.uniform(-115, -90))
    under_skin = 4 + rng.uniform(0, 1) * rng.uniform(8, 28)
    thickness = rng.uniform(8, 16)
    layer(under_skin, rng.uniform(40, 70), 2, 2.4)
    inset = under_skin + thickness
    cavity = (a - inset, b - 0.85 * inset)
    inside = canvas.blank()
    part = ellipsoid(grid, (0, -2, middle), (*cavity, _LONG), wobble=outline, power=2.4)
    add(inside, canvas.paint(part, rng.uniform(-110, -70)))
    wall = (cavity[0] + thickness / 2, cavity[1] + thickness / 2)
    dome = height * rng.uniform(0.78, 0.95)
    return Body(height, cavity, wall, cavity[1] * 0.62, rng.uniform(19, 25), dome, inside)


def _paint_table(canvas: Canvas, rng: np.random.Generator, a: float, b: float) -> None:
    top = b + rng.uniform(4, 20)
    for offset, hu in ((0.0, rng.uniform(-500, -100)), (rng.uniform(8, 15), rng.uniform(-850, -600))):
        thick = rng.uniform(2, 5)
        box = canvas.grid.box((-a * 1.1, top + offset, -1), (a * 1.1, top + offset + thick, 2 * _LONG))
        if box is not None:
            canvas.hu[box.place] = hu


def paint_spine(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Vertebrae, discs, processes, the canal, and the muscles beside them."""
    grid, y, r = canvas.grid, body.spine, body.vertebra
    muscle = rng.uniform(40, 70)
    middle = body.height / 2
    for side in (-1, 1):
        back = (side * rng.uniform(30, 42), y + rng.uniform(22, 32), middle)
        canvas.paint(ellipsoid(grid, back, (28, 20, _LONG)), muscle + rng.uniform(-8, 8))
        psoas = (side * rng.uniform(34, 42), y + 2, rng.uniform(-20, 40))
        canvas.paint(ellipsoid(grid, psoas, (17, 18, rng.uniform(70, 120))), muscle + rng.uniform(-5, 12))
    spongy = rng.uniform(150, 260)
    canvas.paint(ellipsoid(grid, (0, y, middle), (r, 0.8 * r, _LONG)), rng.uniform(70, 110))
    period = rng.uniform(28, 36)
    phase = rng.uniform(0, period)
    for level in range(-1, int(body.height / period) + 2):
        z = level * period + phase
        shell = spongy + rng.uniform(150, 300)
        canvas.paint(ellipsoid(grid, (0, y, z), (1.05 * r, 0.85 * r, 0.42 * period), power=3.5), shell)
        canvas.paint(ellipsoid(grid, (0, y, z), (0.95 * r, 0.75 * r, 0.38 * period), power=3.5), spongy)
        processes = [([[0, y + 1.6 * r, z], [side * 1.6 * r, y + 1.1 * r, z]], [6.0, 4.0], 120) for side in (-1, 1)]
        processes.append(([[0, y + 1.3 * r, z], [0, y + 2.3 * r, z - 10]], [5.0, 3.5], 150))
        for points, radii, brighter in processes:
            canvas.paint_tube(np.array(points), np.array(radii), spongy + brighter)
    canvas.paint(ellipsoid(grid, (0, y + 1.12 * r, middle), (8, 8, _LONG)), rng.uniform(20, 50))


def paint_ribs(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Ribs in the muscle wall, falling to the front, with marrow."""
    a, b = body.wall
    for number in range(11):
        z = body.height * 1.05 - number * rng.uniform(24, 30)
        along = np.linspace(1.15, -0.9 + 0.04 * number, 14)
        radius, cortex, marrow = rng.uniform(4, 5.5), rng.uniform(250, 450), rng.uniform(120, 220)
        for side in (-1, 1):
            points = np.stack([side * a * np.cos(along), b * np.sin(along), z - 45 * (1 - np.sin(along))], axis=1)
            for thick, hu in ((radius, cortex), (0.55 * radius, marrow)):
                canvas.paint_tube(points, np.full(len(points), thick), hu)


def paint_chest(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Lungs above the two domes of the diaphragm, their vessels, and the heart."""
    grid = canvas.grid
    a, b = body.cavity
    first = int(np.searchsorted(grid.z, body.dome - 110))
    if first < len(grid.z):
        above = slice(first, len(grid.z))
        x, y, z = grid.x[None, None, :], grid.y[None, :, None], grid.z[above, None, None]
        hu = rng.uniform(-900, -780)
        view = canvas.hu[above]
        for side, top in ((-1, body.dome), (1, body.dome - rng.uniform(5, 20))):
            surface = top - ((x - side * 0.5 * a) / (0.55 * a)) ** 2 * 60 - (y / (0.9 * b)) ** 2 * 45
            air = np.clip((z - surface) / 6, 0, 1) * np.clip((side * x - 14) / 4, 0, 1) * body.inside[above]
            view += air.astype(np.float32) * (np.float32(hu) - view)
    for _ in range(25):
        start = np.array([*(rng.uniform(-0.8, 0.8, 2) * (a, b)), rng.uniform(body.dome - 60, body.height)])
        for box, outside in tube(grid, np.stack([start, start + rng.normal(0, 18, 3)]), np.array([2.2, 1.0])):
            lung = (canvas.hu[box.place] < -500).astype(np.float32)
            view = canvas.hu[box.place]
            view += box.coverage(outside) * lung * (40 - view)
    heart = (rng.uniform(5, 35), -0.35 * b, body.dome + rng.uniform(15, 35))
    shape = Wobble.draw(rng, 3, 70)
    canvas.paint(ellipsoid(grid, heart, (58, 48, 42), angle=0.5, wobble=shape), rng.uniform(60, 180))


def paint_bowel(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    grid = canvas.grid
    a, b = body.cavity
    for _ in range(int(rng.integers(18, 40))):
        x, y = rng.uniform(-0.85, 0.9) * a, rng.uniform(-0.85, 0.25) * b
        z = rng.uniform(-10, 0.75 * body.dome)
        r, longer = rng.uniform(9, 24), rng.uniform(0.8, 1.8)
        angle, shape = rng.uniform(0, np.pi), Wobble.draw(rng, 2, 40)
        wall, content = rng.uniform(50, 110), rng.uniform(-10, 90)
        outer = (r * longer, r, r * rng.uniform(0.8, 2))
        inner = (outer[0] - 2.5, outer[1] - 2.5, outer[2] - 2.5)
        for radii, hu in ((outer, wall), (inner, content)):
            part = ellipsoid(grid, (x, y, z), radii, angle=angle, wobble=shape)
            canvas.paint(part, hu, within=body.inside)
        if rng.random() < 0.4:
            gas = ellipsoid(grid, (x, y - 0.4 * r, z), (0.6 * outer[0], 0.45 * r, 0.6 * outer[2]), angle=angle)
            canvas.paint(gas, -900, within=body.inside)


def paint_stomach(canvas: Canvas, rng: np.random.Generator, body: Body, liver_z: float) -> None:
    grid = canvas.grid
    a, b = body.cavity
    centre = (a * rng.uniform(0.3, 0.55), -b * rng.uniform(0.2, 0.5), liver_z + rng.uniform(-10, 40))
    outer = (rng.uniform(35, 60), rng.uniform(28, 45), rng.uniform(35, 65))
    inner = (outer[0] - 4, outer[1] - 4, outer[2] - 4)
    angle, shape = rng.uniform(-0.8, 0.3), Wobble.draw(rng, 4, 60)
    content = rng.choice([rng.uniform(0, 40), rng.uniform(20, 60), rng.uniform(100, 200)], p=[0.5, 0.4, 0.1])
    for radii, hu in ((outer, rng.uniform(60, 110)), (inner, float(content))):
        part = ellipsoid(grid, centre, radii, angle=angle, wobble=shape)
        canvas.paint(part, hu, within=body.inside)
    part = ellipsoid(grid, centre, inner, angle=angle, wobble=shape)
    if part is not None and rng.random() < 0.85:
        box, outside = part
        level = np.float32(centre[1] - inner[1] * rng.uniform(-0.1, 0.5))
        canvas.paint((box, np.maximum(outside, box.y - level)), -950, within=body.inside)


def paint_organs(canvas: Canvas, rng: np.random.Generator, body: Body, liver_z: float) -> None:
    grid = canvas.grid
    a, b = body.cavity
    spleen = (a * rng.uniform(0.68, 0.8), b * rng.uniform(0.15, 0.45), liver_z + rng.uniform(-10, 40))
    radii = (rng.uniform(22, 36), rng.uniform(36, 55), rng.uniform(35, 60))
    shape = Wobble.draw(rng, 4, 60)
    part = ellipsoid(grid, spleen, radii, angle=rng.uniform(0.1, 0.6), wobble=shape)
    canvas.paint(part, rng.uniform(90, 140), within=body.inside)

    cortex = rng.uniform(110, 210)
    for side in (-1, 1):
        centre = np.array([side * rng.uniform(52, 70), body.spine - rng.uniform(-5, 20), liver_z - rng.uniform(45, 80)])
        angle = -side * rng.uniform(0.3, 0.8)
        radii = (rng.uniform(24, 31), rng.uniform(24, 32), rng.uniform(45, 60))
        part = ellipsoid(grid, centre, radii, angle=angle, wobble=Wobble.draw(rng, 1.5, 30))
        canvas.paint(part, cortex, within=body.inside)
        pelvis = ellipsoid(grid, centre - (side * 6, 4, 0), (10, 9, 32), angle=angle, wobble=Wobble.draw(rng, 3, 14))
        canvas.paint(pelvis, rng.uniform(-60, 60), within=body.inside)
        if rng.random() < 0.3:
            cyst = ellipsoid(grid, centre + rng.normal(0, 14, 3), (9, 9, 9))
            canvas.paint(cyst, rng.uniform(0, 15), within=body.inside)

    z = liver_z - rng.uniform(20, 45)
    course = curve((-35, -0.05 * b, z - 15), (0, -0.3 * b, z), (0.5 * a, 0.05 * b, z + 20), 7)
    hu = rng.uniform(70, 115)
    canvas.paint_tube(course, np.full(7, rng.uniform(9, 13)), hu, within=body.inside)


def vessel_tree(
    grid: Grid, rng: np.random.Generator, root: NDArray[np.float64], ends: list[NDArray[np.float64]], r: float
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Courses (points, radii) of a tree: a branch to each end, and three twigs on each branch."""
    courses = []
    for end in ends:
        points = curve(root, (root + end) / 2 + rng.normal(0, 12, 3), end, 9)
        radii = np.linspace(r, 1.2, 9)
        courses.append((points, radii))
        for _ in range(3):
            at = int(rng.integers(3, 7))
            tip = points[at] + rng.normal(0, 22, 3)
            twig = curve(points[at], (points[at] + tip) / 2 + rng.normal(0, 6, 3), tip, 5)
            courses.append((twig, np.linspace(0.8 * radii[at], 0.8, 5)))
    return courses
