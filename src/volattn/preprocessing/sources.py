"""Cases of any kind, read for the store: the CT, what is known of its lesions, and what both were read from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import Case, LabelScheme
from volattn.datasets.ct_values import check_values
from volattn.datasets.key_slice import KeySlice
from volattn.io.files import sha256
from volattn.io.readers.nifti import read_header, read_labels, read_volume
from volattn.preprocessing.measures import measure_boxes, measure_case
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import PreparedSlices, prepare_labels
from volattn.preprocessing.store import PreparedBoxes, canonical_json
from volattn.structures.geometry import Geometry, check_same_grid


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the store keeps it.

    Attributes:
        image: (Z, h, w) HU, slice by slice.
        labels: (Z, h, w) 0 background, 1 organ, 2 lesion; None with boxes.
        boxes: On one slice; None with labels.
        measures: What the data set's fingerprint needs of the case.
        notes: What was overlooked, a sentence each.
    """

    image: PreparedSlices
    labels: NDArray[np.uint8] | None
    boxes: PreparedBoxes | None
    measures: dict[str, Any]
    notes: tuple[str, ...]


def canonical_geometry(case: Case) -> Geometry:
    """A case's grid in canonical axes; reads a header at most.

    Raises:
        ValueError: It cannot be read, is no grid, or has no images.
    """
    if case.key_slice is not None:
        if not case.image.is_dir():
            raise ValueError(f"{case.image}: there is no such folder; unpack the archive that holds it")
        return case.key_slice.geometry
    geometry = read_header(case.image).geometry
    assert geometry is not None, "read_header refuses a header without a grid"
    return geometry.turned(geometry.turn())


def digests(case: Case) -> tuple[str, str]:
    """SHA-256 of a case's CT, and of what is known of its lesions.

    Raises:
        ValueError: A file cannot be read.
    """
    if case.key_slice is not None:
        return _digests_of_slices(case, case.key_slice)
    assert case.labels is not None
    return sha256(case.image), sha256(case.labels)


def prepare_source(
    case: Case, scheme: LabelScheme, plan: Plan, force: bool = False, trust_grid: bool = False
) -> Prepared:
    """Reads a case whole and prepares what is known of it; its slices are made when they are asked for.

    Args:
        case: With labels or boxes.
        scheme: What the labels mean.
        plan: How.
        force: Values that cannot be a CT's are taken all the same.
        trust_grid: Labels of the image's shape are taken as they lie, whatever their own grid says.

    Raises:
        ValueError: A file cannot be read, or the case is at odds with itself.
    """
    if case.key_slice is not None:
        return _prepare_boxed(case.name, case.key_slice, plan, force)
    assert case.labels is not None
    volume, labels = read_volume(case.image), read_labels(case.labels)
    note = check_values(volume.array, str(case.image), force)
    called = (case.image.name, str(case.labels))
    overlooked = check_same_grid(volume.geometry, labels.geometry, called, trust_grid)
    if overlooked is not None:  # A store says nothing of where its sources lay.
        overlooked = overlooked.replace(str(case.labels), case.labels.name)
    labels = replace(labels, geometry=volume.geometry)
    try:
        measures = measure_case(volume, labels, scheme)
        prepared_labels = prepare_labels(labels, scheme, plan)
    except ValueError as error:
        raise ValueError(f"{case.labels}: {error}") from None
    return Prepared(PreparedSlices(volume, plan), prepared_labels, None, measures, _known([note, overlooked]))


def _known(notes: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(note for note in notes if note is not None)


def _digests_of_slices(case: Case, key_slice: KeySlice) -> tuple[str, str]:
    key_slice.check()
    slices = [[path.name, sha256(path)] for path in key_slice.files]
    facts = asdict(key_slice) | {"patient": case.patient, "part": case.part}
    for place in ("folder", "table", "rows"):  # where it lies does not change what it is
        del facts[place]
    return _digest(slices), _digest(facts)


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _prepare_boxed(name: str, key_slice: KeySlice, plan: Plan, force: bool) -> Prepared:
    """The key slice stays as it is, and the others are interpolated around it."""
    key_slice.check()
    volume = key_slice.read(name)
    note = check_values(volume.array, key_slice.called, force)
    image = PreparedSlices(volume, plan, anchor=key_slice.z)
    rows, columns = np.array(image.resampled.shape) / key_slice.shape
    boxes = np.array(key_slice.inside()) * [columns, rows, columns, rows]
    return Prepared(
        image,
        None,
        PreparedBoxes(
            slice=image.resampled.anchored, boxes=tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in boxes.round(6).tolist())
        ),
        measure_boxes(volume, key_slice),
        _known([note]),
    )
