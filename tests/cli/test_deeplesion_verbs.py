"""The verbs on DeepLesion's layout, from the outside."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import volattn
from small_deeplesion import row, write_folder

from volattn.preprocessing.plan import Plan
from volattn.preprocessing.store import Store
from volattn.training.recipe import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(Recipe(name="small", plan=Plan(z_spacing=2.0, size=64)).text(), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(
        tmp_path / "dl",
        [
            row("000001_01_01", 5),
            row("000001_01_01", 5, (5, 5, 9, 9), Possibly_noisy="1"),
            row("000002_01_01", 5, Train_Val_Test="2"),
            row("000003_01_01", 5, Train_Val_Test="3"),
        ],
    )
    return tmp_path / "dl"


def test_check_and_prepare(root: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert volattn("check", root) == 0
    out = capsys.readouterr().out
    assert "takes 3 rows and leaves out 1 marked Possibly_noisy" in out
    assert out.splitlines()[-1] == "dl: 3 cases, 0 errors, 1 note"
    assert volattn("prepare", root, "-o", tmp_path / "all", "--recipe", recipe) == 0
    assert "leaves out 1 marked Possibly_noisy" in capsys.readouterr().out
    assert len(Store.open(tmp_path / "all").names) == 3
    arguments = ("--recipe", recipe, "--subset", "train, val", "--keep-noisy")
    assert volattn("prepare", root, "-o", tmp_path / "some", *arguments) == 0
    assert "takes 4 rows, " in capsys.readouterr().out
    some = Store.open(tmp_path / "some")
    assert set(some.subsets.values()) == {"train", "val"}
    boxes = some.case("000001_01_01_005").description.boxes
    assert boxes is not None
    assert len(boxes.boxes) == 2


def test_what_fails_is_listed_and_the_rest_goes_on(
    root: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = (root / "DL_info.csv").read_text().splitlines()
    table[3] = table[3].replace("11, 9, 20, 18", "20, 9, 11, 18")
    (root / "DL_info.csv").write_text("\n".join(table) + "\n")
    (root / "Images_png" / "000003_01_01" / "004.png").unlink()
    assert volattn("check", root) == 1
    assert "2 errors" in capsys.readouterr().out
    assert volattn("prepare", root, "-o", tmp_path / "store", "--recipe", recipe) == 1
    error = capsys.readouterr().err
    assert "2 of 3 cases failed" in error
    assert "DL_info.csv: row 4: " in error
    assert "000003_01_01: row 5: slice 4 of 3 to 8 is not there; unpack the archive again" in error
    assert Store.open(tmp_path / "store").names == ("000001_01_01_005",)


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However many key slices lie in it; in the order of the names."""
    scans = ("000003_01_01", "000001_01_01", "000002_01_01")
    write_folder(tmp_path / "dl", [row(scan, number) for scan in scans for number in (4, 6)])
    for scan in scans[:2]:
        shutil.rmtree(tmp_path / "dl" / "Images_png" / scan)
    assert volattn("check", tmp_path / "dl") == 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    assert [line.split(": ")[1].split("/")[-1] for line in said] == ["000001_01_01", "000003_01_01"]
    assert all(line.endswith("there is no such folder; unpack the archive that holds it") for line in said)


def test_nothing_can_be_done(root: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert volattn("prepare", root, "-o", store, "--recipe", recipe, "--subset", "exam") == 2
    assert "has no subset exam" in capsys.readouterr().err
    assert not store.exists()
    (root / "DL_info.csv").write_text("File_name\n")
    assert volattn("check", root) == 2
    assert "row 1: has no column" in capsys.readouterr().err


def test_phantoms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "phantoms"
    assert volattn("phantom", "--kind", "deeplesion", "-o", out, "--cases", "2", "--size", "64") == 0
    assert (out / "DL_info.csv").is_file()
    assert volattn("check", out) == 0
    assert volattn("phantom", "--kind", "mri", "-o", out) == 2
