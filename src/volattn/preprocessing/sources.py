"""Cases as they are read for the store: the CT, the annotation, and what the data set's fingerprint needs of both."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LESION, ORGAN, Case, LabelScheme
from volattn.datasets.ct_values import check_values
from volattn.datasets.key_slice import KeySlice
from volattn.io.files import sha256, sha256_of_values
from volattn.io.readers import read_header, read_labels, read_volume
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import PreparedSlices, prepare_labels
from volattn.preprocessing.store import PreparedBoxes
from volattn.structures.geometry import Geometry, check_same_grid
from volattn.structures.lesions import Lesion, label_components, measure_lesions
from volattn.structures.volume import Volume, foreground_box


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the store keeps it.

    Attributes:
        image: (Z, h, w) HU, slice by slice.
        annotation: (Z, h, w) 0 background, 1 organ, 2 lesion; or boxes on one slice.
        notes: What was overlooked, a sentence each.
    """

    image: PreparedSlices
    annotation: NDArray[np.uint8] | PreparedBoxes
    measures: dict[str, Any]
    notes: tuple[str, ...]


def canonical_geometry(case: Case) -> Geometry:
    """A case's grid in canonical axes, from its header; a ValueError if it has none, or no images."""
    if case.key_slice is not None and not case.image.is_dir():
        raise ValueError(f"{case.image}: there is no such folder; unpack the archive that holds it")
    geometry = read_header(case.image).geometry if case.key_slice is None else case.key_slice.geometry
    assert geometry is not None, "a header without a grid is refused"
    return geometry.turned(geometry.turn())


def digests(case: Case) -> tuple[str, str]:
    """SHA-256 of a case's CT, and of its annotation."""
    key_slice = case.key_slice
    if key_slice is None:
        assert case.labels is not None
        return sha256(case.image), sha256(case.labels)
    key_slice.check()
    content = asdict(key_slice) | {"patient": case.patient, "subset": case.subset}
    for place in ("folder", "table", "rows"):  # where it lies does not change what it is
        del content[place]
    return sha256_of_values([[path.name, sha256(path)] for path in key_slice.files]), sha256_of_values(content)


def prepare_source(
    case: Case, scheme: LabelScheme, plan: Plan, force: bool = False, trust_grid: bool = False
) -> Prepared:
    """Reads a case whole and prepares its annotation; its slices are made when they are asked for.

    Args:
        force: Values that cannot be a CT's are taken all the same.
        trust_grid: See `check_same_grid`.

    Raises:
        ValueError: A file cannot be read, or the case is at odds with itself.
    """
    if case.key_slice is not None:
        return _prepare_boxes(case.name, case.key_slice, plan, force)
    assert case.labels is not None
    volume, labels = read_volume(case.image), read_labels(case.labels)
    note = check_values(volume.array, str(case.image), force)
    called = (case.image.name, str(case.labels))
    overlooked = check_same_grid(volume.geometry, labels.geometry, called, trust_grid)
    if overlooked is not None:  # A store does not tell where its sources were.
        overlooked = overlooked.replace(str(case.labels), case.labels.name)
    labels = replace(labels, geometry=volume.geometry)
    try:
        measures = _measure_labels(volume, labels, scheme)
        prepared_labels = prepare_labels(labels, scheme, plan)
    except ValueError as error:
        raise ValueError(f"{case.labels}: {error}") from None
    notes = tuple(one for one in (note, overlooked) if one is not None)
    return Prepared(PreparedSlices(volume, plan), prepared_labels, measures, notes)


def _prepare_boxes(name: str, key_slice: KeySlice, plan: Plan, force: bool) -> Prepared:
    """The key slice stays as it is, and the others are interpolated around it."""
    key_slice.check()
    volume = key_slice.read(name)
    note = check_values(volume.array, key_slice.called, force)
    image = PreparedSlices(volume, plan, fixed_z=key_slice.z)
    rows, columns = np.array(image.resampled.shape) / key_slice.shape
    boxes = (np.array(key_slice.inside()) * [columns, rows, columns, rows]).round(6).tolist()
    prepared = PreparedBoxes(
        slice=image.resampled.fixed_slice, boxes=tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in boxes)
    )
    return Prepared(image, prepared, _measure_boxes(volume, key_slice), () if note is None else (note,))


def _measure_labels(volume: Volume, labels: Volume, scheme: LabelScheme) -> dict[str, Any]:
    """Spacing, lesion sizes and the HU of organ and lesions, slice by slice.

    Returns:
        For JSON: `spacing_mm` (z, y, x); `lesion_long_axes_mm` and `lesion_volumes_ml`, one a lesion; `organ_hu` and
        `lesion_hu`, the 5th, 50th and 95th percentile, empty where there is none.
    """
    image, canonical = volume.canonical().array, labels.canonical()
    hu: dict[int, list[np.ndarray]] = {ORGAN: [], LESION: []}
    mask = np.zeros(canonical.array.shape, bool)
    for z in range(len(image)):
        normal = scheme.normalise(canonical.array[z : z + 1])[0]
        mask[z] = normal == LESION
        for value, found in hu.items():
            found.append(image[z][normal == value])
    lesions = _measured_lesions(mask, canonical.geometry)
    return {
        "spacing_mm": [round(value, 6) for value in canonical.geometry.spacing],
        "lesion_long_axes_mm": [round(lesion.long_axis_mm, 3) for lesion in lesions],
        "lesion_volumes_ml": [round(lesion.volume_ml, 4) for lesion in lesions],
        "organ_hu": percentiles(np.concatenate(hu[ORGAN])),
        "lesion_hu": percentiles(np.concatenate(hu[LESION])),
    }


def _measure_boxes(volume: Volume, key_slice: KeySlice) -> dict[str, Any]:
    """As `_measure_labels`, of a volume in canonical axes with boxes.

    The long axes are those that were measured by hand, no volume is known, and the HU are those of the boxes' middle
    halves: a box is wider than its lesion.
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
    """The 5th, 50th and 95th percentile; empty without values."""
    return [round(float(value), 2) for value in np.percentile(values, (5, 50, 95))] if values.size else []


def _measured_lesions(mask: np.ndarray, geometry: Geometry) -> list[Lesion]:
    box = foreground_box(mask)  # Numbered components take four bytes a voxel; lesions fill a small part of the volume.
    return measure_lesions(label_components(mask[box])[0], geometry.cropped(box)) if mask.any() else []
