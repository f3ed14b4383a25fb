"""Phantom cohorts on disk, in the layout of LiTS or DeepLesion."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.nifti1 import Nifti1Image

from volattn.datasets.phantom.make import make_phantom
from volattn.datasets.phantom.truth import truth_of
from volattn.datasets.phantom.write_deeplesion import write_key_slices, write_table
from volattn.io.atomic import atomic_path, write_json
from volattn.io.files import read_json
from volattn.io.output import claim_folder
from volattn.workers import WorkerDied, each

Kind = Literal["lits", "deeplesion"]
Progress = Callable[[str, int, int], None]
Writer = Callable[[Path, int, int, int], None]

MANIFEST = "phantoms.json"
"""Whose folder it is: kind, seed and size of its phantoms."""


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
        ValueError: An argument is out of its range, or the folder holds something else, or phantoms of another kind,
            seed or size.
    """
    if cases < 1:
        raise ValueError(f"a cohort needs at least one case, found {cases}")
    tell = progress or (lambda what, done, total: None)
    with claim_folder(folder, marker=MANIFEST, what="phantoms") as folder:
        _claim(folder, {"kind": kind, "seed": seed, "size": size})
        tell("phantom", 0, cases)
        write = partial(_WRITERS[kind], folder, seed, size)
        for done, (number, result) in enumerate(each(write, range(first, first + cases), workers), start=1):
            if isinstance(result, WorkerDied):
                raise ValueError(
                    f"{folder}: the process that made phantom {number} was killed; give fewer workers"
                )
            tell("phantom", done, cases)
        if kind == "deeplesion":
            write_table(folder)


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Notes whose folder it is, or sees that phantoms of the same make lie there already."""
    path = folder / MANIFEST
    before = read_json(path) if path.is_file() else settings
    for key, value in settings.items():
        found = before.get(key) if isinstance(before, dict) else None
        if found != value:
            raise ValueError(
                f"{folder}: holds phantoms of another {key} ({found}, now {value}); give another folder or delete it"
            )
    if not path.is_file():
        write_json(path, before)


def write_phantom(folder: Path, seed: int, size: int, index: int) -> None:
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
