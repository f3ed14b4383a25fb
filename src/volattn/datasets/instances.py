"""Lesions as numbered instances in volumes: masks, nnDetection's masks and boxes, and `predict`'s JSON."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field
from scipy import ndimage

from volattn.config import Config
from volattn.datasets.case import LabelScheme, label_values
from volattn.io.files import read_json
from volattn.io.names import shown
from volattn.io.readers import read_labels, volume_name
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import label_components
from volattn.structures.volume import Volume

_LPS_MM = 0.05
"""How far a box in `predict`'s JSON may lie from where the reference's grid puts it: far less than a voxel."""


_Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
_Corner = Annotated[list[_Coordinate], Field(min_length=3, max_length=3)]
_Class = Annotated[int, Field(ge=0, le=10**6)]


class _Part(Config):
    """A part of a file of another program, whose other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Classes(_Part):
    """nnDetection's `NAME.json` beside a mask: number of an instance -> class and score."""

    instances: dict[str, _Class]
    scores: dict[str, float] = {}


class _Boxed(_Part):
    """An entry of what `nndet_boxes2nii` writes: z0, y0, z1, y1, x0, x1, the lower ends one voxel further out."""

    box: list[_Coordinate] = Field(min_length=6, max_length=6)
    score: float
    label: _Class


class _Predicted(_Part):
    """What `predict` writes."""

    class Lesion(_Part):
        class Voxels(_Part):
            start: _Corner
            stop: _Corner

        class Millimetres(_Part):
            min: _Corner
            max: _Corner

        id: int = Field(ge=0, le=10**9)
        score: float
        box_voxels: Voxels
        box_lps_mm: Millimetres

    class Grid(_Part):
        shape: list[int]

    grid: Grid
    lesions: list[Lesion]


@dataclass(frozen=True)
class Instance:
    """One lesion or one detection: its half-open box (z0, y0, x0, z1, y1, x1) in voxels of the file's array."""

    id: int
    box: tuple[float, float, float, float, float, float]
    score: float = 1.0
    label: int | None = None


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances of one file, in ascending order of their numbers.

    Attributes:
        kind: How the file was read, for the record.
        volume: The mask, one number per instance, in file axes; None for boxes.
    """

    path: Path
    kind: str
    found: tuple[Instance, ...]
    volume: Volume | None = None


@dataclass(frozen=True)
class Classes:
    """Which values of masks of classes are lesions.

    Attributes:
        reason: Where that is from, for a note; empty where the user gave it.
        scheme: All that values may be; None where only the lesions' are known.
    """

    lesions: tuple[int, ...]
    reason: str
    scheme: LabelScheme | None = None

    @classmethod
    def of(cls, scheme: LabelScheme, reason: str) -> Classes:
        return cls(scheme.lesion_values, reason, scheme)


def numbers_instances(path: Path) -> bool:
    """Whether a mask numbers lesions by nnDetection's JSON beside it."""
    sidecar = path.with_name(f"{volume_name(path)}.json")
    return sidecar.is_file() and "instances" in _read_mapping(sidecar)


def read_mask(path: Path | str, classes: Classes | None = None) -> Instances:
    """Reads the instances of a mask.

    With nnDetection's `NAME.json` beside it ({"instances": {"1": 0, ...}}: number -> class, and perhaps
    "scores": {"1": 0.9, ...}) and without, each value above 0 is one instance. A mask whose only value is 1 has
    no numbers for its lesions: they are its connected components.

    Args:
        classes: Of a mask of classes; the instances are the connected components of its lesions.

    Raises:
        ValueError: The mask cannot be read, holds fractional or negative labels, or disagrees with the JSON.
    """
    path = Path(path)
    volume = read_labels(path)
    values = label_values(volume.array)
    if values[0] < 0:
        raise ValueError(f"{path}: has the label {values[0]}; instances are numbered from 1, 0 is background")
    sidecar = path.with_name(f"{volume_name(path)}.json")
    if classes is not None:
        fault = None if classes.scheme is None else classes.scheme.fault(values)
        if fault is not None:
            raise ValueError(f"{path}: {fault}, or name masks with a number for each lesion NAME_lesions.nii.gz")
        kind = f"components of the value {' or '.join(map(str, classes.lesions))}"
        return _components(path, volume, np.isin(volume.array, classes.lesions), kind)
    if sidecar.is_file():
        content = _read_mapping(sidecar)
        if "instances" in content:
            return _with_classes(path, volume, sidecar, _Classes.parse(content, str(sidecar)))
    if values[-1] == 1:
        return _components(path, volume, volume.array == 1, "components of the value 1")
    return Instances(path, "one value per instance", _boxes(volume.array), volume)


def read_boxes(path: Path | str, reference: Volume, trust_grid: bool = False) -> Instances | None:
    """Reads detections as boxes: `predict`'s `NAME.json`, or what nnDetection's `nndet_boxes2nii` writes.

    Args:
        reference: Whose grid the boxes must lie on.
        trust_grid: They need not: their places in the array count.

    Returns:
        None for JSON of another kind.

    Raises:
        ValueError: It cannot be read, a score or a box is none, or it belongs to another grid.
    """
    path = Path(path)
    content = _read_mapping(path)
    if isinstance(content.get("lesions"), list) and isinstance(content.get("grid"), Mapping):
        try:
            predicted = _Predicted.parse(content, str(path))
        except ValueError as error:
            raise ValueError(f"{error}; predict again") from None
        if predicted.grid.shape != list(reference.geometry.shape):
            raise ValueError(
                f"{path}: was predicted on {shown(predicted.grid.shape)} voxels where the reference has "
                f"{list(reference.geometry.shape)}; score it against the reference of the same CT"
            )
        grid = None if trust_grid else reference.geometry
        found = [
            _located(f"{path}: lesion {number}", one, grid) for number, one in enumerate(predicted.lesions, start=1)
        ]
        return Instances(path, "boxes of predict", tuple(found))
    if content and all(key.isdecimal() and isinstance(entry, Mapping) for key, entry in content.items()):
        found = []
        for key, entry in content.items():
            where = f"{path}: instance {shown(key)}"
            boxed = _Boxed.parse(entry, where)
            z0, y0, z1, y1, x0, x1 = boxed.box
            box = _box(where, [z0 + 1, y0 + 1, x0 + 1], [z1, y1, x1])
            found.append(Instance(int(key[:9]), box, boxed.score, boxed.label))
        return Instances(path, "boxes of nnDetection", tuple(sorted(found, key=lambda one: one.id)))
    return None


def _components(path: Path, volume: Volume, mask: np.ndarray, kind: str) -> Instances:
    labels, _ = label_components(mask)
    numbered = Volume(labels, volume.geometry, volume.name, volume.header)
    return Instances(path, kind, _boxes(labels), numbered)


def _boxes(labels: np.ndarray) -> tuple[Instance, ...]:
    values = [value for value in label_values(labels) if value]
    if not values:
        return ()
    # find_objects makes a list as long as the highest number: numbers with gaps are closed up first.
    table = np.zeros(values[-1] + 1, np.int32)
    table[values] = np.arange(1, len(values) + 1)
    bounds = zip(values, ndimage.find_objects(table[labels]), strict=True)
    return tuple(Instance(value, (z.start, y.start, x.start, z.stop, y.stop, x.stop)) for value, (z, y, x) in bounds)


def _with_classes(path: Path, volume: Volume, sidecar: Path, content: _Classes) -> Instances:
    found = _boxes(volume.array)
    there, named = {str(one.id) for one in found}, content.instances.keys()
    for missing in sorted(there - named):
        raise ValueError(f"{sidecar}: has no class for instance {missing} of {path.name}; add it")
    for extra in sorted(named - there):
        raise ValueError(f"{sidecar}: instance {shown(extra)} has no voxel in {path.name}; correct one of them")
    if content.scores and not there <= content.scores.keys():
        missing = min(there - content.scores.keys())
        raise ValueError(f"{sidecar}: has no score for instance {missing}; give each one, or none")
    instances = [
        Instance(one.id, one.box, content.scores.get(str(one.id), 1.0), content.instances[str(one.id)]) for one in found
    ]
    return Instances(path, "instances with nnDetection's classes", tuple(instances), volume)


def _located(where: str, found: _Predicted.Lesion, geometry: Geometry | None) -> Instance:
    """A lesion in a file of `predict`; where there is a grid, its voxels and its millimetres must agree."""
    start, stop = found.box_voxels.start, found.box_voxels.stop
    box = _box(where, start, stop)
    if geometry is None:
        return Instance(found.id, box, found.score)
    corners = np.array(list(itertools.product(*zip(start, stop, strict=True)))) - 0.5
    world = geometry.to_world(corners)
    low, high = found.box_lps_mm.min, found.box_lps_mm.max
    apart = np.abs(np.concatenate([world.min(axis=0) - low, world.max(axis=0) - high])).max()
    if not apart <= _LPS_MM:
        raise ValueError(
            f"{where} lies {apart:.3g} mm from where the reference's grid puts it; "
            "score it against the reference of the same CT, or say --trust-grid if its voxels lie as the reference's do"
        )
    return Instance(found.id, box, found.score)


def _box(where: str, start: list[float], stop: list[float]) -> tuple[float, float, float, float, float, float]:
    if any(low > high for low, high in zip(start, stop, strict=True)):
        raise ValueError(f"{where}: the box from {start} to {stop} has its corners reversed; correct it")
    return (start[0], start[1], start[2], stop[0], stop[1], stop[2])


def _read_mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {shown(content)} where an object is expected; write it again")
    return content
