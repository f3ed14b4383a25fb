"""What a data set's fingerprint needs of a case."""

from __future__ import annotations

from typing import Any

import numpy as np

from volattn.datasets.case import LESION, ORGAN, LabelScheme
from volattn.datasets.key_slice import KeySlice
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import Lesion, label_components, measure_lesions
from volattn.structures.volume import Volume


def measure_case(volume: Volume, labels: Volume, scheme: LabelScheme) -> dict[str, Any]:
    """Spacing, lesion sizes and the HU of organ and lesions, slice by slice.

    Args:
        volume: HU in file axes.
        labels: The data set's values in file axes, on the volume's grid.
        scheme: What they mean.

    Returns:
        Values for JSON: `spacing_mm` (z, y, x); `lesion_long_axes_mm` and `lesion_volumes_ml`, one a lesion;
        `organ_hu` and `lesion_hu`, the 5th, 50th and 95th percentile, empty where there is none.

    Raises:
        ValueError: A value is not in the scheme.
    """
    image, canonical = volume.canonical().array, labels.canonical()
    hu: dict[int, list[np.ndarray]] = {ORGAN: [], LESION: []}
    mask = np.zeros(canonical.array.shape, bool)
    for z in range(len(image)):
        normal = scheme.normalise(canonical.array[z : z + 1])[0]
        mask[z] = normal == LESION
        for value, found in hu.items():
            found.append(image[z][normal == value])
    lesions = _lesions(mask, canonical.geometry)
    return {
        "spacing_mm": [round(value, 6) for value in canonical.geometry.spacing],
        "lesion_long_axes_mm": [round(lesion.long_axis_mm, 3) for lesion in lesions],
        "lesion_volumes_ml": [round(lesion.volume_ml, 4) for lesion in lesions],
        "organ_hu": percentiles(np.concatenate(hu[ORGAN])),
        "lesion_hu": percentiles(np.concatenate(hu[LESION])),
    }


def measure_boxes(volume: Volume, key_slice: KeySlice) -> dict[str, Any]:
    """What `measure_case` gives, of lesions that are known by their boxes.

    Args:
        volume: HU in canonical axes.
        key_slice: Where they are.

    Returns:
        As `measure_case`; the long axes are those that were measured by hand, no volume is known, and the HU are those
        of the boxes' middle halves: a box is wider than its lesion.
    """
    plane = volume.array[key_slice.z]
    rows, columns = (np.arange(size) + 0.5 for size in plane.shape)
    inside = np.zeros(plane.shape, bool)
    for x0, y0, x1, y1 in key_slice.inside():
        across = np.abs(columns - (x0 + x1) / 2) <= (x1 - x0) / 4
        along = np.abs(rows - (y0 + y1) / 2) <= (y1 - y0) / 4
        inside |= along[:, None] & across
    return {
        "spacing_mm": [round(value, 6) for value in volume.geometry.spacing],
        "lesion_long_axes_mm": [round(axis, 3) for axis in key_slice.long_axes_mm],
        "lesion_volumes_ml": [],
        "organ_hu": [],
        "lesion_hu": percentiles(plane[inside]),
    }


def percentiles(values: np.ndarray) -> list[float]:
    """The 5th, 50th and 95th percentile; nothing of nothing."""
    return [round(float(value), 2) for value in np.percentile(values, (5, 50, 95))] if values.size else []


def _lesions(mask: np.ndarray, geometry: Geometry) -> list[Lesion]:
    if not mask.any():
        return []
    # Numbered components take four bytes a voxel; lesions fill a small part of the volume.
    bounds = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    crop = mask[tuple(slice(found[0], found[-1] + 1) for found in bounds)]
    components, _ = label_components(crop)
    # Sizes only: where the crop's first voxel lies in the patient does not matter.
    z, y, x = crop.shape
    return measure_lesions(components, Geometry((z, y, x), geometry.affine))
