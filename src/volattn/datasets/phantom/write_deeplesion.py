"""Phantom cohorts in the layout of DeepLesion: a file a slice, and lesions boxed on key slices."""

from __future__ import annotations

import json
from pathlib import Path

from volattn.datasets.deeplesion import IMAGES, TABLE, as_published
from volattn.datasets.dl_info import KeyLesion, Part, write_dl_info
from volattn.datasets.phantom.key_slices import AROUND_MM, MarkedLesion, mark_lesions
from volattn.datasets.phantom.make import Phantom, make_phantom
from volattn.datasets.phantom.truth import truth_of
from volattn.io.atomic import write_json
from volattn.io.names import count_of
from volattn.io.png import write_slice

_CYCLE: tuple[Part, ...] = ("train", "train", "val", "train", "test", "train", "train")
"""Parts of seven patients in turn: about the official 70, 15 and 15 %."""


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
    """A row of the table."""
    depth, height, width = phantom.image.shape
    interval, pixel_height, pixel_width = (round(value, 6) for value in phantom.spacing)
    number = depth - lesion.z
    numbers = _numbers(lesion.z, depth, phantom.spacing[0])
    part = _CYCLE[index % len(_CYCLE)]
    long, short = lesion.diameters
    x1, y1, x2, y2 = (round(value, 3) for value in as_published(lesion.box))
    row = KeyLesion(
        row=0,
        file_name=f"{scan}_{number:03d}.png",
        patient=str(index + 1),
        box=(x1, y1, x2, y2),
        part=part,
        noisy=False,
        # As in the release: nobody has typed the training part.
        lesion_type=None if part == "train" else "liver",
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
