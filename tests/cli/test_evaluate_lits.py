"""`volattn evaluate lits` from the outside: scores, pairs, bad files and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from commands import volattn

AFFINE = np.diag([0.8, 0.7, 2.5, 1.0])


def evaluate(*words: Path | str) -> int:
    """The exit code."""
    return volattn("evaluate", "lits", *words)


def write(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Writes labels (i, j, k) with nibabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(labels, affine).to_filename(path)
    return path


def label_map(*lesions: tuple[int, int]) -> np.ndarray:
    """A liver with lesions of 3 x 3 x 2 voxels from (i, j) on."""
    labels = np.zeros((30, 28, 6), np.uint8)
    labels[2:28, 2:26, 1:5] = 1
    for i, j in lesions:
        labels[i : i + 3, j : j + 3, 2:4] = 2
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases; the second misses one of two lesions."""
    for number, found in ((2, ((5, 5),)), (3, ((5, 5),)), (10, ((5, 5), (15, 15)))):
        lesions = ((5, 5), (15, 15)) if number != 2 else ((5, 5),)
        write(tmp_path / "reference" / f"segmentation-{number}.nii.gz", label_map(*lesions))
        write(tmp_path / "prediction" / f"case_{number:03}.nii.gz", label_map(*found))
    return tmp_path / "reference", tmp_path / "prediction"


@pytest.fixture
def run(folders: tuple[Path, Path], tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any] | None]]:
    """Scores the two folders: exit code and scores."""

    def run(*words: str) -> tuple[int, dict[str, Any] | None]:
        out = tmp_path / "out" / "scores.json"
        code = evaluate("--reference", folders[0], "--prediction", folders[1], "-o", out, *words)
        return code, json.loads(out.read_text()) if out.exists() else None

    return run


Run = Callable[..., tuple[int, dict[str, Any] | None]]


@pytest.mark.parametrize("mode", ["default", "strict"])
def test_scores(run: Run, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, scores = run(*(["--strict"] if mode == "strict" else []))
    assert code == 0
    assert scores is not None
    assert scores["kind"] == "lits"
    assert scores["settings"] == {"strict": mode == "strict", "liver": 1, "lesion": 2}
    assert [case["name"] for case in scores["cases"]] == [f"segmentation-{n}" for n in (2, 3, 10)]
    assert scores["per_case"]["lesion_dice"] == [1, pytest.approx(2 / 3), 1]
    assert scores["lesion_detection"]["recall"] == scores["by_size"]["small"]["recall"] == 0.8
    assert scores["counts"]["0.5"]["FN"] == 1
    assert scores["lesion"]["dice"] == scores["liver"]["surface_dice_2mm"] == 1
    assert scores["agreement"]["lesion_volume_ml"]["n"] == 4
    assert scores["failed"] == {}
    assert scores["bootstrap"] == {"over": "cases", "resamples": 1000, "level": 0.95, "seed": 0}
    low, high = scores["intervals"]["lesion"]["dice_per_case"]
    assert 2 / 3 <= low + 1e-9 <= scores["lesion"]["dice_per_case"] <= high <= 1
    assert "numpy" in scores["versions"]
    said = capsys.readouterr().out
    assert "4 of 5" in said
    assert "3 of 3 cases scored" in said
    assert "intervals by bootstrap over cases, seed 0" in said
    assert f"{low:.4f} to {high:.4f}" in said


def test_official_keys(run: Run, shared_data: Path) -> None:
    official = json.loads((shared_data / "lits_scoring" / "official_scores.json").read_text())
    _, scores = run()
    assert scores is not None
    for section, values in official.items():
        assert values.keys() <= scores[section].keys()


def test_single_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    reference, prediction = (
        folder / name for folder, name in zip(folders, ("segmentation-3.nii.gz", "case_010.nii.gz"), strict=True)
    )
    assert evaluate("--reference", reference, "--prediction", prediction, "-o", tmp_path / "s.json") == 0
    assert json.loads((tmp_path / "s.json").read_text())["per_case"]["lesion_dice"] == [1]


def test_lesion_only_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("r", "p"):
        write(tmp_path / kind / "a-1.nii.gz", (label_map((5, 5)) == 2).astype(np.uint8))
    words = ("--reference", tmp_path / "r", "--prediction", tmp_path / "p", "-o", tmp_path / "s.json")
    for options in (("--lesion", "1"), ("--lesion", "1", "--organ", "none"), ("--lesion", "1", "--organ", "0")):
        assert evaluate(*words, *options) == 0
        scores = json.loads((tmp_path / "s.json").read_text())
        assert (scores["liver"], scores["settings"]["liver"]) == (None, None)
        assert scores["lesion_detection"]["recall"] == 1
    assert evaluate(*words, "--lesion", "1", "--organ", "1") == 2
    assert "different whole numbers" in capsys.readouterr().err
    assert evaluate(*words, "--organ", "one") == 2


def test_no_liver_label_is_said(folders: tuple[Path, Path], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write(folders[1] / "case_002.nii.gz", np.where(label_map((5, 5)) == 2, 2, 0).astype(np.uint8))
    code, scores = run("--strict")
    assert code == 0
    assert scores is not None
    assert scores["per_case"]["liver_dice"][0] == 0
    assert "segmentation-2: no voxel of the prediction has the liver's label 1" in capsys.readouterr().err


class TestBadInput:
    """One line that names the file and the way out; the others are scored."""

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:-60]), "truncated"),
            (lambda path: path.write_bytes(b"not a volume"), "not a NIfTI file"),
            (lambda path: write(path, label_map().astype(np.float32) * 0.5), "nearest-neighbour"),
            (lambda path: write(path, np.full((30, 28, 6), np.nan, np.float32)), "not a whole number"),
            (lambda path: write(path, label_map() * 3), "label 3 is not one that is used"),
            (lambda path: write(path, label_map()[:-1]), "voxels, not"),
            (lambda path: write(path, label_map(), AFFINE + np.eye(4, k=3) * 0.1), "is shifted by 0.1 mm; if"),
        ],
        ids=["truncated", "no NIfTI", "fractional", "NaN", "label", "shape", "affine"],
    )
    def test_one_bad_file(
        self,
        folders: tuple[Path, Path],
        run: Run,
        spoil: Callable[[Path], object],
        said: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        bad = folders[1] / "case_003.nii.gz"
        spoil(bad)
        code, scores = run()
        assert code == 1
        assert scores is not None
        assert [case["name"] for case in scores["cases"]] == ["segmentation-2", "segmentation-10"]
        assert list(scores["failed"]) == ["segmentation-3"]
        lines = [line for line in capsys.readouterr().err.splitlines() if str(bad) in line]
        assert len(lines) == 1
        assert said in lines[0]

    def test_fail_fast(self, folders: tuple[Path, Path], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        (folders[1] / "case_003.nii.gz").write_bytes(b"")
        code, scores = run("--fail-fast")
        assert (code, scores) == (2, None)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("volattn:")]
        assert len(said) == 1
        assert "case_003.nii.gz: is empty" in said[0]

    def test_all_bad(self, folders: tuple[Path, Path], run: Run) -> None:
        for path in folders[1].iterdir():
            path.write_bytes(b"")
        assert run() == (2, None)

    def test_without_a_partner(self, folders: tuple[Path, Path], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        (folders[1] / "case_003.nii.gz").rename(folders[1] / "case_004.nii.gz")
        code, scores = run()
        assert code == 1
        assert scores is not None
        assert "no prediction" in scores["failed"]["segmentation-3"]
        assert scores["unused_predictions"] == ["case_004"]
        said = capsys.readouterr().err
        assert "segmentation-3.nii.gz: there is no prediction for it" in said
        assert "case_004.nii.gz: there is no reference for it" in said
        assert run("--fail-fast")[0] == 2

    def test_no_lesion_in_a_reference(
        self, folders: tuple[Path, Path], run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(folders[0] / "segmentation-2.nii.gz", label_map())
        code, scores = run()
        assert code == 0
        assert scores is not None
        assert scores["false_positives_per_case"] == pytest.approx(1 / 3)
        code, scores = run("--strict")
        assert code == 1
        assert scores is not None
        assert len(scores["cases"]) == 2
        assert "segmentation-2.nii.gz: the reference has no lesion" in capsys.readouterr().err

    def test_paths(self, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ("--reference", folders[0], "--prediction", folders[1])
        assert evaluate(*words, "-o", tmp_path) == 2
        assert "is a folder" in capsys.readouterr().err
        assert evaluate("--reference", tmp_path / "no", *words[2:], "-o", tmp_path / "s.json") == 2
        assert "does not exist" in capsys.readouterr().err
        (tmp_path / "file").touch()
        assert evaluate(*words, "-o", tmp_path / "s.json", "--report", tmp_path / "file") == 2
        assert "is a file; give a folder" in capsys.readouterr().err
        assert not (tmp_path / "s.json").exists()


def test_it_needs_no_torch(folders: tuple[Path, Path], tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "without = ('torch', 'torchvision', 'accelerate', 'matplotlib.pyplot')\n"
        "sys.modules.update(dict.fromkeys(without))\n"  # importing them fails
        "from volattn.cli.main import main\n"
        "main(sys.argv[1:])"
    )
    words = [
        "evaluate",
        "lits",
        "--reference",
        folders[0],
        "--prediction",
        folders[1],
        "-o",
        tmp_path / "s.json",
        "--report",
        tmp_path / "report",
    ]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "index.html").is_file()


@pytest.mark.parametrize("strict", [(), ("--strict",)])
@pytest.mark.parametrize(("unit", "factor"), [(1, 1e-3), (3, 1e3)])
def test_lengths_in_metres_and_micrometres_score_as_in_mm(
    unit: int, factor: float, strict: tuple[str, ...], tmp_path: Path
) -> None:
    found = []
    for code, scale in ((2, 1.0), (unit, factor)):
        folder = tmp_path / str(code)
        for name, labels in (("reference", label_map((5, 5))), ("prediction", label_map((6, 5)))):
            image = nibabel.Nifti1Image(np.roll(labels, name == "prediction", 0), np.diag([scale] * 3 + [1]) @ AFFINE)
            image.header["xyzt_units"] = code
            (folder / name).mkdir(parents=True)
            image.to_filename(folder / name / "segmentation-1.nii.gz")
        out = folder / "scores.json"
        words = ("--reference", folder / "reference", "--prediction", folder / "prediction", "-o", out)
        assert evaluate(*words, *strict) == 0
        found.append(json.loads(out.read_text())["liver"])
    assert found[0]["surface_dice_2mm"] > 0
    for key in ("assd", "rmsd", "msd", "surface_dice_2mm"):
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-5), key
