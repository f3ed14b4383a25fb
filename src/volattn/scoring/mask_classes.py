"""Whether masks hold classes, such as organ and lesion, or a number for each lesion."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import LabelScheme, label_values
from volattn.datasets.case_files import CaseFiles, CaseFolder
from volattn.datasets.instances import Classes, numbers_instances
from volattn.datasets.lits import SCHEME
from volattn.io.readers import read_labels

_MOST_CLASSES = 3
"""Masks with more values are taken for numbers of lesions, unless something else decides."""


@dataclass
class _Values:
    """The values of a folder's masks, as far as they were read.

    Attributes:
        both: The first mask with several values.
        touching: The first mask in which voxels of two values are neighbours.
        nested: Whether every lesion value 2 has more faces to 1 than to 0: lesions in an organ.
    """

    found: set[int]
    both: Path | None = None
    touching: Path | None = None
    nested: bool = True


def find_classes(
    folder: CaseFolder, asked: int | None, option: str, reference: Classes | None = None
) -> Classes | None:
    """The classes of a folder's masks; None where they number lesions.

    The user's value counts first, then a `dataset.json`, then names as in LiTS, then the values themselves: 2
    surrounded by 1 is a lesion in its organ.

    Args:
        asked: The value of lesions that the user gave, if any.
        option: The option for it; errors name it.
        reference: The classes of the references that these predictions are scored against.

    Raises:
        ValueError: It is in doubt, or `dataset.json` cannot be used.
    """
    if asked is not None:
        return Classes((asked,), "")
    masks = [path for files in folder.cases.values() for path in _undecided(files, reference is not None)]
    if not masks:
        return None
    if folder.description is not None:
        try:
            scheme = folder.scheme
        except ValueError as error:
            raise ValueError(f"{error}; or say {option}") from None
        return None if scheme is None else Classes.of(scheme, f"as {folder.description} says")
    values = _values_of(masks, enough=folder.named_as_lits)
    if folder.named_as_lits:
        return _by_lits_names(values, masks, option)
    return _by_values(values, masks, option, None if reference is None else reference.scheme)


def _by_lits_names(values: _Values | None, masks: list[Path], option: str) -> Classes | None:
    if values is None or max(values.found, default=0) > max(SCHEME.lesion_values):
        return None
    if values.found and not values.found & set(SCHEME.lesion_values):
        raise ValueError(
            f"{masks[0]}: is named as in LiTS, and neither it nor the others hold LiTS's lesions (value 2); say with "
            f"{option} which value is a lesion's"
        )
    if values.both and values.touching is None:
        raise _in_doubt(values.both, "LiTS's name, and the value 2 nowhere beside 1", option)
    return Classes.of(SCHEME, "as their names are those of LiTS")


def _by_values(values: _Values | None, masks: list[Path], option: str, reference: LabelScheme | None) -> Classes | None:
    if values is None:
        return None
    if values.touching is not None:
        if values.nested and values.found <= {1, 2}:
            return Classes.of(SCHEME, "as lesions lie in an organ there")
        raise _in_doubt(values.touching, "values that touch each other", option)
    if reference is not None and reference.organ_values and values.found:
        # Beside references with an organ a value may be the organ's.
        if values.found <= set(reference.lesion_values):
            return Classes.of(reference, "as the references have it")
        if values.found <= {*reference.organ_values, *reference.lesion_values}:
            raise _in_doubt(masks[0], "values that the references have for organ and lesion", option)
    return None


def _in_doubt(path: Path, what: str, option: str) -> ValueError:
    return ValueError(
        f"{path}: has {what}, so that it may hold classes or a number for each lesion; say {option} N where N is the "
        "class of lesions, or name masks of numbers NAME_lesions.nii.gz"
    )


def _undecided(files: CaseFiles, predicted: bool) -> list[Path]:
    """The mask that is scored, unless its name or its JSON shows that it numbers lesions."""
    if not files.masks or files.numbered or (predicted and files.boxes):
        return []
    return [] if numbers_instances(files.masks[0]) else [files.masks[0]]


def _values_of(masks: Iterable[Path], enough: bool) -> _Values | None:
    """Reads masks until one has more values than classes have (None), or with `enough` a lesion in its organ."""
    values = _Values(set())
    for path in masks:
        array = _read(path)
        if array is None:
            continue
        found = {value for value in label_values(array) if value}
        if found and max(found) > _MOST_CLASSES:
            return None
        values.found |= found
        faces = _faces(array, found)
        if len(found) > 1:
            values.both = values.both or path
        if any(low > 0 for low, _ in faces):
            values.touching = values.touching or path
        if 2 in found and faces.get((1, 2), 0) <= faces.get((0, 2), 0):
            values.nested = False
        elif enough and 2 in found:
            break
    return values


def _read(path: Path) -> NDArray[np.integer] | None:
    try:
        return read_labels(path).array
    except (ValueError, OSError):
        return None  # Scoring the case reports why.


def _faces(array: NDArray[np.integer], found: set[int]) -> dict[tuple[int, int], int]:
    """How many faces lie between voxels of two values, the lower one first."""
    counts: dict[tuple[int, int], int] = {}
    if len(found) < 2 and found != {2}:
        return counts
    for axis in range(array.ndim):
        lanes = np.moveaxis(array, axis, 0)
        for one, other in itertools.pairwise(lanes):  # plane by plane: a volume's worth of pairs takes much memory
            different = one != other
            pairs = np.sort(np.stack([one[different], other[different]]), axis=0)
            for (low, high), count in zip(*np.unique(pairs.T, axis=0, return_counts=True), strict=True):
                counts[int(low), int(high)] = counts.get((int(low), int(high)), 0) + int(count)
    return counts
