"""The store: prepared cases on disk, chunked along z so that a slab reads little, and its JSON files."""

from __future__ import annotations

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

from volattn.config import Config, read_values
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
    """A JSON file of the store; values that are None are left out."""

    @model_serializer(mode="wrap")
    def _without_none(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialise(self).items() if value is not None}


class StoreDescription(StoreFile):
    """`store.json`, written last: a store that has it is complete; see `Store`.

    Attributes:
        format: Stores of version 0.1 have none.
        scheme: What the data set's label values meant; the store's own are 0 background, 1 organ, 2 lesion.
        failed: Case that could not be prepared -> reason.
        phantoms: Whether the data set is of phantoms, as their folder's manifest says.
    """

    format: Literal[2] = 2
    dataset: str
    plan: Plan
    scheme: LabelScheme
    fingerprint: str
    cases: tuple[CaseName, ...]
    failed: dict[str, str] = Field(default_factory=dict)
    phantoms: bool = False
    patients: dict[str, str] | None = None
    subsets: dict[str, str] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [name for name, count in Counter(self.cases).items() if count > 1]
        if twice:
            raise ValueError(f"cases has {shown(twice[0])} twice")
        for key, given in (("patients", self.patients), ("subsets", self.subsets)):
            unknown = sorted((given or {}).keys() - set(self.cases))
            if unknown:
                raise ValueError(f"{key} has {shown(unknown[0])}, which is none of the cases")
        return self


class PreparedBoxes(Config):
    """The annotation of a case by boxes (x0, y0, x1, y1) on one prepared slice, half-open, in pixels, fractional."""

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
    """`case.json`, written last of a case's files.

    Attributes:
        shape: (Z, h, w) of the prepared arrays.
        step: Distance between the prepared slices, mm.
        source_shape: Of the source in canonical axes (z, y, x).
        source_affine: Its grid: (z, y, x, 1) -> LPS mm.
        organ_pixels: Per prepared slice, pixels of organ or lesion.
        lesion_pixels: Per prepared slice, pixels of lesion, or in its boxes.
        image_sha256: Of the source CT's file or files.
        labels_sha256: Of the source labels' file, or of all that a table has on the case.
        files: Prepared file -> SHA-256.
        measures: What the data set's fingerprint needs of the case.
        boxes: The annotation, where it is no label map.
        notes: What was overlooked because the user asked for it.
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


STORE, JOB, CASE = "store.json", "job.json", "case.json"
CHUNK = 4
"""Slices in a chunk: a 2.5D image touches one or two."""
_REBUILD = "run `volattn prepare` again: it rebuilds missing or damaged cases"


class StoredArray:
    """A stored array; slicing it reads from the disk.

    Args:
        shape: (Z, h, w).
        digest: SHA-256 of the file, if known. The format has no checksums of its own.

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
                f"{_REBUILD}"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> NDArray[Any]:
        """Slices along z, from their own chunks; a ValueError if the file is damaged there."""
        try:
            return self._array[key]
        except Exception as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> ValueError:
        reason = shown(str(error))[1:-1] or type(error).__name__
        if not self.path.exists():
            reason = "there is no such file"
        return ValueError(f"{self.path}: cannot be read ({reason}); {_REBUILD}")


@dataclass(frozen=True)
class SliceTable:
    """The classes in each slice of a case: (Z,) pixels of organ or lesion, and of lesion; and whether there are any."""

    organ_pixels: NDArray[np.int64]
    lesion_pixels: NDArray[np.int64]

    @property
    def has_organ(self) -> NDArray[np.bool_]:
        return self.organ_pixels > 0

    @property
    def has_lesion(self) -> NDArray[np.bool_]:
        return self.lesion_pixels > 0


class StoredCase:
    """One prepared case; its arrays are opened when they are first asked for, in whichever process that is.

    Attributes:
        shape: (Z, h, w).
        boxes: The annotation, if that is boxes on one slice.
        source: The source's grid in canonical axes.
    """

    def __init__(self, folder: Path, description: CaseDescription) -> None:
        self.folder = folder
        self.description = description
        self.name = description.name
        self.shape = description.shape
        self.boxes = description.boxes
        self.slices = SliceTable(
            np.array(description.organ_pixels, np.int64), np.array(description.lesion_pixels, np.int64)
        )
        self.source = Geometry(description.source_shape, np.array(description.source_affine))

    def __getstate__(self) -> dict[str, Any]:
        # Open arrays do not travel to data workers.
        return {key: value for key, value in self.__dict__.items() if key not in ("image", "labels")}

    @cached_property
    def image(self) -> StoredArray:
        """(Z, h, w) int16 HU."""
        return StoredArray(self.folder / IMAGE, self.shape, np.int16, self.description.files.get(IMAGE))

    @cached_property
    def labels(self) -> StoredArray:
        """The annotation, if that is a label map: (Z, h, w) uint8, 0 background, 1 organ, 2 lesion, 3, ...
        the scheme's auxiliary classes.

        Raises:
            ValueError: It is boxes.
        """
        if self.boxes is not None:
            raise ValueError(
                f"{self.folder}: is annotated by boxes on one slice and has no label map; use a data set with label "
                "maps for what needs masks"
            )
        return StoredArray(self.folder / LABELS, self.shape, np.uint8, self.description.files.get(LABELS))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(z, y, x) mm between voxels of the prepared arrays."""
        y, x = np.array(self.source.spacing[1:]) * self.source.shape[1:] / self.shape[1:]
        return self.description.step, float(y), float(x)

    @property
    def annotated_slices(self) -> Sequence[int]:
        """Those whose lesions are all annotated: every slice of a label map, or the one with boxes."""
        return range(self.shape[0]) if self.boxes is None else (self.boxes.slice,)


class Store:
    """Prepared cases; open one with `Store.open`.

    Attributes:
        classes: Names of the classes, the lesion last.
        fingerprint: SHA-256 over the plan, the scheme and the content of every source file.
        names: The cases, in the data set's order.
        patients: Case -> patient, where patients have several cases.
        subsets: Case -> subset of the data set's own split; empty where there is none.
    """

    def __init__(self, path: Path, description: StoreDescription) -> None:
        self.path = path
        self.description = description
        self.plan = description.plan
        self.scheme = description.scheme
        self.classes = description.scheme.classes
        self.fingerprint = description.fingerprint
        self.names = description.cases
        self.patients = description.patients
        self.subsets = description.subsets or {}
        self._names = frozenset(description.cases)
        self._cases: dict[str, CaseDescription] = {}

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Opens a store.

        Raises:
            ValueError: It is not a store, is incomplete, or was made by an earlier version.
        """
        path = Path(path)
        if not (path / STORE).is_file():
            if (path / JOB).is_file():
                raise ValueError(
                    f"{path}: is an unfinished store ({STORE} missing); run the same `volattn prepare` again, which "
                    "continues it"
                )
            raise ValueError(
                f"{path}: is not a finished store ({STORE} missing); make one with `volattn prepare DATASET -o {path}`"
            )
        values = read_values(path / STORE)
        if isinstance(values, dict) and "fingerprint" in values and "format" not in values:
            raise ValueError(f"{path}: was made by volattn 0.1; run `volattn prepare` again into another folder")
        return cls(path, StoreDescription.parse(values, str(path / STORE)))

    def case(self, name: str) -> StoredCase:
        """One case; its description is read once.

        Raises:
            ValueError: It is not in the store, or its folder is damaged.
        """
        folder = case_folder(self.path, name)
        if name not in self._cases:
            if name not in self._names:
                raise ValueError(f"{self.path}: has no case {name!r}; it has {', '.join(self.names[:8])}")
            try:
                description = CaseDescription.read(folder / CASE)
                if description.name != name:
                    raise ValueError(f"{folder / CASE}: is of the case {shown(description.name)}")
            except ValueError as error:
                raise ValueError(f"{error}; {_REBUILD}") from None
            self._cases[name] = description
        return StoredCase(folder, self._cases[name])


def case_folder(store: Path, name: str) -> Path:
    return store / "cases" / name


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Writes an array (Z, h, w) as `write_slices` does; the same array gives the same bytes."""
    write_slices(path, array, array.shape, array.dtype)


def write_slices(path: Path, slices: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Writes Z slices (h, w) as they come, chunked along z; no more than a chunk of them is held.

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
    # blosc2's error has neither name nor reason, and the file's own name is a temporary one.
    return OSError(f"{path.parent}: cannot be written ({error}); make space on its disk, or look at its permissions")
