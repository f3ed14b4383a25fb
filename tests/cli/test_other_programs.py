"""Folders as other programs, disks and people leave them, given to whole commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import volattn

from volattn.io.readers import read_labels, read_volume, write_labels, write_volume
from volattn.structures.volume import Volume

WriteCase = Callable[..., tuple[Path, Path]]
DESCRIPTION = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}}


def evaluated(kind: str, reference: Path, prediction: Path, *words: object) -> tuple[int, dict[str, Any]]:
    out = reference.parent / "scores.json"
    code = volattn("evaluate", kind, "--reference", reference, "--prediction", prediction, "-o", out, *words)
    return code, json.loads(out.read_text()) if out.exists() else {}


@pytest.fixture
def reference(tmp_path: Path, write_lits_case: WriteCase) -> Path:
    """`labelsTs` with two cases."""
    (tmp_path / "labelsTs").mkdir()
    for number in (1, 2):
        _, labels = write_lits_case(number)
        shutil.move(labels, tmp_path / "labelsTs" / f"case_{number:03}.nii.gz")
    return tmp_path / "labelsTs"


@pytest.fixture
def nnunet(reference: Path) -> Path:
    """What `nnUNetv2_predict` leaves."""
    out = reference.parent / "nnunet"
    shutil.copytree(reference, out)
    (out / "dataset.json").write_text(json.dumps(DESCRIPTION | {"numTraining": 2, "file_ending": ".nii.gz"}))
    for name in ("plans.json", "predict_from_raw_data_args.json"):
        (out / name).write_text("{}")
    return out


@pytest.fixture
def monai(reference: Path) -> Path:
    """What MONAI's SaveImage leaves."""
    for path in reference.iterdir():
        name = path.name.removesuffix(".nii.gz")
        target = reference.parent / "monai" / name / f"{name}_seg.nii.gz"
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    return reference.parent / "monai"


@pytest.mark.parametrize("program", ["nnunet", "monai"])
def test_label_maps_of_other_programs(
    program: str, reference: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = request.getfixturevalue(program)
    for kind in ("lits", "detection"):
        code, scores = evaluated(kind, reference, prediction)
        assert (code, len(scores["cases"]), scores["failed"]) == (0, 2, {}), capsys.readouterr().err
        right = [case["lesion_dice"] for case in scores["cases"]] if kind == "lits" else [scores["mean_sensitivity"]]
        assert set(right) == {1.0}
    assert "plans" not in capsys.readouterr().err


def test_a_liver_is_no_lesion(reference: Path, nnunet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, scores = evaluated("detection", reference, nnunet)
    assert scores["lesions"] == 2
    assert scores["read_as"]["reference"] == ["components of the value 2"]
    assert "--lesion says otherwise" in capsys.readouterr().err


def test_other_label_numbers_are_those_of_the_description(reference: Path) -> None:
    for path in reference.iterdir():
        labels = read_labels(path)
        write_labels(path, np.array([0, 5, 3], np.uint8)[labels.array], labels)
    (reference / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 3, "liver": 5}}))
    code, scores = evaluated("lits", reference, reference)
    assert (code, scores["settings"]["liver"], scores["settings"]["lesion"]) == (0, 5, 3)


@pytest.mark.slow
def test_channels_are_one_case(tmp_path: Path, write_lits_case: WriteCase, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        image, _ = write_lits_case(number)
        ct = read_volume(image)
        write_volume(tmp_path / "imagesTs" / f"case_{number:03}_0000.nii.gz", ct)
        pet = Volume(np.abs(ct.array).astype(np.float32) / 7, ct.geometry)
        write_volume(tmp_path / "imagesTs" / f"case_{number:03}_0001.NII.GZ", pet)
    assert volattn("predict", "-m", "demo", "-i", tmp_path / "imagesTs", "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["case_001.json", "case_002.json"]
    said = capsys.readouterr().err
    assert "2 cases with several channels; the one that ends in _0000 is taken as the CT" in said
    assert "left out: 2 files of a further channel" in said


def test_cases_that_lead_out_of_the_store(
    tmp_path: Path, write_lits_case: WriteCase, capsys: pytest.CaptureFixture[str]
) -> None:
    image, labels = write_lits_case(1, tmp_path / "set" / "images")
    entry = {"images": [f"images/{image.name}"], "label": f"images/{labels.name}"}
    names = ["../../../victim", "/abs/victim", "imagesTr/..", "good"]
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(DESCRIPTION | {"dataset": dict.fromkeys(names, entry)}))
    before = {path for path in tmp_path.rglob("*") if path.is_relative_to(tmp_path / "set")}
    assert volattn("check", tmp_path / "set") == 1
    assert capsys.readouterr().out.count("holds a separator of folders") == 3
    assert volattn("prepare", tmp_path / "set", "-o", tmp_path / "store", "--recipe", "tiny") == 1
    assert [path.name for path in (tmp_path / "store" / "cases").iterdir()] == ["good"]
    after = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "store")}
    assert after == before


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_names_that_the_locale_cannot_say(
    tmp_path: Path, write_lits_case: WriteCase, environment: dict[str, str]
) -> None:
    image, labels = write_lits_case(1)
    os.makedirs(os.fsencode(tmp_path) + b"/M\xfcller-\xe8\x82\x9d")  # noqa: PTH103
    for path in (image, labels):
        shutil.copy(path, os.fsencode(tmp_path) + b"/M\xfcller-\xe8\x82\x9d/" + path.name.encode())
    labels.unlink()
    shutil.move(image, tmp_path / "肝.nii.gz")
    command = "from volattn.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "check", os.fsencode(tmp_path)],
        capture_output=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    assert b"1 case, 0 errors" in done.stdout
    assert b"left out: 1 file" in done.stderr
