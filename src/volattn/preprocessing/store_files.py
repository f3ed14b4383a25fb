"""What a store says of itself and of its cases, as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from volattn.config import Config
from volattn.datasets.case import CaseName, LabelScheme
from volattn.preprocessing.plan import Plan


class StoreFile(Config):
    """A file of the store: what its kind of data set does not know is left out of it."""

    @model_serializer(mode="wrap")
    def _known(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialise(self).items() if value is not None}


class StoreDescription(StoreFile):
    """`store.json`: written last, so that its presence says that the store is whole.

    Attributes:
        dataset: The data set's name.
        plan: How the volumes were prepared.
        scheme: What the data set's label values meant; the store's own are 0 background, 1 organ, 2 lesion.
        fingerprint: SHA-256 over the plan, the scheme and the content of every source file.
        cases: Names, in the data set's order.
        failed: Names of the cases that could not be prepared, with the reason.
        patients: Case -> patient, where patients have several cases.
        parts: Case -> its part of the data set's own split, where there is one.
    """

    dataset: str
    plan: Plan
    scheme: LabelScheme
    fingerprint: str
    cases: tuple[CaseName, ...]
    failed: dict[str, str] = Field(default_factory=dict)
    patients: dict[str, str] | None = None
    parts: dict[str, str] | None = None


class PreparedBoxes(Config):
    """The lesions of a case that are known by their boxes on one slice.

    Attributes:
        slice: The prepared slice.
        boxes: (x0, y0, x1, y1) half-open, in pixels of it, fractional.
    """

    slice: int = Field(ge=0)
    boxes: tuple[tuple[float, float, float, float], ...]

    def pixels(self, shape: tuple[int, int, int]) -> NDArray[np.int64]:
        """(Z,) pixels of each slice of `shape` whose centre is in a box."""
        depth, h, w = shape
        covered = np.zeros((h, w), bool)
        rows, columns = np.arange(h)[:, None] + 0.5, np.arange(w) + 0.5
        for x0, y0, x1, y1 in self.boxes:
            covered |= (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
        return np.where(np.arange(depth) == self.slice, np.count_nonzero(covered), 0)


class CaseDescription(StoreFile):
    """`case.json`: written last of a case's files.

    Attributes:
        name: The case's name.
        shape: (Z, h, w) of the prepared arrays.
        step: Distance between the prepared slices, mm.
        source_shape: Of the source in canonical axes (z, y, x).
        source_affine: Of the source in canonical axes: (z, y, x, 1) -> LPS mm.
        organ_pixels: Per prepared slice, pixels of organ or lesion.
        lesion_pixels: Per prepared slice, pixels of lesion.
        image_sha256: Of the source CT's file or files.
        labels_sha256: Of the source labels' file, or of the boxes and all else that the table says of the case.
        files: Name -> SHA-256 of the prepared files.
        measures: What the data set's fingerprint needs of the case: lesion long axes (mm), HU in the organ, ...
        boxes: The lesions, where there is no label map; the pixels are then those in boxes.
        notes: What was overlooked because the user said so.
    """

    name: CaseName
    shape: tuple[int, int, int]
    step: float
    source_shape: tuple[int, int, int]
    source_affine: tuple[tuple[float, float, float, float], ...]
    organ_pixels: tuple[int, ...]
    lesion_pixels: tuple[int, ...]
    image_sha256: str
    labels_sha256: str
    files: dict[str, str]
    measures: dict[str, Any]
    boxes: PreparedBoxes | None = None
    notes: tuple[str, ...] | None = None
