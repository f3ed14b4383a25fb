"""Small DeepLesions: key slices with boxes, in memory and as files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from volattn.datasets.deeplesion import KeyDetection, KeyLesion, write_detections
from volattn.scoring.deeplesion import score_image
from volattn.scoring.pool import ScoredImage

Box = tuple[float, float, float, float]
Slices = dict[str, tuple[list[Box], list[tuple[Box, float]]]]
"""Key slice -> boxes of its lesions, and detections with scores."""

HEADER = (
    "File_name",
    "Patient_index",
    "Key_slice_index",
    "Bounding_boxes",
    "Lesion_diameters_Pixel_",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Slice_range",
    "Spacing_mm_px_",
    "Train_Val_Test",
)


def patient_of(name: str) -> str:
    return str(int(name.split("_")[0]))


def random_slices(seed: int, *, count: int = 6, decimals: int | None = None) -> Slices:
    """Lesions, detections near them and elsewhere, some twice; scores rounded to `decimals`."""
    generator = np.random.default_rng(seed)
    slices: Slices = {}
    for number in range(count):
        lesions = [random_box(generator) for _ in range(generator.integers(1, 4))]
        detections = []
        for _ in range(generator.integers(0, 8)):
            near = generator.random() < 0.6
            box = moved(lesions[generator.integers(len(lesions))], generator) if near else random_box(generator)
            score = float(generator.random())
            detections.append((box, score if decimals is None else round(score, decimals)))
        slices[f"{number // 2 + 1:06d}_01_01_{number:03d}.png"] = (lesions, detections)
    return slices


def random_box(generator: np.random.Generator) -> Box:
    x, y = generator.integers(0, 60, 2).tolist()
    width, height = generator.integers(5, 30, 2).tolist()
    return (x, y, x + width, y + height)


def moved(box: Box, generator: np.random.Generator) -> Box:
    x, y = generator.integers(-4, 5, 2).tolist()
    return (box[0] + x, box[1] + y, box[2] + x, box[3] + y)


def scored(slices: Slices) -> list[ScoredImage]:
    """The key slices, matched."""
    return [
        score_image(
            name, [lesion(name, box) for box in lesions], [KeyDetection(box, score) for box, score in detections]
        )
        for name, (lesions, detections) in slices.items()
    ]


def lesion(name: str, box: Box) -> KeyLesion:
    return KeyLesion(0, name, patient_of(name), box, "test", False, "lung", (12.0, 8.0), 5.0, 1, (0, 9))


def write_info(path: Path, slices: Slices, *, noisy: Iterable[str] = (), part: int = 3) -> Path:
    rows = [
        info_row(name, box, noisy=name in set(noisy), part=part)
        for name, (lesions, _) in slices.items()
        for box in lesions
    ]
    return write_rows(path, HEADER, rows)


def info_row(name: str, box: Sequence[float], *, noisy: bool = False, part: int = 3, kind: int = 5) -> list[str]:
    return [
        name,
        patient_of(name),
        "1",
        ", ".join(map(str, box)),
        "20, 10",
        str(kind),
        str(int(noisy)),
        "0, 9",
        "0.8, 0.8, 5",
        str(part),
    ]


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_found(path: Path, slices: Slices) -> Path:
    write_detections(
        path,
        [(name, KeyDetection(box, score)) for name, (_, detections) in slices.items() for box, score in detections],
    )
    return path
