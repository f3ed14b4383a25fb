"""`volattn render` from the outside."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from volattn.cli.main import main
from volattn.io.readers import read_labels, write_labels, write_volume
from volattn.report.surfaces import check_rendering
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

SHAPE = (14, 60, 72)
MakeVolume = Callable[..., Volume]


@pytest.fixture
def _can_render() -> None:
    pytest.importorskip("pyvista")
    try:
        check_rendering()
    except ValueError as error:
        pytest.skip(str(error))


needs_rendering = pytest.mark.usefixtures("_can_render")


def volattn(*words: Path | str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def label_map(*lesions: tuple[int, int, int], organ: int = 1, lesion: int = 2) -> np.ndarray:
    """An organ with lesions of 2 x 4 x 4 voxels at some places."""
    found = np.zeros(SHAPE, np.uint8)
    found[2:12, 10:50, 8:60] = organ
    for z, y, x in lesions:
        found[z : z + 2, y : y + 4, x : x + 4] = lesion
    return found


A, B, C = (4, 16, 14), (4, 30, 40), (8, 40, 30)


@pytest.fixture
def case(tmp_path: Path, make_volume: MakeVolume) -> Callable[[str, np.ndarray], Path]:
    """Writes a CT as `ct.nii.gz`, and label maps beside it."""
    volume = make_volume(SHAPE, (3.0, 1.5, 1.5))
    write_volume(tmp_path / "ct.nii.gz", volume)

    def write(name: str, labels: np.ndarray) -> Path:
        write_labels(tmp_path / name, labels, volume)
        return tmp_path / name

    return write


Write = Callable[[str, np.ndarray], Path]


@needs_rendering
def test_a_picture_of_all(tmp_path: Path, case: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Its counts are those of `evaluate lits`; it is whole, and nothing else is left behind."""
    a, b = case("a.nii.gz", label_map(A, C)), case("b.nii.gz", label_map(A, B))
    reference, out = case("r.nii.gz", label_map(A, B)), tmp_path / "out" / "picture.png"
    words = ("-i", tmp_path / "ct.nii.gz", "-l", a, b, "-r", reference, "-o", out, "--name", "plain", "--name", "VA")
    assert volattn("render", *words) == 0
    printed = capsys.readouterr().out
    row = re.search(r"^plain +2 +\S+ +(\d) +(\d) +(\d)", printed, re.MULTILINE)
    assert row is not None
    scores = tmp_path / "scores.json"
    assert volattn("evaluate", "lits", "--reference", reference, "--prediction", a, "-o", scores) == 0
    counts = json.loads(scores.read_text())["cases"][0]["counts"]["0"]
    assert [int(part) for part in row.groups()] == [counts["TP"], counts["FN"], counts["FP"]] == [1, 1, 1]
    with Image.open(out) as picture:
        picture.verify()
    assert [path.name for path in out.parent.iterdir()] == ["picture.png"]


@needs_rendering
def test_a_page_needs_nothing_from_elsewhere(tmp_path: Path, case: Write) -> None:
    out = tmp_path / "page.html"
    labels = case("a.nii.gz", label_map(A))
    assert volattn("render", "-i", tmp_path / "ct.nii.gz", "-l", labels, "-o", out) == 0
    page = out.read_text()
    assert page.count("<img ") == 2
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert str(tmp_path) not in page


def test_slices_alone_need_no_pyvista(tmp_path: Path, case: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvista", None)
    labels, out = case("a.nii.gz", label_map(A)), tmp_path / "a.png"
    words = ("-i", tmp_path / "ct.nii.gz", "-l", labels, "-o", out)
    assert volattn("render", *words) == 2
    assert not out.exists()
    assert volattn("render", *words, "--kind", "panels") == 0
    assert out.exists()


@needs_rendering
def test_surfaces_alone_need_no_ct(tmp_path: Path, case: Write, capsys: pytest.CaptureFixture[str]) -> None:
    labels = case("a.nii.gz", label_map(A))
    assert volattn("render", "-l", labels, "-o", tmp_path / "a.png", "--view", "top") == 0
    assert volattn("render", "-l", labels, "-o", tmp_path / "a.png", "--kind", "panels") == 2
    assert "give it with -i" in capsys.readouterr().err


def test_other_labels(tmp_path: Path, case: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Organ 5 and lesion 7 beside a label that is neither; masks of lesions only."""
    several = label_map(A, organ=5, lesion=7)
    several[0] = 3
    words = ("-i", tmp_path / "ct.nii.gz", "-o", tmp_path / "a.png", "--kind", "panels", "-l")
    assert volattn("render", *words, case("a.nii.gz", several), "--organ", "5", "--lesion", "7") == 0
    printed = capsys.readouterr()
    assert "label 3 is neither" in printed.err
    assert re.search(r"^a +1 ", printed.out, re.MULTILINE)
    only = (label_map(A, B) == 2).astype(np.uint8)
    assert volattn("render", *words, case("b.nii.gz", only), "--lesion", "1") == 0
    printed = capsys.readouterr()
    assert re.search(r"^b +2 ", printed.out, re.MULTILINE)
    assert "Organ" not in printed.out


@needs_rendering
@pytest.mark.parametrize(("found", "wanted"), [((), ()), ((A,), ()), ((), (A,))])
def test_nothing_found_or_nothing_there(
    tmp_path: Path, case: Write, found: tuple[tuple[int, int, int], ...], wanted: tuple[tuple[int, int, int], ...]
) -> None:
    labels = case("a.nii.gz", label_map(*found) if found else np.zeros(SHAPE, np.uint8))
    reference = case("r.nii.gz", label_map(*wanted) if wanted else np.zeros(SHAPE, np.uint8))
    words = ("-i", tmp_path / "ct.nii.gz", "-l", labels, "-r", reference, "-o", tmp_path / "a.png")
    # Surfaces of nothing at all are the hardest.
    assert volattn("render", *words, "--kind", "panels" if found or wanted else "all") == 0


def test_files_in_other_axes_are_one_case(
    tmp_path: Path, make_volume: MakeVolume, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CT and its labels in axes that run to the right, front and feet give the very picture of the canonical ones."""
    pictures = []
    labels = label_map(A, B)
    for name, flip in (("plain", False), ("turned", True)):
        (tmp_path / name).mkdir()
        volume = make_volume(SHAPE, (3.0, 1.5, 1.5), seed=3)
        array, geometry, numbers = volume.array, volume.geometry, labels
        if flip:
            affine = geometry.affine.copy()
            affine[:3, 3] = geometry.to_world(np.array([[size - 1 for size in SHAPE]]))[0]
            affine[:3, :3] *= -1
            array, numbers = array[::-1, ::-1, ::-1].copy(), labels[::-1, ::-1, ::-1].copy()
            geometry = Geometry(SHAPE, affine)
        written = Volume(array, geometry, "ct")
        image, segmentation, out = (tmp_path / name / file for file in ("ct.nii.gz", "s.nii.gz", "o.png"))
        write_volume(image, written)
        write_labels(segmentation, numbers, written)
        assert volattn("render", "-i", image, "-l", segmentation, "-o", out, "--kind", "panels") == 0
        with Image.open(out) as picture:
            pictures.append(np.asarray(picture))
    assert np.array_equal(*pictures)


def test_what_is_refused(
    tmp_path: Path, case: Write, make_volume: MakeVolume, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, exit code 2, no file."""
    labels, ct = case("a.nii.gz", label_map(A)), tmp_path / "ct.nii.gz"
    shifted = tmp_path / "shifted.nii.gz"
    affine = read_labels(labels).geometry.affine.copy()
    affine[0, 3] += 2
    write_labels(shifted, label_map(A), Volume(np.zeros(SHAPE, np.int16), Geometry(SHAPE, affine)))
    out, slices = tmp_path / "out.png", ("--kind", "panels")
    for words, said in (
        (("-i", ct, "-l", labels, "-o", tmp_path / "out.jpg"), "neither .png nor .html"),
        (("-i", ct, "-l", labels, "-o", tmp_path), "neither .png nor .html"),
        (("-i", ct, "-l", labels, shifted, "-o", out, *slices), "it is shifted by 2 mm; if its voxels"),
        (("-i", ct, "-l", labels, "-r", shifted, "-o", out, *slices), "it is shifted by 2 mm; if its voxels"),
        (("-i", ct, "-i", ct, "-l", labels, "-o", out, *slices), "second CT"),
        (("-i", ct, "-l", tmp_path / "none.nii.gz", "-o", out, *slices), "none.nii.gz"),
        (("-i", ct, "-l", labels, "-o", out, *slices, "--lesion", "300"), "1 to 255"),
        (("-i", ct, "-l", labels, "-o", out, *slices, "--organ", "liver"), "--organ liver"),
        (("-i", ct, "-l", labels, "-o", out, *slices, "--name", "x", "--name", "y"), "1 label map and 2 names"),
        (("-i", ct, "-l", labels, labels, "-o", out, *slices, "--name", "x", "--name", "x"), "not all different"),
    ):
        assert volattn("render", *words) == 2, said
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("volattn: ")
        assert said in error
    assert not list(tmp_path.glob("*out*"))


def test_names_of_columns(tmp_path: Path, case: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of one name in two folders go by their folders."""
    for folder in ("plain", "attention"):
        (tmp_path / folder).mkdir()
    first, second = (case(f"{folder}/ct.nii.gz", label_map(A)) for folder in ("plain", "attention"))
    words = ("-i", tmp_path / "ct.nii.gz", "-l", first, second, "-o", tmp_path / "a.png", "--kind", "panels")
    assert volattn("render", *words) == 0
    assert re.findall(r"^(plain|attention) ", capsys.readouterr().out, re.MULTILINE) == ["plain", "attention"]
