"""What label values mean, from their names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from volattn.config import Config
from volattn.datasets.case import LabelScheme, Reading, is_lesion_name, natural_key, scheme_from_names

SOURCE = Path("dataset.json")


@pytest.mark.parametrize(
    "name",
    [
        *("tumour", "Tumor", "liver_tumor", "lesion", "Lesions", "cancer", "colon cancer primaries"),
        *("renal-cyst", "cysts", "metastasis", "metastases", "lung nodule", "HCC", "mass", "carcinoma"),
    ],
)
def test_names_of_lesions(name: str) -> None:
    assert is_lesion_name(name)


@pytest.mark.parametrize("name", ["liver", "pancreas", "kidney", "cystic duct", "Vessel", "masseter", "organ"])
def test_names_of_organs(name: str) -> None:
    assert not is_lesion_name(name)


@pytest.mark.parametrize(
    ("names", "classes", "organ", "lesion"),
    [
        ({"background": [0], "liver": [1], "cancer": [2]}, ("liver", "cancer"), (1,), (2,)),
        ({"background": [0], "kidney": [1], "tumor": [2], "cyst": [3]}, ("kidney", "lesion"), (1,), (2, 3)),
        ({"left lung": [1], "right lung": [2], "nodule": [7]}, ("organ", "nodule"), (1, 2), (7,)),
        ({"background": [0], "colon cancer primaries": [1]}, ("colon cancer primaries",), (), (1,)),
        ({"background": [0], "liver": [1, 2], "tumour": [2]}, ("liver", "tumour"), (1,), (2,)),
        ({"background": [0], "organ": [1], "lesion": [2], "ignore": [3]}, ("organ", "lesion"), (1,), (2,)),
    ],
)
def test_schemes(names: dict, classes: tuple, organ: tuple, lesion: tuple) -> None:
    scheme = scheme_from_names(names, SOURCE)
    assert (scheme.classes, scheme.organ_values, scheme.lesion_values) == (classes, organ, lesion)
    stored = np.array([[[0, *organ, *lesion]]])
    expected = [0] + [1] * len(organ) + [2] * len(lesion)
    normalised = scheme.normalise(stored)
    assert normalised.dtype == np.uint8
    assert normalised.ravel().tolist() == expected


def test_auxiliary_labels_are_neither_lesions_nor_lost() -> None:
    names = {"background": [0], "liver": [1], "tumor": [2], "cyst": [3], "vessels": [4, 6]}
    scheme = scheme_from_names(names, SOURCE, Reading(auxiliary=("vessels", "cyst")))
    assert (scheme.classes, scheme.lesion_values) == (("liver", "tumor"), (2,))
    stored = np.array([[[0, 1, 2, 3, 4, 6]]])
    assert scheme.normalise(stored).ravel().tolist() == [0, 1, 2, 1, 1, 1]
    assert scheme.normalise(stored, auxiliary=True).ravel().tolist() == [0, 1, 2, 4, 3, 3]
    assert scheme.fault([5]) is not None
    regions = {"background": [0], "liver": [1, 2, 3, 4], "tumor": [2], "cyst": [2, 3], "vessels": [3, 4]}
    scheme = scheme_from_names(regions, SOURCE, Reading(auxiliary=("cyst", "vessels")))
    assert (scheme.organ_values, scheme.lesion_values) == ((1,), (2,))
    assert scheme.auxiliary == {"cyst": (3,), "vessels": (4,)}
    with pytest.raises(ValueError, match="all values of label 'cyst' are a lesion's"):
        scheme_from_names({**regions, "cyst": [3]}, SOURCE, Reading(auxiliary=("vessels", "cyst")))
    with pytest.raises(ValueError, match="has no label 'cysts'; it has liver, tumor, cyst"):
        scheme_from_names(names, SOURCE, Reading(auxiliary=("cysts",)))


def test_organs_alone_will_do_if_the_user_says_so() -> None:
    names = {"background": [0], "liver": [1]}
    scheme = scheme_from_names(names, SOURCE, Reading(organ_only=True))
    assert (scheme.classes, scheme.lesion_values) == (("liver", "lesion"), ())
    with pytest.raises(ValueError, match="--organ-only"):
        scheme_from_names(names, SOURCE)
    with pytest.raises(ValueError, match="named like a lesion"):
        scheme_from_names({"background": [0]}, SOURCE, Reading(organ_only=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("value", [3, 255, -1, 300])
def test_unknown_labels_are_refused(value: int, dtype: type) -> None:
    scheme = LabelScheme(organ_name="liver", organ_values=(1,), lesion_values=(2,))
    labels = np.zeros((3, 4, 5), np.int32)
    labels[1, 2, 3] = value
    if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        with pytest.raises(ValueError, match=re.escape(f"label {value} is not")):
            scheme.normalise(labels.astype(dtype))


def test_schemes_survive_a_file(tmp_path: Path) -> None:
    scheme = LabelScheme(organ_name="liver", organ_values=(1, 4), lesion_name="tumour", lesion_values=(2,))
    assert isinstance(scheme, Config)
    (tmp_path / "scheme.json").write_text(scheme.text("json"))
    assert LabelScheme.read(tmp_path / "scheme.json") == scheme


@pytest.mark.parametrize(
    "values",
    [
        {"lesion_values": ()},
        {"lesion_values": (0,)},
        {"lesion_values": (256,)},
        {"lesion_values": (1, 1)},
        {"lesion_values": (1,), "organ_values": (1,), "organ_name": "liver"},
        {"lesion_values": (1,), "organ_name": "liver"},
        {"lesion_values": (1,), "organ_values": (2,)},
        {"lesion_values": (1,), "organ_values": (2,), "organ_name": "lesion"},
    ],
)
def test_contradictory_schemes_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="scheme"):
        LabelScheme.parse(values, "scheme")


def test_natural_order() -> None:
    names = ["volume-10", "volume-9", "a2b10", "a2b9", "volume-", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a2b9", "a2b10", "volume-", "volume-9", "volume-10"]
