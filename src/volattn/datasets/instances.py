"""Lesions as numbered instances in volumes: masks, nnDetection's masks and boxes, and `predict`'s JSON."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from volattn.datasets.case import LabelScheme, label_values
from volattn.io.nifti import read_labels, volume_name
from volattn.structures.components import label_components
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

_LPS_MM = 0.05
"""How far a box in `predict`'s JSON may lie from where the reference's grid puts it: far less than a voxel."""


@dataclass(frozen=True)
class Instance:
    """One lesion or one detection.

    Attributes:
        id: Its number.
        box: Half-open (z0, y0, x0, z1, y1, x1) in voxels of the file's array (NIfTI's k, j, i).
        score: 1 where the file gives none.
        label: Its class; None where the file gives none.
    """

    id: int
    box: tuple[float, float, float, float, float, float]
    score: float = 1.0
    label: int | None = None


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances of one file.

    Attributes:
        path: The file.
        kind: How it was read, for the record.
        found: The instances, in ascending order of their numbers.
        volume: The mask, one number per instance, in file axes; None for boxes.
    """

    path: Path
    kind: str
    found: tuple[Instance, ...]
    volume: Volume | None = None


@dataclass(frozen=True)
class Classes:
    """What the values of masks of classes mean, for whoever looks for lesions.

    Attributes:
        lesions: Values of lesions.
        reason: Why that is so, for a note; empty where the user said it.
        scheme: All that values may be; None where nothing but the lesions' is known.
    """

    lesions: tuple[int, ...]
    reason: str
    scheme: LabelScheme | None = None

    @classmethod
    def of(cls, scheme: LabelScheme, reason: str) -> Classes:
        """The classes of a label scheme."""
        return cls(scheme.lesion_values, reason, scheme)


def numbers_instances(path: Path) -> bool:
    """Whether nnDetection's JSON beside a mask says that it numbers lesions."""
    sidecar = path.with_name(f"{volume_name(path)}.json")
    return sidecar.is_file() and "instances" in _read_json(sidecar)


def read_mask(path: Path | str, classes: Classes | None = None) -> Instances:
    """Reads the instances of a mask.

    With nnDetection's `NAME.json` beside it ({"instances": {"1": 0, ...}}: number -> class, and perhaps
    "scores": {"1": 0.9, ...}) and without, each value above 0 is one instance. A mask whose only value is 1 has
    no numbers to part its lesions: they are its connected components.

    Args:
        path: NIfTI.
        classes: Of a mask of classes, where the connected components of the lesions' are the instances.

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
            raise ValueError(
                f"{path}: {fault}, or name masks with a number for each lesion NAME_lesions.nii.gz"
            )
        kind = f"components of the value {' or '.join(map(str, classes.lesions))}"
        return _components(path, volume, np.isin(volume.array, classes.lesions), kind)
    if sidecar.is_file():
        content = _read_json(sidecar)
        if "instances" in content:
            return _with_classes(path, volume, sidecar, content)
    if values[-1] == 1:
        return _components(path, volume, volume.array == 1, "components of the value 1")
    return Instances(path, "one value per instance", _boxes(volume.array), volume)


def read_boxes(path: Path | str, reference: Volume, trust_grid: bool = False) -> Instances | None:
    """Reads detections as boxes: `predict`'s `NAME.json`, or what nnDetection's `nndet_boxes2nii` writes.

    Args:
        path: JSON.
        reference: Whose grid the boxes must lie on.
        trust_grid: They need not: their places in the array count.

    Returns:
        None for JSON of another kind.

    Raises:
        ValueError: It cannot be read, a score or a box is none, or it belongs to another grid.
    """
    path = Path(path)
    content = _read_json(path)
    if isinstance(content.get("lesions"), list) and isinstance(content.get("grid"), Mapping):
        _check_shape(path, content["grid"].get("shape"), reference.geometry)
        grid = None if trust_grid else reference.geometry
        found = [_predicted(path, number, entry, grid) for number, entry in _numbered(content)]
        return Instances(path, "boxes of predict", tuple(found))
    if content and all(key.isdecimal() and isinstance(entry, Mapping) for key, entry in content.items()):
        found = [_nndetection(path, int(key), entry) for key, entry in content.items()]
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
    bounds = ndimage.find_objects(table[labels])
    found = []
    for value, (z, y, x) in zip(values, bounds, strict=True):
        found.append(Instance(value, (z.start, y.start, x.start, z.stop, y.stop, x.stop)))
    return tuple(found)


def _with_classes(path: Path, volume: Volume, sidecar: Path, content: Mapping[str, Any]) -> Instances:
    classes, scores = content["instances"], content.get("scores", {})
    if not isinstance(classes, Mapping) or not isinstance(scores, Mapping):
        raise ValueError(f'{sidecar}: write "instances" (and "scores") as {{"1": value, ...}}')
    found = _boxes(volume.array)
    there, named = {str(one.id) for one in found}, {str(key) for key in classes}
    for missing in sorted(there - named):
        raise ValueError(f"{sidecar}: has no class for instance {missing} of {path.name}; add it")
    for extra in sorted(named - there):
        raise ValueError(f"{sidecar}: instance {extra} has no voxel in {path.name}; correct one of them")
    if scores and not there <= set(scores):
        missing = min(there - set(scores))
        raise ValueError(f"{sidecar}: has no score for instance {missing}; give each one, or none")
    instances = [
        Instance(
            one.id,
            one.box,
            _score(sidecar, str(one.id), scores[str(one.id)]) if scores else 1.0,
            _label(sidecar, str(one.id), classes[str(one.id)]),
        )
        for one in found
    ]
    return Instances(path, "instances with nnDetection's classes", tuple(instances), volume)


def _numbered(content: Mapping[str, Any]) -> list[tuple[int, Any]]:
    return list(enumerate(content["lesions"], start=1))


def _predicted(path: Path, number: int, entry: Any, geometry: Geometry | None) -> Instance:
    where = f"{path}: lesion {number}"
    try:
        voxels, bounds = entry["box_voxels"], entry["box_lps_mm"]
        start, stop = [float(v) for v in voxels["start"]], [float(v) for v in voxels["stop"]]
        low, high = [float(v) for v in bounds["min"]], [float(v) for v in bounds["max"]]
        score, lesion_id = entry["score"], int(entry["id"])
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{where} is not as predict writes it; predict again") from None
    box = _box(where, start, stop)
    if geometry is None:
        return Instance(lesion_id, box, _score(path, str(number), score))
    corners = np.array(list(itertools.product(*zip(start, stop, strict=True)))) - 0.5
    world = geometry.to_world(corners)
    apart = np.abs(np.concatenate([world.min(axis=0) - low, world.max(axis=0) - high])).max()
    if not apart <= _LPS_MM:
        raise ValueError(
            f"{where} lies {apart:.3g} mm from where the reference's grid puts it; "
            "score it against the reference of the same CT, or say --trust-grid if its voxels lie as the reference's do"
        )
    return Instance(lesion_id, box, _score(path, str(number), score))


def _nndetection(path: Path, number: int, entry: Mapping[str, Any]) -> Instance:
    """nnDetection's order is z0, y0, z1, y1, x0, x1, and its lower ends are one voxel further out."""
    where = f"{path}: instance {number}"
    try:
        z0, y0, z1, y1, x0, x1 = (float(value) for value in entry["box"])
        score, label = entry["score"], entry["label"]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{where} needs a score, a label and a box of six numbers") from None
    box = _box(where, [z0 + 1, y0 + 1, x0 + 1], [z1, y1, x1])
    return Instance(number, box, _score(path, str(number), score), _label(path, str(number), label))


def _box(
    where: str, start: list[float], stop: list[float]
) -> tuple[float, float, float, float, float, float]:
    if len(start) != 3 or len(stop) != 3 or not all(map(math.isfinite, (*start, *stop))):
        raise ValueError(f"{where}: a box is three finite numbers at its start and three at its stop")
    if any(low > high for low, high in zip(start, stop, strict=True)):
        raise ValueError(f"{where}: the box from {start} to {stop} is turned inside out; correct it")
    return (start[0], start[1], start[2], stop[0], stop[1], stop[2])


def _score(path: Path, number: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{path}: the score of {number} is {value!r}; give a finite number")
    return float(value)


def _label(path: Path, number: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{path}: the class of {number} is {value!r}; give a whole number from 0")
    return value


def _check_shape(path: Path, shape: Any, geometry: Geometry) -> None:
    if shape != list(geometry.shape):
        raise ValueError(
            f"{path}: was predicted on {shape} voxels where the reference has {list(geometry.shape)}; "
            "score it against the reference of the same CT"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({error}); write it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no object; write it again")
    return content
