"""Masks of classes are told from numbered lesions, or the doubt is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from volattn.datasets.case_files import find_case_files
from volattn.datasets.instances import Classes
from volattn.datasets.lits import SCHEME
from volattn.io.readers import write_labels
from volattn.scoring.pairing import find_classes
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

Box = tuple[slice, slice, slice]
ORGAN = np.s_[1:7, 2:14, 2:14]
INSIDE, OTHER, OUTSIDE = np.s_[2:5, 4:8, 4:8], np.s_[2:5, 9:12, 9:12], np.s_[2:5, 15:18, 15:18]
BESIDE = np.s_[1:7, 14:18, 2:14]


def mask(*boxes: tuple[Box, int]) -> np.ndarray:
    array = np.zeros((8, 20, 20), np.uint8)
    for box, value in boxes:
        array[box] = value
    return array


LIVER = mask((ORGAN, 1))
LIVER_WITH_LESIONS = mask((ORGAN, 1), (INSIDE, 2), (OTHER, 2))
APART = mask((INSIDE, 1), (OTHER, 2))
TOUCHING = mask((ORGAN, 1), (BESIDE, 2))
MANY = mask((ORGAN, 1), (BESIDE, 2), (INSIDE, 3), (OTHER, 4))
ONE, TWO = mask((INSIDE, 1)), mask((INSIDE, 2))


def folder(root: Path, masks: Sequence[np.ndarray], name: str = "case_{}") -> Path:
    root.mkdir()
    for number, array in enumerate(masks):
        volume = Volume(array, Geometry.aligned(array.shape, (2.0, 0.8, 0.8)))
        write_labels(root / f"{name.format(number)}.nii.gz", array, volume)
    return root


def classes(root: Path, asked: int | None = None, reference: Classes | None = None) -> tuple[int, ...] | None:
    found = find_classes(find_case_files(root), asked, "--lesion", reference)
    return None if found is None else found.lesions


@pytest.mark.parametrize(
    ("masks", "name", "lesions"),
    [
        ([LIVER_WITH_LESIONS, LIVER], "case_{}", (2,)),
        ([APART, ONE], "case_{}", None),
        ([MANY, ONE], "case_{}", None),
        ([ONE], "case_{}", None),
        ([TOUCHING], "case_{}_lesions", None),
        ([LIVER, LIVER_WITH_LESIONS], "segmentation-{}", (2,)),
        ([TOUCHING], "segmentation-{}", (2,)),
        ([TWO], "Segmentation-{}", (2,)),
        ([MANY], "segmentation-{}", None),
    ],
)
def test_by_names_and_values(
    tmp_path: Path, masks: list[np.ndarray], name: str, lesions: tuple[int, ...] | None
) -> None:
    root = folder(tmp_path / "masks", masks, name)
    assert classes(root) == lesions
    assert classes(root, asked=1) == (1,)


@pytest.mark.parametrize(
    ("masks", "name"),
    [([TOUCHING], "case_{}"), ([LIVER_WITH_LESIONS, TOUCHING], "case_{}"), ([LIVER, ONE], "segmentation-{}")],
)
def test_doubt_is_said(tmp_path: Path, masks: list[np.ndarray], name: str) -> None:
    with pytest.raises(ValueError, match="--lesion"):
        classes(folder(tmp_path / "masks", masks, name))


@pytest.mark.parametrize(
    ("masks", "lesions"),
    [([LIVER_WITH_LESIONS], (2,)), ([TWO], (2,)), ([MANY], None), ([LIVER], "--lesion"), ([APART], "--lesion")],
)
def test_predictions_beside_references_with_an_organ(
    tmp_path: Path, masks: list[np.ndarray], lesions: tuple[int, ...] | str | None
) -> None:
    root = folder(tmp_path / "masks", masks)
    reference = Classes.of(SCHEME, "as they say")
    if isinstance(lesions, str):
        with pytest.raises(ValueError, match=lesions):
            classes(root, reference=reference)
    else:
        assert classes(root, reference=reference) == lesions


@pytest.mark.parametrize(
    ("labels", "lesions"),
    [
        ({"background": 0, "tumour": 1, "liver": 2}, (1,)),
        ({"0": "lesion"}, None),
        ({"background": 0, "liver": 1}, "--lesion"),
    ],
)
def test_a_description_goes_before_values(
    tmp_path: Path, labels: dict[str, object], lesions: tuple[int, ...] | str | None
) -> None:
    root = folder(tmp_path / "labelsTs", [LIVER_WITH_LESIONS])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    if isinstance(lesions, str):
        with pytest.raises(ValueError, match=lesions):
            classes(root)
    else:
        assert classes(root) == lesions
