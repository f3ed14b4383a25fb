"""DeepLesion folders of a few small slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from volattn.datasets.deeplesion import write_dl_info
from volattn.io.readers.png import write_slice

SHAPE = (40, 48)


def scan_hu(depth: int, shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """(depth, h, w) int16 in the order of the slices' numbers: soft tissue with air around it."""
    hu = np.random.default_rng(seed).normal(40, 30, (depth, *shape)).round().astype(np.int16)
    hu[:, :4] = -1000
    return hu


def row(
    scan: str = "000001_01_01",
    number: int = 5,
    box: Sequence[float] = (11, 9, 20, 18),
    slices: tuple[int, int] = (3, 8),
    spacing: float = 5.0,
    shape: tuple[int, int] = SHAPE,
    **others: str,
) -> dict[str, str]:
    """A row of the table, as text."""
    patient, study, series = (str(int(part)) for part in scan.split("_"))
    height, width = shape
    return {
        "File_name": f"{scan}_{number:03d}.png",
        "Patient_index": patient,
        "Study_index": study,
        "Series_ID": series,
        "Key_slice_index": str(number),
        "Bounding_boxes": ", ".join(map(str, box)),
        "Lesion_diameters_Pixel_": "10, 5",
        "Coarse_lesion_type": "-1",
        "Possibly_noisy": "0",
        "Slice_range": f"{slices[0]}, {slices[1]}",
        "Spacing_mm_px_": f"0.8, 0.8, {spacing:g}",
        "Image_size": f"{width}, {height}",
        "Train_Val_Test": "1",
        **others,
    }


def write_folder(root: Path, rows: Iterable[dict[str, str]]) -> dict[Path, np.ndarray]:
    """Writes the table, and every slice that it speaks of; returns the slices."""
    rows = list(rows)
    write_dl_info(root / "DL_info.csv", rows)
    written: dict[Path, np.ndarray] = {}
    for seed, one in enumerate(rows):
        scan = one["File_name"].rpartition("_")[0]
        first, last = (int(number) for number in one["Slice_range"].split(","))
        width, height = (int(size) for size in one["Image_size"].split(","))
        hu = scan_hu(last - first + 1, (height, width), seed)
        for plane, number in zip(hu, range(first, last + 1), strict=True):
            path = root / "Images_png" / scan / f"{number:03d}.png"
            if path not in written:
                written[path] = plane
                write_slice(path, plane)
    return written
