"""`dataset.json` as people write it: understood rightly, or refused in one true line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.datasets.case import Dataset
from volattn.datasets.description import Description
from volattn.datasets.open import open_dataset

LABELS = {"background": 0, "liver": 1, "tumour": 2}
IMAGE, LABEL = "imagesTr/case_0000.nii.gz", "labelsTr/case.nii.gz"


def folder(root: Path, **entries: Any) -> Path:
    for name in (IMAGE, "imagesTr/case_0001.nii.gz", LABEL):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS} | entries))
    return root


def opened(root: Path, **entries: Any) -> Dataset:
    return open_dataset(folder(root, **entries))


def refusals(root: Path) -> list[str]:
    try:
        return [f"{one.file}: {one.message}" for one in open_dataset(root).found if one.severity == "error"]
    except ValueError as error:
        return [str(error)]


@pytest.mark.parametrize(
    ("labels", "organ", "lesion"),
    [
        (LABELS, (1,), (2,)),
        ({"background": "0", "liver": "1", "tumour": " 2 "}, (1,), (2,)),
        ({"background": 0.0, "liver": 1.0, "tumour": [2, 3]}, (1,), (2, 3)),
        ({"background": 0, "liver": [1, 2], "tumour": [2]}, (1,), (2,)),
        ({"0": "background", "1": "liver", "2": "tumour"}, (1,), (2,)),
        ({"00": "Background", "01": "Liver", "02": "Tumour"}, (1,), (2,)),
        ({"1": "tumour"}, (), (1,)),
        (["background", "liver", "tumour"], (1,), (2,)),
        ({"ignore": 3, **LABELS}, (1,), (2,)),
        ({"0": "background", "1": "tumour", "999": "Ignore"}, (), (1,)),
        ({"0": "background", "1": 7, "2": "tumour"}, (1,), (2,)),
    ],
)
def test_labels(tmp_path: Path, labels: Any, organ: tuple[int, ...], lesion: tuple[int, ...]) -> None:
    scheme = opened(tmp_path, labels=labels).scheme
    assert (scheme.organ_values, scheme.lesion_values) == (organ, lesion)


def test_an_ignore_label_is_said(tmp_path: Path) -> None:
    (note,) = opened(tmp_path, labels=LABELS | {"ignore": 3}).found
    assert (note.severity, note.message[:11]) == ("note", "its label 3")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"labels": LABELS | {"liver": 1.7}}, "'liver' is 1.7"),
        ({"labels": LABELS | {"liver": True}}, "'liver' is True"),
        ({"labels": LABELS | {"liver": None}}, "'liver' is None"),
        ({"labels": LABELS | {"liver": []}}, r"'liver' is \[\]"),
        ({"labels": LABELS | {"liver": -1}}, "'liver' is -1"),
        ({"labels": LABELS | {"liver": [[1, 2]]}}, r"'liver' is \[\[1, 2\]\]"),
        ({"labels": LABELS | {"liver": "one"}}, "'liver' is 'one'"),
        ({"labels": LABELS | {"liver": 2}}, "as has 'liver'; give each its own"),
        ({"labels": {"0": "background", "1": "tumour", "01": "liver"}}, "two labels have the value 1"),
        ({"labels": {"0": "background", "1": ["tumour"]}}, r"'1' is \['tumour'\]"),
        ({"labels": {"0": "lesion"}}, r"count classes from 0 \('lesion'\), as nnDetection"),
        ({"labels": {"0": "liver", "1": "tumour"}}, "'liver' has value"),
        ({"labels": {"background": 3, "tumour": 1}}, "background is always 0"),
        ({"labels": {"0": 0, "1": 1}}, "named like a lesion"),
        ({"labels": 7}, "labels: is 7"),
        ({"labels": {"background": 0, "tumour": 1e400}}, "'tumour' is inf"),
        ({"channel_names": {"0": 7, "1": 8}}, "none of its channels .* is named CT"),
        ({"channel_names": {"0": "CT", "1": "ct"}}, "several of its channels"),
        ({"channel_names": {"0": ["CT"]}}, "channel_names: is"),
        ({"modality": {"-1": "CT"}}, "modality: is"),
        ({"file_ending": ".nrrd"}, "file_ending: is '.nrrd'"),
        ({"file_ending": 7}, "file_ending: is 7"),
        ({"numTraining": "many"}, "numTraining: is 'many'"),
        ({"training": 1}, "training: is 1"),
        ({"training": "imagesTr"}, "training: is 'imagesTr'"),
        ({"dataset": [{"images": IMAGE}, 7]}, "found 7"),
        ({"training": [{"image": "/abs/a.nii.gz", "label": LABEL}]}, "leads out of the data set's folder"),
        ({"training": [{"image": IMAGE, "label": "../labelsTr/a.nii"}]}, "leads out of the data set's folder"),
        ({"training": [{"image": "C:\\a.nii", "label": LABEL}]}, "leads out of the data set's folder"),
        ({"dataset": {"../../../victim": {"images": [IMAGE], "label": LABEL}}}, "holds a separator"),
        ({"dataset": {"/abs/victim": {"images": [IMAGE], "label": LABEL}}}, "holds a separator"),
        ({"dataset": {"": {"images": [IMAGE], "label": LABEL}}}, "is empty"),
        ({"dataset": {"a\n": {"images": [IMAGE], "label": LABEL}}}, "cannot be printed"),
    ],
)
def test_what_is_refused(tmp_path: Path, entries: dict[str, Any], said: str) -> None:
    (line,) = refusals(folder(tmp_path, **entries))
    assert re.search(said, line)
    assert line.startswith(f"{tmp_path / 'dataset.json'}: ")
    assert line.isprintable()
    assert ";" in line


@pytest.mark.parametrize(
    ("channels", "channel"),
    [
        ({"0": "CT"}, 0),
        ({"0000": "CT", "0001": "PET"}, 0),
        ({"0": "PET", "1": "CT"}, 1),
        ({"CT": 0}, 0),
        ({"PET": 0, "CT": "1"}, 1),
        (["PET", "CT"], 1),
        ("CT", 0),
        ({"0": "PET", "1": "CT_venous"}, 1),
        ({}, 0),
        (None, 0),
    ],
)
@pytest.mark.parametrize("key", ["channel_names", "modality"])
def test_channels(tmp_path: Path, key: str, channels: Any, channel: int) -> None:
    (case,) = opened(tmp_path, **{key: channels}).cases
    assert (case.name, case.image.name) == ("case", f"case_{channel:04d}.nii.gz")


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"file_ending": "nii.gz", "numTraining": "1", "unknown": {"a": [1]}},
        {"file_ending": ".NII.GZ", "numTraining": 1.0, "name": 7},
        {"training": []},
        {"training": [{"image": "./imagesTr/case.nii.gz", "label": "./labelsTr/case.nii.gz"}]},
        {"training": [{"image": "imagesTr\\case.nii.gz", "label": "labelsTr\\case.nii.gz"}]},
        {"training": {"case": {"image": IMAGE, "label": LABEL}}},
        {"dataset": {"case": {"images": [IMAGE, "imagesTr/case_0001.nii.gz"], "label": LABEL}}},
        {"dataset": [{"images": [IMAGE], "label": LABEL}]},
    ],
)
def test_cases(tmp_path: Path, entries: dict[str, Any]) -> None:
    dataset = opened(tmp_path, **entries)
    assert [(case.name, case.image, case.labels) for case in dataset.cases] == [
        ("case", tmp_path / IMAGE, tmp_path / LABEL)
    ]
    assert [one.file.name for one in dataset.left_out] == ["case_0001.nii.gz"]


def test_one_bad_entry_costs_itself(tmp_path: Path) -> None:
    good = {"images": [IMAGE], "label": LABEL}
    dataset = opened(tmp_path, dataset={"imagesTr/..": good, "good": good})
    assert [case.name for case in dataset.cases] == ["good"]
    assert [one.severity for one in dataset.found] == ["error"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_as_other_editors_save_it(tmp_path: Path, encoding: str) -> None:
    root = folder(tmp_path)
    text = json.dumps({"labels": LABELS}, indent=1).replace("\n", "\r\n")
    (root / "dataset.json").write_bytes(text.encode(encoding))
    assert open_dataset(root).scheme.lesion_values == (2,)


WORDS = ["0", "1", "tumour", "image", "images", "label", "CT", IMAGE, LABEL]
TEXT = st.sampled_from(WORDS) | st.text(max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | TEXT,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=8,
)
KEYS = [*Description.model_fields, "channel_names", "modality", "numTraining", "training", "dataset"]


@settings(max_examples=80)
@given(entries=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3), broken=st.booleans())
def test_any_json_is_read_or_refused_in_a_line(
    entries: dict[str, Any], broken: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "any-description"
    folder(root, **(entries if broken else entries | {"labels": LABELS}))
    lines = refusals(root)
    for line in lines:
        assert line.startswith(str(root))
        assert len(line.splitlines()) == 1
        assert len(line) < 1000 + len(str(root))
    for case in () if lines else open_dataset(root).cases:
        assert case.image.is_relative_to(root)
        assert case.labels is None or case.labels.is_relative_to(root)


@pytest.mark.parametrize(
    ("labels", "extra", "said"),
    [
        ({"background": 0, "liver": 10**400, "tumour": 2}, {}, "give it a whole number"),
        ({"background": 0, "": 1, "tumour": 2}, {}, "has no name"),
        ({"background": 0, **{f"organ {n}" * 30: n for n in range(1, 200)}}, {}, "is named like a lesion"),
        ({"background": 0, "tumour": 1}, {"channel_names": {str(n): "MR" * 200 for n in range(300)}}, "named CT"),
        ({"background": 0, "tumour": 1}, {"dataset": {"a": {"images": ["x" * 9000], "label": "y"}}}, "longer than"),
        ({"background": 0, "tumour": 1}, {"dataset": {"a": {"images": ["é" * 124], "label": "y"}}}, "longer than"),
    ],
    ids=["number", "name", "labels", "channels", "path", "part"],
)
def test_extreme_values_are_one_short_line(tmp_path: Path, labels: dict, extra: dict, said: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz", **extra}))
    try:
        told = "; ".join(str(issue) for issue in open_dataset(tmp_path).found)
    except ValueError as error:
        told = str(error)
    assert said in told
    assert "dataset.json" in told
    assert len(told.removeprefix(str(tmp_path))) < 800
    assert told.isprintable()
