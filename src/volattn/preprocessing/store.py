"""The store: prepared cases on disk, chunked along z so that a slab reads little."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from volattn.config import Config
from volattn.datasets.case import LabelScheme
from volattn.preprocessing.plan import Plan
from volattn.structures.geometry import Geometry

STORE = "store.json"
CASE = "case.json"
IMAGE = "image.b2nd"
LABELS = "labels.b2nd"
CHUNK = 4
"""Slices in a chunk: a 2.5D image touches one or two."""


class StoreDescription(Config):
    """`store.json`: written last, so that its presence says that the store is whole.

    Attributes:
        dataset: The data set's name.
        plan: How the volumes were prepared.
        scheme: What the data set's label values meant; the store's own are 0 background, 1 organ, 2 lesion.
        fingerprint: SHA-256 over the plan, the scheme and the content of every source file.
        cases: Names, in the data set's order.
        failed: Names of the cases that could not be prepared, with the reason.
    """

    dataset: str
    plan: Plan
    scheme: LabelScheme
    fingerprint: str
    cases: tuple[str, ...]
    failed: dict[str, str] = {}


class CaseDescription(Config):
    """`case.json`: written last of a case's files.

    Attributes:
        name: The case's name.
        shape: (Z, h, w) of the prepared arrays.
        step: Distance between the prepared slices, mm.
        source_shape: Of the source in canonical axes (z, y, x).
        source_affine: Of the source in canonical axes: (z, y, x, 1) -> LPS mm.
        organ_pixels: Per prepared slice, pixels of organ or lesion.
        lesion_pixels: Per prepared slice, pixels of lesion.
        image_sha256: Of the source CT's file.
        labels_sha256: Of the source labels' file.
        files: Name -> SHA-256 of the prepared files.
        measures: What the data set's fingerprint needs of the case: lesion long axes (mm), HU in the organ, ...
    """

    name: str
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


@dataclass(frozen=True)
class SliceTable:
    """Which slices of a case hold what.

    Attributes:
        organ_pixels: (Z,) pixels of organ or lesion.
        lesion_pixels: (Z,) pixels of lesion.
    """

    organ_pixels: NDArray[np.int64]
    lesion_pixels: NDArray[np.int64]

    @property
    def has_organ(self) -> NDArray[np.bool_]:
        """(Z,) whether the slice shows the organ or a lesion of it."""
        return self.organ_pixels > 0

    @property
    def has_lesion(self) -> NDArray[np.bool_]:
        """(Z,) whether the slice shows a lesion."""
        return self.lesion_pixels > 0


class StoredCase:
    """One prepared case; its arrays are opened when they are first read, in whichever process that is.

    Args:
        folder: The case's folder.
        description: Its `case.json`.
    """

    def __init__(self, folder: Path, description: CaseDescription) -> None:
        self.folder = folder
        self.description = description

    def __getstate__(self) -> dict[str, Any]:
        # Open arrays do not travel to data workers.
        return {"folder": self.folder, "description": self.description}

    @property
    def name(self) -> str:
        """The case's name."""
        return self.description.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, h, w)."""
        return self.description.shape

    @cached_property
    def image(self) -> blosc2.NDArray:
        """(Z, h, w) int16 HU; slicing reads the chunks that it needs."""
        return self._open(IMAGE)

    @cached_property
    def labels(self) -> blosc2.NDArray:
        """(Z, h, w) uint8, 0 background, 1 organ, 2 lesion."""
        return self._open(LABELS)

    @property
    def slices(self) -> SliceTable:
        """What each slice holds."""
        return SliceTable(
            np.array(self.description.organ_pixels, np.int64),
            np.array(self.description.lesion_pixels, np.int64),
        )

    @property
    def source(self) -> Geometry:
        """The source's grid in canonical axes."""
        return Geometry(self.description.source_shape, np.array(self.description.source_affine))

    def _open(self, name: str) -> blosc2.NDArray:
        path = self.folder / name
        try:
            array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path}: cannot be read ({str(error) or type(error).__name__}); run `volattn prepare` again"
            ) from None
        if array.shape != self.shape:
            raise ValueError(f"{path}: has shape {array.shape}, {CASE} says {self.shape}; prepare it again")
        return array


class Store:
    """Prepared cases; open one with `Store.open`.

    Args:
        path: The folder.
        description: Its `store.json`.
    """

    def __init__(self, path: Path, description: StoreDescription) -> None:
        self.path = path
        self.description = description

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Opens a store.

        Raises:
            ValueError: It is not a store, or not a whole one.
        """
        path = Path(path)
        if not (path / STORE).is_file():
            raise ValueError(
                f"{path}: is not a finished store ({STORE} missing); make one with `volattn prepare DATASET -o {path}`"
            )
        return cls(path, StoreDescription.read(path / STORE))

    @property
    def plan(self) -> Plan:
        """How the volumes were prepared."""
        return self.description.plan

    @property
    def scheme(self) -> LabelScheme:
        """What the data set's label values meant."""
        return self.description.scheme

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, the lesion last."""
        return self.description.scheme.classes

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the plan, the scheme and the content of every source file."""
        return self.description.fingerprint

    @property
    def names(self) -> tuple[str, ...]:
        """The cases, in the data set's order."""
        return self.description.cases

    def case(self, name: str) -> StoredCase:
        """One case.

        Raises:
            ValueError: It is not in the store, or its folder is damaged.
        """
        if name not in self.names:
            raise ValueError(f"{self.path}: has no case {name!r}; it has {', '.join(self.names[:8])}")
        folder = case_folder(self.path, name)
        return StoredCase(folder, CaseDescription.read(folder / CASE))


def case_folder(store: Path, name: str) -> Path:
    """Where a case lies in a store."""
    return store / "cases" / name


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Writes an array, chunked along its first axis; the same array gives the same bytes.

    Args:
        path: The file; overwritten.
        array: (Z, h, w).
    """
    depth, *plane = array.shape
    chunk = (min(CHUNK, depth), *plane)
    # One thread: several finish their blocks in any order, and the bytes differ.
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(path),
        mode="w",
        chunks=chunk,
        blocks=(1, *plane),
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1},
        dparams={"nthreads": 1},
    )


def canonical_json(content: Any) -> str:
    """JSON with sorted keys and no spaces, for hashing."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
