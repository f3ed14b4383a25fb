"""One synthetic abdominal CT with its labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volattn.datasets.case import LESION, ORGAN
from volattn.phantoms.anatomy import (
    paint_body,
    paint_bowel,
    paint_chest,
    paint_organs,
    paint_ribs,
    paint_spine,
    paint_stomach,
)
from volattn.phantoms.lesions import LARGEST, LOOK, draw_structures
from volattn.phantoms.liver import LiverPlan, paint_liver
from volattn.phantoms.painter import Structure, paint_structures
from volattn.phantoms.shapes import Canvas, Field, Grid

SPACINGS = (0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 5.0)
"""Distances between slices that are drawn, mm."""

_FINEST = 1.6  # mm between samples along z; slices that are thicker average several


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic case, array axes z, y, x running to S, P, L.

    Attributes:
        image: (Z, H, W) int16 HU.
        labels: (Z, H, W) uint8: 0 background, 1 liver, 2 lesion.
        numbers: (Z, H, W) int16: k where `structures[k - 1]` is, distractors too; 0 elsewhere.
        spacing: mm (z, y, x).
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    numbers: NDArray[np.int16]
    spacing: tuple[float, float, float]
    structures: tuple[Structure, ...]


def make_phantom(seed: int, index: int, size: int = 512) -> Phantom:
    """Case `index` of the phantoms of a seed; a function of its arguments only.

    The pixels of 512 of them across are 0.6 to 0.95 mm; fewer of them see the same field of view.

    Args:
        seed: The cohort's, at least 0.
        index: The case's, at least 0.

    Raises:
        ValueError: An argument is out of its range.
    """
    if seed < 0 or index < 0 or size < 32:
        raise ValueError(f"a phantom needs seed and index >= 0 and size >= 32, found {seed}, {index} and {size}")
    rng = np.random.default_rng([seed, index])
    half_width = rng.uniform(150, 200)
    # The field of view is set to the patient; 512 pixels of 0.6 to 0.95 mm.
    fov = float(np.clip(2 * half_width * rng.uniform(1.03, 1.35), 0.6 * 512, 0.95 * 512))
    pixel = fov / size
    spacing = float(rng.choice(SPACINGS))
    height = rng.uniform(190, 260)
    slices = int(height / spacing)
    samples = max(1, int(np.ceil(spacing / _FINEST)))
    shift_x, shift_y = rng.normal(0, 5, 2)
    across = (np.arange(size) + 0.5) * pixel - fov / 2
    z = (np.arange(slices * samples) + 0.5) * spacing / samples
    canvas = Canvas(
        Grid((across - shift_x).astype(np.float32), (across - shift_y).astype(np.float32), z.astype(np.float32))
    )

    body = paint_body(canvas, rng, min(half_width, 0.49 * fov), height)
    plan = LiverPlan.draw(rng, body)
    paint_spine(canvas, rng, body)
    paint_chest(canvas, rng, body)
    paint_bowel(canvas, rng, body)
    paint_stomach(canvas, rng, body, float(plan.centre[2]))
    paint_organs(canvas, rng, body, float(plan.centre[2]))
    liver = paint_liver(canvas, rng, body, plan)
    paint_ribs(canvas, rng, body)

    def to_slices(field: Field) -> Field:
        return field.reshape(slices, samples, size, size).mean(axis=1)

    hu, organ = to_slices(canvas.hu), to_slices(liver.coverage) >= 0.5
    largest = min(LARGEST, float(plan.radii.min()) * 1.1)
    grid = (spacing, pixel, pixel)
    painted = paint_structures(hu, organ, grid, rng, LOOK, wanted=draw_structures(rng, largest), at_border=False)
    labels = organ.astype(np.uint8) * np.uint8(ORGAN)
    labels[painted.lesions] = LESION
    return Phantom(_scan(rng, hu, spacing, size), labels, painted.numbers, grid, painted.structures)


def _scan(rng: np.random.Generator, hu: Field, spacing: float, size: int) -> NDArray[np.int16]:
    """The scanner's blur and its noise, correlated as reconstruction kernels make it."""
    finer = size / 512
    blur = rng.uniform(0.4, 0.9) * finer
    hu = ndimage.gaussian_filter(hu, (0, blur, blur))
    # One real venous case at 1.6 mm has an sd of 25 HU; thicker slices collect more photons, larger pixels too.
    deviation = rng.uniform(14, 32) * (1.6 / max(spacing, 1.0)) ** 0.25 * min(1.0, 0.5 + 0.5 * finer)
    grain = rng.uniform(0.6, 1.1) * finer
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0.3, grain, grain))
    noise *= np.float32(deviation) / noise.std()
    return np.clip(np.rint(hu + noise), -1024, 3071).astype(np.int16)


def truth_of(phantom: Phantom, seed: int, index: int, size: int) -> dict[str, object]:
    """The content of `truth-N.json`: the origin of a phantom, its lesions and its distractors."""
    found = [_as_json(structure, phantom.spacing) for structure in phantom.structures]
    return {
        "seed": seed,
        "index": index,
        "size": size,
        "spacing_mm_zyx": list(phantom.spacing),
        "lesions": [one for one in found if one["kind"] == "lesion"],
        "distractors": [one for one in found if one["kind"] != "lesion"],
    }


def _as_json(structure: Structure, spacing: tuple[float, float, float]) -> dict[str, Any]:
    """Plain values, rounded to 0.001; slice, row and column are of the centre."""
    z, y, x = (at / step for at, step in zip(structure.centre, spacing, strict=True))
    values = asdict(structure) | {"centre": [round(at, 3) for at in structure.centre]}
    values = {key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()}
    return values | {"slice": round(z), "row": round(y, 3), "column": round(x, 3)}
