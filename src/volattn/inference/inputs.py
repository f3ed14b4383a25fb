"""Which files are predicted, and which reference belongs to which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import Case, Dataset, LabelScheme, natural_key
from volattn.datasets.lits import SCHEME, has_lits
from volattn.datasets.naming import case_number, is_nifti, without_channel
from volattn.datasets.open import open_dataset
from volattn.io.nifti import read_labels, volume_name
from volattn.structures.geometry import check_same_grid
from volattn.structures.volume import Volume

_LABELS = re.compile(r"segmentation-\d+|labels?[-_].*|.*_lesions")


def find_inputs(paths: Sequence[Path | str]) -> list[Path]:
    """The CTs that some files and folders stand for, each once, in natural order within a folder.

    A folder stands for the `.nii` and `.nii.gz` files directly in it, but those that are named like label
    maps (LiTS's `segmentation-N`, and what prediction itself writes); if there are none, for the images of
    the data set in it.

    Raises:
        ValueError: There is no path, a folder holds no CT, or two CTs have one name. (A file that is missing
            fails when it is read, as one bad case among others.)
    """
    if not paths:
        raise ValueError("nothing to predict: give a NIfTI file or a folder with some")
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        for file in _in_folder(path) if path.is_dir() else [path]:
            found.setdefault(file.resolve(), file)
    names: dict[str, Path] = {}
    for file in found.values():
        name = volume_name(file)
        if name in names:
            raise ValueError(
                f"{names[name]} and {file} would both be written as {name}.nii.gz; "
                "rename one, or predict them into two folders"
            )
        names[name] = file
    return list(found.values())


def _in_folder(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if is_nifti(file) and not _LABELS.fullmatch(volume_name(file))]
    if files:
        return sorted(files, key=lambda file: natural_key(volume_name(file)))
    if _is_dataset(folder):
        return [case.image for case in open_dataset(folder).cases]
    raise ValueError(f"{folder}: holds no .nii or .nii.gz file; give a CT, or a folder with some")


def _is_dataset(folder: Path) -> bool:
    return (folder / "dataset.json").is_file() or has_lits(folder)


@dataclass(frozen=True)
class References:
    """Reference segmentations of a folder.

    Attributes:
        folder: Where they are.
        files: By case name.
        scheme: What their values mean.
    """

    folder: Path
    files: Mapping[str, Path]
    scheme: LabelScheme

    @classmethod
    def open(cls, folder: Path | str, classes: Sequence[str]) -> References:
        """Lists a folder: a data set's labels, or every NIfTI file in it.

        Args:
            folder: The folder. Without a `dataset.json` the values are 1 organ and 2 lesion, or 1 lesion for
                a model that knows lesions only.
            classes: Of the model.

        Raises:
            ValueError: It is not a folder, or holds no segmentation.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{folder}: is not a folder; give the one with the reference segmentations")
        if _is_dataset(folder):
            dataset = open_dataset(folder)
            files = {case.name: case.labels for case in dataset.cases if case.labels is not None}
            scheme = dataset.scheme
        else:
            files = {volume_name(file): file for file in sorted(folder.iterdir()) if is_nifti(file)}
            scheme = SCHEME if len(classes) > 1 else LabelScheme(lesion_values=(1,))
        if not files:
            raise ValueError(f"{folder}: holds no reference segmentation (.nii or .nii.gz)")
        return cls(folder, files, scheme)

    def find(self, image: Path) -> Path | None:
        """The reference of a CT: that of its name, else the only one with the last number of its name.

        Raises:
            ValueError: Several have its number.
        """
        name = volume_name(image)
        others = {key: file for key, file in self.files.items() if file.resolve() != image.resolve()}
        for key in (name, without_channel(name)):
            if key in others:
                return others[key]
        number = case_number(name)
        if number is None:
            return None
        same = [file for key, file in others.items() if case_number(key) == number]
        if len(same) > 1:
            raise ValueError(
                f"{same[0]} and {same[1]} both have the number of {image.name}; "
                "name the reference like the CT"
            )
        return same[0] if same else None

    def dataset(self, images: Sequence[Path]) -> Dataset:
        """The CTs with their references, as far as there is one for each."""
        cases = []
        for image in images:
            try:
                cases.append(Case(volume_name(image), image, self.find(image)))
            except ValueError:  # Several fit: none is taken.
                cases.append(Case(volume_name(image), image, None))
        return Dataset(self.folder.name, self.folder, tuple(cases), self.scheme)

    def read(
        self, path: Path, volume: Volume, trust_grid: bool = False
    ) -> tuple[NDArray[np.uint8], str | None]:
        """A reference in the CT's file axes: 0 background, 1 organ, 2 lesion; and what was overlooked.

        Args:
            path: The reference.
            volume: The CT.
            trust_grid: Voxels of the CT's shape are taken as they lie, whatever the reference's grid says.

        Raises:
            ValueError: It cannot be read, lies on another grid, or has a label that the scheme does not know.
        """
        labels = read_labels(path)
        note = check_same_grid(volume.geometry, labels.geometry, (volume.name, str(path)), trust_grid)
        try:
            return self.scheme.normalise(labels.array), note
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
