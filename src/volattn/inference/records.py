"""The measurements of each lesion, in the terms of the file it was found in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.inference.link import Chain
from volattn.inference.stitch import Best
from volattn.inference.stream import SliceReader, mean_weights
from volattn.slabs.images import bag_centres
from volattn.structures.geometry import Geometry, Turn
from volattn.structures.lesions import Lesion, measure_lesions

AXES = "kji"
"""Names of the file's array axes (z, y, x); NIfTI's own order is i, j, k."""

VoxelBox = tuple[int, int, int, int, int, int]
"""Half-open bounds (z0, y0, x0, z1, y1, x1) in voxels."""


@dataclass(frozen=True)
class BagWeights:
    """The attention weights of a detection over the slices of its bag.

    Attributes:
        model_slices: Centres of the bag, slices of the prepared volume; an end slice may be there several times.
        file_slices: The nearest slices of the file, along its slice axis.
        offsets_mm: From the target's centre, positive towards the head.
        channel: Weights of channel attention, the mean over the levels; None without it.
        spatial: The same for spatial attention.
    """

    model_slices: tuple[int, ...]
    file_slices: tuple[int, ...]
    offsets_mm: tuple[float, ...]
    channel: tuple[float, ...] | None
    spatial: tuple[float, ...] | None

    def as_json(self) -> dict[str, Any]:
        return {
            "model_slices": list(self.model_slices),
            "file_slices": list(self.file_slices),
            "offsets_mm": _rounded(self.offsets_mm, 4),
            "channel": _rounded(self.channel, 6),
            "spatial": _rounded(self.spatial, 6),
        }


def _rounded(values: Sequence[float] | None, digits: int) -> list[float] | None:
    return None if values is None else [round(value, digits) for value in values]


@dataclass(frozen=True)
class LesionRecord:
    """One lesion.

    Attributes:
        id: Its number in the lesion map.
        score: The highest of its slices' scores.
        box: Half-open bounds (k0, j0, i0, k1, j1, i1) in voxels of the file's array (z, y, x).
        box_lps: Bounds (x0, y0, z0, x1, y1, z1) in LPS mm, voxel edges included.
        volume_ml: None of a detector of boxes, as are the axes.
        long_axis_mm: Largest axial extent.
        short_axis_mm: The extent perpendicular to it, in the same slice.
        key_slice: The slice with the long axis, counted from the feet; of boxes that of the highest score.
        file_axis: The file's slice axis: "k", "j" or "i".
        file_slice: The key slice along it.
        model_slice: The slice of the prepared volume whose detection has the highest score.
        bag: The attention weights of that detection; None without attention.
    """

    id: int
    score: float
    box: VoxelBox
    box_lps: tuple[float, float, float, float, float, float]
    volume_ml: float | None
    long_axis_mm: float | None
    short_axis_mm: float | None
    key_slice: int
    file_axis: str
    file_slice: int
    model_slice: int
    bag: BagWeights | None

    def as_json(self) -> dict[str, Any]:
        """Plain values; sizes that are not known are left out."""
        digits = {"volume_ml": 6, "long_axis_mm": 4, "short_axis_mm": 4}
        sizes = {key: round(size, n) for key, n in digits.items() if (size := getattr(self, key)) is not None}
        return {
            "id": self.id,
            "score": round(self.score, 6),
            "box_voxels": {"axes": AXES, "start": list(self.box[:3]), "stop": list(self.box[3:])},
            "box_lps_mm": {"min": _rounded(self.box_lps[:3], 4), "max": _rounded(self.box_lps[3:], 4)},
            **sizes,
            "key_slice": {"file": {"axis": self.file_axis, "index": self.file_slice}, "from_feet": self.key_slice},
            "best_detection": {"model_slice": self.model_slice, "bag": self.bag and self.bag.as_json()},
        }


def describe_lesions(
    lesion_map: NDArray[np.unsignedinteger], best: Sequence[Best], reader: SliceReader, bag: int
) -> tuple[LesionRecord, ...]:
    """Describes every lesion of a map.

    Args:
        lesion_map: (Z, H, W) numbers from 1, canonical axes.
        best: The detection with the highest score of each lesion, in the order of their numbers.
        bag: N of the model; 1 without attention.
    """
    measured = measure_lesions(lesion_map, reader.canonical)
    return tuple(
        _describe(lesion.id, lesion.box, lesion.key_slice, one, reader, bag, lesion)
        for lesion, one in zip(measured, best, strict=True)
    )


def describe_chains(chains: Sequence[Chain], reader: SliceReader, bag: int) -> tuple[LesionRecord, ...]:
    """Describes linked boxes, numbered from 1 in their order; see `describe_lesions`."""
    return tuple(
        _describe(number, chain_box(chain, reader), reader.resampled.nearest(chain.best.z), chain.best, reader, bag)
        for number, chain in enumerate(chains, start=1)
    )


def chain_box(chain: Chain, reader: SliceReader) -> VoxelBox:
    """The canonical voxels that a chain's boxes take up together."""
    boxes = np.rint(reader.pixels(chain.boxes)).astype(int)
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    height, width = reader.canonical.shape[1:]
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    z0, z1 = reader.covered(int(chain.z[0]), int(chain.z[-1]))
    return z0, y0, x0, z1, max(y1, y0 + 1), max(x1, x0 + 1)


def _describe(
    number: int, box: VoxelBox, key_slice: int, best: Best, reader: SliceReader, bag: int, lesion: Lesion | None = None
) -> LesionRecord:
    turn, geometry = reader.turn, reader.canonical
    sizes = (lesion.volume_ml, lesion.long_axis_mm, lesion.short_axis_mm) if lesion else (None, None, None)
    return LesionRecord(
        id=number,
        score=best.score,
        box=file_box(box, turn, geometry),
        box_lps=lps_box(box, geometry),
        volume_ml=sizes[0],
        long_axis_mm=sizes[1],
        short_axis_mm=sizes[2],
        key_slice=key_slice,
        file_axis=AXES[turn.axes[0]],
        file_slice=_file_slice(key_slice, reader),
        model_slice=best.z,
        bag=_bag_weights(best, reader, bag),
    )


def _bag_weights(best: Best, reader: SliceReader, bag: int) -> BagWeights | None:
    weights = mean_weights(best.weights)
    if not weights:
        return None
    centres = bag_centres(best.z, reader.depth, bag).tolist()
    rows = {kind: tuple(row.tolist()) for kind, row in weights.items()}
    return BagWeights(
        model_slices=tuple(centres),
        file_slices=tuple(_file_slice(reader.resampled.nearest(centre), reader) for centre in centres),
        offsets_mm=tuple((centre - best.z) * reader.resampled.step for centre in centres),
        channel=rows.get("channel"),
        spatial=rows.get("spatial"),
    )


def file_box(box: VoxelBox, turn: Turn, canonical: Geometry) -> VoxelBox:
    """A box in canonical voxels as one in voxels of the file's array."""
    start, stop = [0] * 3, [0] * 3
    for axis, (place, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        low, high, size = box[axis], box[axis + 3], canonical.shape[axis]
        start[place], stop[place] = (size - high, size - low) if flip else (low, high)
    return (start[0], start[1], start[2], stop[0], stop[1], stop[2])


def lps_box(box: VoxelBox, geometry: Geometry) -> tuple[float, float, float, float, float, float]:
    """The bounds of a box of voxels in LPS mm: of its eight corners, on oblique grids too."""
    corners = np.array(list(itertools.product(*((box[axis], box[axis + 3]) for axis in range(3))))) - 0.5
    world = geometry.to_world(corners)
    x0, y0, z0, x1, y1, z1 = (float(bound) for bound in (*world.min(axis=0), *world.max(axis=0)))
    return (x0, y0, z0, x1, y1, z1)


def _file_slice(z: int, reader: SliceReader) -> int:
    return reader.canonical.shape[0] - 1 - z if reader.turn.flips[0] else z
