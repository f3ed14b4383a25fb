"""What a store says of itself and of its cases, as JSON.

The store: prepared cases on disk, chunked along z so that a slab reads little.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import blosc2
import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from volattn.config import Config
from volattn.datasets.case import CaseName, LabelScheme
from volattn.io.files import check_regular, sha256
from volattn.io.names import count_of, shown
from volattn.preprocessing.plan import Plan
from volattn.structures.geometry import Geometry

IMAGE: Final = "image.b2nd"
LABELS: Final = "labels.b2nd"
Measure = Literal["spacing_mm", "lesion_long_axes_mm", "lesion_volumes_ml", "organ_hu", "lesion_hu"]


_Size = Annotated[int, Field(ge=1, le=65_536)]
_Pixels = Annotated[int, Field(ge=0, le=4096**2)]
_Shape = tuple[_Size, _Size, _Size]
_Row = tuple[float, float, float, float]


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

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [name for name, count in Counter(self.cases).items() if count > 1]
        if twice:
            raise ValueError(f"cases has {shown(twice[0])} twice")
        for key, given in (("patients", self.patients), ("parts", self.parts)):
            unknown = sorted((given or {}).keys() - set(self.cases))
            if unknown:
                raise ValueError(f"{key} has {shown(unknown[0])}, which is none of the cases")
        return self


class PreparedBoxes(Config):
    """The lesions of a case that are known by their boxes on one slice.

    Attributes:
        slice: The prepared slice.
        boxes: (x0, y0, x1, y1) half-open, in pixels of it, fractional.
    """

    slice: int = Field(ge=0)
    boxes: tuple[_Row, ...] = Field(max_length=10_000)

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
    shape: _Shape
    step: float = Field(gt=0, le=1000)
    source_shape: _Shape
    source_affine: tuple[_Row, _Row, _Row, _Row]
    organ_pixels: tuple[_Pixels, ...]
    lesion_pixels: tuple[_Pixels, ...]
    image_sha256: str
    labels_sha256: str
    files: dict[Literal["image.b2nd", "labels.b2nd"], str]
    measures: dict[Measure, tuple[float, ...]]
    boxes: PreparedBoxes | None = None
    notes: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        depth, height, width = self.shape
        for key, pixels in (("organ_pixels", self.organ_pixels), ("lesion_pixels", self.lesion_pixels)):
            if len(pixels) != depth:
                raise ValueError(f"{key} has {count_of(len(pixels), 'value')} for {count_of(depth, 'slice')}")
        if any(
            not lesion <= organ <= height * width
            for lesion, organ in zip(self.lesion_pixels, self.organ_pixels, strict=True)
        ):
            raise ValueError("a slice has more pixels of lesion than of organ, or more than there are")
        Geometry(self.source_shape, np.array(self.source_affine))
        if self.boxes is not None:
            if self.boxes.slice >= depth:
                raise ValueError(f"boxes.slice is {self.boxes.slice} of {count_of(depth, 'slice')}")
            for x0, y0, x1, y1 in self.boxes.boxes:
                if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                    raise ValueError(f"the box {[x0, y0, x1, y1]} is not within {width} x {height} pixels")
        return self


STORE = "store.json"
JOB = "job.json"
CASE = "case.json"
CHUNK = 4
"""Slices in a chunk: a 2.5D image touches one or two."""


class StoredArray:
    """A stored array; slicing it reads from the disk.

    Args:
        path: A `.b2nd` file.
        shape: (Z, h, w), as the case's description says.
        dtype: Of its numbers.
        digest: SHA-256 of the file, if it is known. The format has no checksums of its own.

    Raises:
        ValueError: The file is missing, truncated, damaged or another case's.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: DTypeLike, digest: str | None = None) -> None:
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        try:
            check_regular(path)
            if digest is not None and sha256(path) != digest:
                raise ValueError("its content is not what was written")
            self._array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
        except Exception as error:  # blosc2 raises whatever a damaged header leads to.
            raise self._unreadable(error) from None
        found = (getattr(self._array, "shape", None), getattr(self._array, "dtype", None))
        if found != (self.shape, self.dtype):
            raise ValueError(
                f"{path}: holds {found[1]} of shape {found[0]} where {CASE} says {self.dtype} of shape {shape}; "
                "run `volattn prepare` again: it makes anew what does not stand"
            )

    def __len__(self) -> int:
        """Z."""
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> NDArray[Any]:
        """Slices along z; reads the chunks that they lie in and no others.

        Raises:
            ValueError: The file is damaged there.
        """
        try:
            return self._array[key]
        except Exception as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> ValueError:
        reason = shown(str(error))[1:-1] or type(error).__name__
        if not self.path.exists():
            reason = "there is no such file"
        return ValueError(
            f"{self.path}: cannot be read ({reason}); it is missing or damaged, run `volattn prepare` again: it "
            "makes anew what does not stand"
        )


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
    """One prepared case; its arrays are opened when they are first asked for, in whichever process that is.

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
    def image(self) -> StoredArray:
        """(Z, h, w) int16 HU."""
        return StoredArray(self.folder / IMAGE, self.shape, np.int16, self.description.files.get(IMAGE))

    @cached_property
    def labels(self) -> StoredArray:
        """(Z, h, w) uint8, 0 background, 1 organ, 2 lesion."""
        return StoredArray(self.folder / LABELS, self.shape, np.uint8, self.description.files.get(LABELS))

    @property
    def known(self) -> Sequence[int]:
        """The slices of which the reference says what they show."""
        return range(self.shape[0])

    @property
    def slices(self) -> SliceTable:
        """What each slice holds."""
        return SliceTable(
            np.array(self.description.organ_pixels, np.int64), np.array(self.description.lesion_pixels, np.int64)
        )

    @property
    def source(self) -> Geometry:
        """The source's grid in canonical axes."""
        return Geometry(self.description.source_shape, np.array(self.description.source_affine))


class BoxedCase(StoredCase):
    """A prepared case whose lesions are known by their boxes, and on one slice only.

    Args:
        folder: See `StoredCase`.
        description: Has boxes.
    """

    def __init__(self, folder: Path, description: CaseDescription) -> None:
        super().__init__(folder, description)
        assert description.boxes is not None
        self.boxes = description.boxes

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "boxes": self.boxes}

    @property
    def known(self) -> Sequence[int]:
        """The one slice that was marked."""
        return (self.boxes.slice,)

    @property
    def labels(self) -> StoredArray:
        """There are none.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{self.folder}: its lesions are known by boxes on one slice, there is no label map; use a data set with "
            "label maps for what needs masks"
        )


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
            if (path / JOB).is_file():
                raise ValueError(
                    f"{path}: is not a finished store ({STORE} missing); run the same `volattn prepare` again, it "
                    "goes on where it was"
                )
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

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    @property
    def patients(self) -> dict[str, str] | None:
        """Case -> patient, where patients have several cases."""
        return self.description.patients

    @property
    def parts(self) -> dict[str, str]:
        """Case -> its part of the data set's own split; empty where there is none."""
        return self.description.parts or {}

    def case(self, name: str) -> StoredCase:
        """One case.

        Raises:
            ValueError: It is not in the store, or its folder is damaged.
        """
        if name not in self._known:
            raise ValueError(f"{self.path}: has no case {name!r}; it has {', '.join(self.names[:8])}")
        folder = case_folder(self.path, name)
        try:
            description = CaseDescription.read(folder / CASE)
            if description.name != name:
                raise ValueError(f"{folder / CASE}: is of the case {shown(description.name)}")
        except ValueError as error:
            raise ValueError(f"{error}; run `volattn prepare` again: it makes anew what does not stand") from None
        return (StoredCase if description.boxes is None else BoxedCase)(folder, description)


def case_folder(store: Path, name: str) -> Path:
    """Where a case lies in a store."""
    return store / "cases" / name


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Writes an array as `write_slices` does; the same array gives the same bytes.

    Args:
        path: The file; overwritten.
        array: (Z, h, w).
    """
    write_slices(path, array, array.shape, array.dtype)


def write_slices(path: Path, slices: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Writes slices as they come, chunked along z; no more than a chunk of them is held.

    Args:
        path: The file; overwritten.
        slices: Z arrays (h, w).
        shape: (Z, h, w).
        dtype: Of the numbers in the file.

    Raises:
        OSError: The file cannot be written; the disk is full, for one.
    """
    depth, *plane = shape
    try:
        # One thread: several finish their blocks in any order, and the bytes differ.
        file = blosc2.empty(
            shape,
            dtype=np.dtype(dtype),
            urlpath=str(path),
            mode="w",
            chunks=(min(CHUNK, depth), *plane),
            blocks=(1, *plane),
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1},
            dparams={"nthreads": 1},
        )
    except RuntimeError as error:
        raise _unwritable(path, error) from None
    given = iter(slices)
    for start in range(0, depth, CHUNK):
        chunk = np.stack([next(given) for _ in range(min(CHUNK, depth - start))])
        try:
            file[start : start + len(chunk)] = chunk
        except RuntimeError as error:
            raise _unwritable(path, error) from None


def _unwritable(path: Path, error: RuntimeError) -> OSError:
    # blosc2 says neither where nor why. The file's own name is a temporary one.
    return OSError(f"{path.parent}: cannot be written ({error}); make space on its disk, or look at its permissions")


def canonical_json(content: Any) -> str:
    """JSON with sorted keys and no spaces, for hashing."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
