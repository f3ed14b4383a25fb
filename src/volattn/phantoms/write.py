"""Phantom cohorts on disk: LiTS's layout, or DeepLesion's with a file a slice and lesions boxed on key slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from volattn.datasets.case import LESION
from volattn.datasets.deeplesion import IMAGES, TABLE, KeyLesion, Subset, as_published, write_dl_info
from volattn.io.files import read_json, sha256, write_json
from volattn.io.names import count_of
from volattn.io.output import claim_folder
from volattn.io.readers import write_volume
from volattn.io.readers.png import write_slice
from volattn.phantoms.make import Phantom, make_phantom, truth_of
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import label_components, measure_lesions
from volattn.structures.volume import Volume
from volattn.workers import Progress, map_items

MOST = 3
"""Key slices of a phantom."""
AROUND_MM = 30.0
"""What is kept of the CT on either side of a key slice."""

_MARGIN = 5  # of 512 pixels: DeepLesion's boxes are that much wider than the marked diameters
_LEAST_PIXELS = 3  # nobody marks less


@dataclass(frozen=True)
class MarkedLesion:
    """A lesion on a key slice.

    Attributes:
        ends: (4, 2) pixels (x, y), centres at whole numbers: both ends of the long diameter and of the short one.
        box: (x0, y0, x1, y1) half-open pixels: around the ends, with a margin; it may reach over the image's edge.
        diameters: Long and short, pixels.
    """

    z: int
    ends: NDArray[np.float64]
    box: tuple[float, float, float, float]
    diameters: tuple[float, float]


def mark_lesions(phantom: Phantom) -> list[MarkedLesion]:
    """Chooses key slices, the largest lesions' first, and marks every lesion that they show.

    No two key slices are through one lesion.
    """
    components, _ = label_components(phantom.labels == LESION)
    geometry = Geometry.aligned(components.shape, phantom.spacing)
    shown: set[int] = set()
    keys: list[int] = []
    for lesion in sorted(measure_lesions(components, geometry), key=lambda found: -found.long_axis_mm):
        if lesion.id not in shown and lesion.voxels >= _LEAST_PIXELS and len(keys) < MOST:
            shown |= set(np.unique(components[lesion.key_slice]).tolist())
            keys.append(lesion.key_slice)
    return [lesion for z in sorted(keys, reverse=True) for lesion in _marked(components[z], z)]


def _marked(components: NDArray[np.uint32], z: int) -> Iterator[MarkedLesion]:
    for number in np.unique(components[components > 0]):
        rows, columns = np.nonzero(components == number)
        if len(rows) < _LEAST_PIXELS:
            continue
        points = np.stack([columns, rows], axis=1).astype(np.float64)
        ends, diameters = _diameters(points)
        margin = _MARGIN * components.shape[1] / 512
        (x0, y0), (x1, y1) = ends.min(axis=0) - margin, ends.max(axis=0) + 1 + margin
        yield MarkedLesion(z, ends, (float(x0), float(y0), float(x1), float(y1)), diameters)


def _diameters(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Ends of the longest distance between points (n, 2), and of the widest extent across it; their lengths."""
    # Of a row only its outermost pixels can be an end; `np.nonzero` gave them row by row, columns in order.
    new = np.flatnonzero(np.diff(points[:, 1])) + 1
    outer = points[np.unique([0, *new.tolist(), *(new - 1).tolist(), len(points) - 1])]
    apart = squareform(pdist(outer))
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    long = float(apart[first, second])
    along = (outer[second] - outer[first]) / long
    across = outer @ np.array([-along[1], along[0]])
    low, high = int(across.argmin()), int(across.argmax())
    return outer[[first, second, low, high]], (long, float(across[high] - across[low]))


_CYCLE: tuple[Subset, ...] = ("train", "train", "val", "train", "test", "train", "train")
"""Subsets of seven patients in turn: about the official 70, 15 and 15 %."""


def _write_key_slices(folder: Path, phantom: Phantom, index: int) -> dict[str, Any]:
    """The slices around the key slices of a phantom; what `truth-N.json` has of them, with its rows of the table."""
    marked = mark_lesions(phantom)
    scan = f"{index + 1:06d}_01_01"
    depth = len(phantom.image)
    slices = sorted({number for lesion in marked for number in _numbers(lesion.z, depth, phantom.spacing[0])})
    names = [f"{IMAGES}/{scan}/{number:03d}.png" for number in slices]
    for name, number in zip(names, slices, strict=True):
        write_slice(folder / name, phantom.image[depth - number])
    rows = [_row(phantom, lesion, scan, index) for lesion in marked]
    return {"scan": scan, "slices": slices, "rows": rows, "files": names}


def write_table(folder: Path) -> None:
    """Writes the table of all phantoms that lie in a folder.

    Raises:
        ValueError: None of them has a lesion.
    """
    truths = sorted(folder.glob("truth-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    rows = [row for path in truths for row in read_json(path)["rows"]]
    if not rows:
        raise ValueError(f"{folder}: no lesion in {count_of(len(truths), 'phantom')}; make more of them")
    write_dl_info(folder / TABLE, rows)


def _numbers(z: int, depth: int, spacing: float) -> range:
    """The slices that are kept around a key slice, numbered from the head, from 1."""
    around = int(AROUND_MM / spacing)
    return range(max(1, depth - z - around), min(depth, depth - z + around) + 1)


def _row(phantom: Phantom, lesion: MarkedLesion, scan: str, index: int) -> dict[str, str]:
    depth, height, width = phantom.image.shape
    interval, pixel_height, pixel_width = (round(value, 6) for value in phantom.spacing)
    number = depth - lesion.z
    numbers = _numbers(lesion.z, depth, phantom.spacing[0])
    subset = _CYCLE[index % len(_CYCLE)]
    long, short = lesion.diameters
    x1, y1, x2, y2 = (round(value, 3) for value in as_published(lesion.box))
    row = KeyLesion(
        row=0,
        file_name=f"{scan}_{number:03d}.png",
        patient=str(index + 1),
        box=(x1, y1, x2, y2),
        subset=subset,
        noisy=False,
        # As in the release: the training subset has no types.
        lesion_type=None if subset == "train" else "liver",
        diameters_mm=(long * pixel_width, short * pixel_width),
        slice_interval_mm=interval,
        key_slice=number,
        slice_range=(numbers[0], numbers[-1]),
        pixel_mm=(pixel_width, pixel_height),
        image_size=(width, height),
    ).cells()
    x, y = lesion.ends.mean(axis=0) / (width, height)
    return row | {
        "Measurement_coordinates": ", ".join(f"{value:g}" for value in (lesion.ends + 1).ravel()),
        "Normalized_lesion_location": f"{x:.6g}, {y:.6g}, {number / depth:.6g}",
        "DICOM_windows": "-175, 275",
        "Patient_gender": "F" if index % 2 else "M",
        "Patient_age": "60",
    }


Kind = Literal["lits", "deeplesion"]

MANIFEST = "phantoms.json"
"""Kind, seed and size of a folder's phantoms."""


FORMAT = 2
"""Counts what a seed gives: phantoms of two formats must not be mixed in a folder."""


def write_phantoms(
    folder: Path | str,
    cases: int,
    seed: int,
    *,
    size: int = 512,
    first: int = 0,
    kind: Kind = "lits",
    workers: int = 0,
    progress: Progress | None = None,
    resume: bool = True,
) -> None:
    """Writes the files of every case, and `truth-N.json`; same seed, same bytes.

    In the layout of LiTS these are `volume-N.nii.gz` and `segmentation-N.nii.gz`; in DeepLesion's, a PNG for each slice
    around a key slice, and `DL_info.csv` with the rows of all cases in the folder. Cases whose files are all there and
    whole are kept.

    Args:
        size: Rows and columns of a slice.
        first: Number of the first case.
        workers: Processes; 0 or 1 works in this one.
        progress: Called with ("phantom", done, cases).
        resume: Whether a folder with phantoms may be continued.

    Raises:
        ValueError: An argument is out of its range, or the folder holds something else, or phantoms of another kind,
            seed or size.
    """
    if cases < 1:
        raise ValueError(f"a cohort needs at least one case, found {cases}")
    report = progress or (lambda what, done, total: None)
    settings = {"kind": kind, "seed": seed, "size": size, "format": FORMAT}
    with claim_folder(folder, marker=MANIFEST, what="phantom cohort", settings=settings, resume=resume) as folder:
        report("phantom", 0, cases)
        write = partial(write_phantom, folder, seed, size, kind=kind)
        for done, (_, result) in enumerate(
            map_items(write, range(first, first + cases), workers, name=lambda number: f"{folder}: phantom {number}"),
            start=1,
        ):
            if isinstance(result, Exception):
                raise result
            report("phantom", done, cases)
        if kind == "deeplesion":
            write_table(folder)


def write_phantom(folder: Path, seed: int, size: int, index: int, kind: Kind = "lits") -> None:
    """Writes one case unless it is there whole; `truth-N.json` last, with the digests of the other files."""
    truth = folder / f"truth-{index}.json"
    if _is_whole(truth):
        return
    phantom = make_phantom(seed, index, size)
    written = _WRITERS[kind](folder, phantom, index)
    written["files"] = {name: sha256(folder / name) for name in written["files"]}
    write_json(truth, truth_of(phantom, seed, index, size) | written)


def _is_whole(truth: Path) -> bool:
    try:
        files = read_json(truth)["files"]
        return all(sha256(truth.parent / name) == digest for name, digest in files.items())
    except (ValueError, KeyError, TypeError, AttributeError):  # Missing or damaged.
        return False


def _write_label_maps(folder: Path, phantom: Phantom, index: int) -> dict[str, Any]:
    """The CT and its label map."""
    names = [f"volume-{index}.nii.gz", f"segmentation-{index}.nii.gz"]
    geometry = Geometry.aligned(phantom.labels.shape, phantom.spacing)
    write_volume(folder / names[0], Volume(phantom.image, geometry))
    write_volume(folder / names[1], Volume(phantom.labels, geometry))
    return {"files": names}


_WRITERS: dict[Kind, Callable[[Path, Phantom, int], dict[str, Any]]] = {
    "lits": _write_label_maps,
    "deeplesion": _write_key_slices,
}
"""What each writes of a phantom, and its entries in `truth-N.json`: the names of its files among them."""
