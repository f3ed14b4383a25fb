"""`evaluate deeplesion`, `evaluate detection` and `compare` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from commands import volattn
from key_slices import HEADER, Slices, info_row, random_slices, write_found, write_info, write_rows


@pytest.fixture
def slices() -> Slices:
    return random_slices(5, count=8)


def words(folder: Path, slices: Slices, out: str = "scores.json") -> list[Path | str]:
    info = write_info(folder / "DL_info.csv", slices)
    found = write_found(folder / "detections.csv", slices)
    return ["evaluate", "deeplesion", "--reference", info, "--prediction", found, "-o", folder / out]


def test_scores_and_a_table(tmp_path: Path, slices: Slices, capsys: pytest.CaptureFixture[str]) -> None:
    assert volattn(*words(tmp_path, slices)) == 0
    content = json.loads((tmp_path / "scores.json").read_text())
    assert list(content["sensitivity_at_fp_per_image"]) == ["0.5", "1", "2", "4", "8", "16"]
    assert {"ap50", "versions", "commit", "by_type", "by_size", "by_slice_interval"} <= content.keys()
    said = capsys.readouterr()
    assert f"{content['ap50']:.3f}" in said.out
    assert "8 images, 4 patients" in said.out
    assert said.err == ""


def test_a_bad_row_is_exit_1_and_listed_at_the_end(
    tmp_path: Path, slices: Slices, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(tmp_path, slices)
    with (tmp_path / "detections.csv").open("a") as file:
        file.write(f"{next(iter(slices))},30,2,10,40,0.5\n")
    assert volattn(*arguments) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "volattn: 1 of 8 cases failed:"
    row = 2 + sum(len(found) for _, found in slices.values())
    assert f"detections.csv: row {row}: the box 30, 2, 10, 40 has its corners reversed; give" in said[1]
    (tmp_path / "scores.json").unlink()
    assert volattn(*arguments, "--fail-fast") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"row {row}" in said[0]
    assert not (tmp_path / "scores.json").exists()


def test_bad_files_are_one_line_and_nothing_written(
    tmp_path: Path, slices: Slices, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(tmp_path, slices)
    (tmp_path / "detections.csv").write_text("File_name,x1,y1,x2,y2\n")
    assert volattn(*arguments) == 2
    assert "row 1: has no column score; the columns" in capsys.readouterr().err
    write_found(tmp_path / "detections.csv", slices)
    row = info_row("000001_01_01_001.png", (9, 2, 3, 40))
    write_rows(tmp_path / "DL_info.csv", HEADER, [row])
    assert volattn(*arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "DL_info.csv: row 2: " in said
    assert not (tmp_path / "scores.json").exists()


def test_a_comparison(tmp_path: Path, slices: Slices, capsys: pytest.CaptureFixture[str]) -> None:
    without: Slices = {name: (lesions, []) for name, (lesions, _) in slices.items()}
    volattn(*words(tmp_path, without, "a.json"))
    volattn(*words(tmp_path, slices, "b.json"))
    capsys.readouterr()
    out = tmp_path / "difference.json"
    assert volattn("compare", tmp_path / "a.json", tmp_path / "b.json", "-o", out) == 0
    said = capsys.readouterr().out
    assert "Significant" in said
    assert "AP50" in said
    rows = json.loads(out.read_text())["rows"]
    assert {row["metric"] for row in rows} >= {"ap50", "mean_sensitivity", "sensitivity_at_fp_per_image.0.5"}
    fewer = dict(list(slices.items())[:-1])
    volattn(*words(tmp_path, fewer, "c.json"))
    capsys.readouterr()
    assert volattn("compare", tmp_path / "a.json", tmp_path / "c.json") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert list(slices)[-1] in said
    assert volattn("compare", tmp_path / "a.json", tmp_path / "c.json", "--common") == 0
    assert volattn("compare", tmp_path / "a.json", tmp_path / "DL_info.csv") == 2


def test_reports(tmp_path: Path, slices: Slices, capsys: pytest.CaptureFixture[str]) -> None:
    scores, report = tmp_path / "scores.json", tmp_path / "report"
    assert volattn(*words(tmp_path, slices), "--report", report / "boxes") == 0
    assert f"Report: {report / 'boxes' / 'index.html'}" in capsys.readouterr().out
    assert volattn("compare", scores, scores, "--report", report / "difference") == 0
    for folder in ("boxes", "difference"):
        assert "data:image/png" in (report / folder / "index.html").read_text()
    scores.unlink()
    assert volattn(*words(tmp_path, slices), "-o", report) == 2
    assert "is a folder; give a file, such as" in capsys.readouterr().err
    assert volattn(*words(tmp_path, slices), "--report", tmp_path / "DL_info.csv") == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    assert not scores.exists()


def test_volumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        mask = np.zeros((20, 20, 8), np.uint8)
        mask[3:9, 4:10, 2:5] = number
        for folder, name in (("r", f"scan-{number}"), ("p", f"case_{number:03}")):
            (tmp_path / folder).mkdir(exist_ok=True)
            nibabel.Nifti1Image(mask, np.eye(4)).to_filename(tmp_path / folder / f"{name}.nii.gz")
    out = tmp_path / "scores.json"
    arguments = ["evaluate", "detection", "--reference", tmp_path / "r", "--prediction", tmp_path / "p", "-o", out]
    assert volattn(*arguments, "--preset", "luna16", "--report", tmp_path / "report") == 0
    assert json.loads(out.read_text())["mean_sensitivity"] == 1
    assert (tmp_path / "report" / "froc.png").is_file()
    (tmp_path / "p" / "case_002.nii.gz").rename(tmp_path / "p" / "case_007.nii.gz")
    assert volattn(*arguments) == 1
    said = capsys.readouterr().err
    assert "no reference for case_007; not scored" in said
    assert "scan-2: " in said.splitlines()[-1]
    out.unlink()
    assert volattn(*arguments, "--fail-fast") == 2
    assert not out.exists()


def test_an_unknown_preset_ends_with_2(tmp_path: Path) -> None:
    folders = ("--reference", tmp_path, "--prediction", tmp_path)
    assert volattn("evaluate", "detection", *folders, "-o", "x.json", "--preset", "best") == 2
