"""A store in memory, with what slabs read of the one on disk, and its counterpart there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LabelScheme
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.store import (
    CASE,
    IMAGE,
    LABELS,
    STORE,
    CaseDescription,
    Store,
    StoreDescription,
    case_folder,
    write_array,
)

WINDOW = (-200.0, 300.0)


class Sliced:
    """An array that writes down which slices were read of it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.read: list[int] = []

    def __getitem__(self, key: int | slice) -> NDArray[Any]:
        self.read += np.atleast_1d(np.arange(len(self.array))[key]).tolist()
        return self.array[key]


VALUES = LabelScheme(organ_name="liver", organ_values=(1,), lesion_values=(2,))


@dataclass
class SmallCase:
    image: Sliced
    labels: Sliced
    boxes: None = None
    spacing: tuple[float, float, float] = (1.5, 1.0, 1.0)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.array.shape

    @property
    def annotated_slices(self) -> range:
        return range(len(self.image.array))

    @property
    def slices(self) -> SimpleNamespace:
        labels = self.labels.array
        return SimpleNamespace(has_organ=(labels >= 1).any((1, 2)), has_lesion=(labels == 2).any((1, 2)))


@dataclass
class SmallStore:
    cases: dict[str, SmallCase]
    classes: tuple[str, ...] = ("liver", "lesion")
    plan: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(window=WINDOW, size=32))
    scheme: LabelScheme = VALUES

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.cases)

    def case(self, name: str) -> Any:
        return self.cases[name]


def small_case(depth: int = 20, shape: tuple[int, int] = (32, 28), seed: int = 0) -> SmallCase:
    """Noise, with an organ from slice 4 to 4 before the end and a lesion in every other slice of it."""
    generator = np.random.default_rng(seed)
    image = generator.integers(-200, 301, (depth, *shape)).astype(np.int16)
    labels = np.zeros((depth, *shape), np.uint8)
    labels[4 : depth - 4, 6:24, 5:20] = 1
    labels[5 : depth - 4 : 2, 10:15, 8:14] = 2
    return SmallCase(Sliced(image), Sliced(labels))


def small_store(**options: Any) -> Any:
    """Two cases; the second is shallower than a bag of nine."""
    return SmallStore({"a": small_case(), "b": small_case(depth=10, shape=(24, 30), seed=1)}, **options)


def on_disk(store: SmallStore, path: Path) -> Store:
    """Writes the small store as `volattn prepare` would have prepared it."""
    for name, case in store.cases.items():
        folder = case_folder(path, name)
        folder.mkdir(parents=True)
        write_array(folder / IMAGE, case.image.array)
        write_array(folder / LABELS, case.labels.array)
        description = CaseDescription.parse(
            {
                "name": name,
                "shape": case.shape,
                "step": 1.5,
                "source_shape": case.shape,
                "source_affine": np.eye(4).tolist(),
                "organ_pixels": (case.labels.array >= 1).sum((1, 2)).tolist(),
                "lesion_pixels": (case.labels.array == 2).sum((1, 2)).tolist(),
                "image_sha256": "",
                "labels_sha256": "",
                "files": {},
                "measures": {},
            },
            CASE,
        )
        (folder / CASE).write_text(description.text("json"))
    description = StoreDescription(
        dataset="small",
        plan=Plan(window=WINDOW, size=store.plan.size),
        scheme=VALUES,
        fingerprint="",
        cases=store.names,
    )
    (path / STORE).write_text(description.text("json"))
    return Store.open(path)
