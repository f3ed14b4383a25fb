"""Phantom cohorts on disk: LiTS's layout, or DeepLesion's with a file a slice and lesions boxed on key slices."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from volattn.datasets.case import LESION
from volattn.datasets.deeplesion import IMAGES, TABLE, KeyLesion, Subset, as_published, write_dl_info
from volattn.io.files import atomic_path, write_json
from volattn.io.names import count_of
from volattn.io.output import claim_folder
from volattn.io.readers.png import write_slice
from volattn.phantoms.make import Phantom, make_phantom, truth_of
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import label_components, measure_lesions
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


def write_key_slices(folder: Path, seed: int, size: int, index: int) -> None:
    """Writes the slices around the key slices of one phantom; `truth-N.json`, with its rows of the table, last."""
    truth = folder / f"truth-{index}.json"
    if truth.is_file() and all(path.is_file() for path in _files(folder, truth)):
        return
    phantom = make_phantom(seed, index, size)
    marked = mark_lesions(phantom)
    scan = f"{index + 1:06d}_01_01"
    depth = len(phantom.image)
    rows = [_row(phantom, lesion, scan, index) for lesion in marked]
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    slices = sorted({number for lesion in marked for number in _numbers(lesion.z, depth, phantom.spacing[0])})
    for number in slices:
        write_slice(folder / IMAGES / scan / f"{number:03d}.png", phantom.image[depth - number])
    write_json(truth, {**truth_of(phantom, seed, index, size), "scan": scan, "slices": slices, "rows": rows})


def write_table(folder: Path) -> None:
    """Writes the table of all phantoms that lie in a folder.

    Raises:
        ValueError: None of them has a lesion.
    """
    truths = sorted(folder.glob("truth-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    rows = [row for path in truths for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    if not rows:
        raise ValueError(f"{folder}: no lesion in {count_of(len(truths), 'phantom')}; make more of them")
    write_dl_info(folder / TABLE, rows)


def _files(folder: Path, truth: Path) -> list[Path]:
    written = json.loads(truth.read_text(encoding="utf-8"))
    return [folder / IMAGES / written["scan"] / f"{number:03d}.png" for number in written["slices"]]


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
Writer = Callable[[Path, int, int, int], None]

MANIFEST = "phantoms.json"
"""Kind, seed and size of a folder's phantoms."""


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
) -> None:
    """Writes the files of every case, and `truth-N.json`; same seed, same bytes.

    In the layout of LiTS these are `volume-N.nii.gz` and `segmentation-N.nii.gz`; in DeepLesion's, a PNG for each slice
    around a key slice, and `DL_info.csv` with the rows of all cases in the folder. Cases whose files are all there are
    kept.

    Args:
        size: Rows and columns of a slice.
        first: Number of the first case.
        workers: Processes; 0 or 1 works in this one.
        progress: Called with ("phantom", done, cases).

    Raises:
        ValueError: An argument is out of its range, or the folder holds something else, or phantoms of another kind,
            seed or size.
    """
    if cases < 1:
        raise ValueError(f"a cohort needs at least one case, found {cases}")
    report = progress or (lambda what, done, total: None)
    settings = {"kind": kind, "seed": seed, "size": size}
    with claim_folder(folder, marker=MANIFEST, what="phantom cohort", settings=settings) as folder:
        report("phantom", 0, cases)
        write = partial(_WRITERS[kind], folder, seed, size)
        for done, (_, result) in enumerate(
            map_items(write, range(first, first + cases), workers, name=lambda number: f"{folder}: phantom {number}"),
            start=1,
        ):
            if isinstance(result, Exception):
                raise result
            report("phantom", done, cases)
        if kind == "deeplesion":
            write_table(folder)


def write_phantom(folder: Path, seed: int, size: int, index: int) -> None:
    """Writes one case; `truth-N.json` last: with it the others are complete."""
    images = (folder / f"volume-{index}.nii.gz", folder / f"segmentation-{index}.nii.gz")
    truth = folder / f"truth-{index}.json"
    if truth.is_file() and all(path.is_file() for path in images):
        return
    phantom = make_phantom(seed, index, size)
    _write_nifti(images[0], phantom.image, phantom.spacing)
    _write_nifti(images[1], phantom.labels, phantom.spacing)
    write_json(truth, truth_of(phantom, seed, index, size))


_WRITERS: dict[Kind, Writer] = {"lits": write_phantom, "deeplesion": write_key_slices}


def _write_nifti(path: Path, array: np.ndarray, spacing: tuple[float, float, float]) -> None:
    """A NIfTI file in R-A-S world axes whose bytes depend on its content only."""
    z, y, x = spacing
    image = Nifti1Image(array.transpose(2, 1, 0), np.diag([-x, -y, z, 1.0]))
    image.header.set_xyzt_units("mm")
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        # The name and time that gzip would note differ from run to run.
        gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=3, mtime=0) as packed,
    ):
        packed.write(image.to_bytes())
