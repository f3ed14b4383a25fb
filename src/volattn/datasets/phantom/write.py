"""Phantom cohorts on disk, in the layout of LiTS or DeepLesion."""

from __future__ import annotations

import gzip
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.nifti1 import Nifti1Image

from volattn.datasets.phantom.make import make_phantom
from volattn.datasets.phantom.truth import truth_of
from volattn.datasets.phantom.write_deeplesion import write_key_slices, write_table
from volattn.io.atomic import atomic_path, write_json

Kind = Literal["lits", "deeplesion"]
Progress = Callable[[str, int, int], None]
Writer = Callable[[Path, int, int, int], None]


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
    around a key slice, and `DL_info.csv` with the rows of all cases in the folder. Cases that are there already are
    made again only if one of their files is missing.

    Args:
        folder: Where.
        cases: How many.
        seed: At least 0.
        size: Rows and columns of a slice.
        first: Number of the first case.
        kind: Whose layout.
        workers: Processes; 0 or 1 works in this one.
        progress: Called with ("phantom", done, cases).

    Raises:
        ValueError: An argument is out of its range.
    """
    if cases < 1:
        raise ValueError(f"a cohort needs at least one case, found {cases}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tell = progress or (lambda what, done, total: None)
    tell("phantom", 0, cases)
    for done in _write_each(_WRITERS[kind], folder, seed, range(first, first + cases), size, workers):
        tell("phantom", done, cases)
    if kind == "deeplesion":
        write_table(folder)


def _write_each(
    write: Writer, folder: Path, seed: int, numbers: range, size: int, workers: int
) -> Iterator[int]:
    """Writes all cases and counts them."""
    if workers <= 1:
        for done, index in enumerate(numbers, start=1):
            write(folder, seed, index, size)
            yield done
        return
    with ProcessPoolExecutor(min(workers, len(numbers)), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(write, folder, seed, index, size) for index in numbers]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                yield done
        except BaseException:
            # Without this the pool would first make all that is still to come, Ctrl-C or not.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def write_phantom(folder: Path, seed: int, index: int, size: int) -> None:
    """Writes one case; `truth-N.json` last, so that it says that the others are whole."""
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
