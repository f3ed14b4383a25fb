"""Label maps that lost their geometry: every verb offers `--trust-grid`, which gives what right headers do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from commands import volattn

from volattn.structures.volume import Volume

LPS = np.diag([-0.8, -0.8, 2.0, 1.0])
SHAPE = (8, 48, 52)  # z, y, x
MIRRORED = LPS @ np.array([[-1.0, 0, 0, SHAPE[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SHIFTED = LPS.copy()
SHIFTED[:3, 3] = (40, -15, 3)
LOST = {"identity": np.eye(4), "spacing only": np.diag([0.8, 0.8, 2, 1]), "mirrored": MIRRORED, "shifted": SHIFTED}


def save(path: Path, array: np.ndarray, affine: np.ndarray = LPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array.T, affine).to_filename(path)


def scores(out: Path) -> Any:
    content = json.loads(out.read_text())
    return {key: value for key, value in content.items() if key not in ("notes", "command", "settings")}


VERBS: dict[str, tuple[Callable[[Path, Path], list[Path | str]], Callable[[Path], Any]]] = {
    "check": (lambda case, out: ["check", case / "lits"], lambda out: None),
    "prepare": (
        lambda case, out: ["prepare", case / "lits", "-o", out, "--recipe", "tiny"],
        lambda out: next(out.glob("**/labels*")).read_bytes(),
    ),
    "evaluate lits": (
        lambda case, out: [
            *("evaluate", "lits", "--reference", case / "right", "-o", out),
            *("--prediction", case / "lits" / "segmentation-3.nii.gz"),
        ],
        scores,
    ),
    "evaluate detection": (
        lambda case, out: [
            *("evaluate", "detection", "--reference", case / "right", "-o", out),
            *("--prediction", case / "labels", "--lesion", "2", "--predicted-lesion", "2"),
        ],
        scores,
    ),
    "render": (
        lambda case, out: [
            *("render", "-i", case / "lits" / "volume-3.nii.gz", "-l", case / "lits" / "segmentation-3.nii.gz"),
            *("-o", out.with_suffix(".png"), "--kind", "panels"),
        ],
        lambda out: out.with_suffix(".png").read_bytes(),
    ),
    "predict": (
        lambda case, out: [
            *("predict", "-m", "demo", "-i", case / "lits" / "volume-3.nii.gz", "-o", out),
            *("--reference", case / "labels", "--device", "cpu"),
        ],
        lambda out: (out / "volume-3.png").read_bytes(),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", LOST)
def test_lost_geometry(
    verb: str, kind: str, tmp_path: Path, make_volume: Callable[..., Volume], capsys: pytest.CaptureFixture[str]
) -> None:
    if kind != "identity" and verb == "predict":
        pytest.skip("the other verbs show it sooner")
    words, result = VERBS[verb]
    hu = make_volume(SHAPE).array
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:7, 14:34, 16:30] = 1
    labels[3:5, 18:24, 18:24] = 2
    results = {}
    for name in ("right", "refused", "taken"):
        affine = LPS if name == "right" else LOST[kind]
        case, out = tmp_path / name, tmp_path / name / "out.json"
        save(case / "lits" / "volume-3.nii.gz", hu)
        save(case / "lits" / "segmentation-3.nii.gz", labels, affine)
        save(case / "labels" / "segmentation-3.nii.gz", labels, affine)
        save(case / "right" / "segmentation-3.nii.gz", labels)
        code = volattn(*words(case, out), *(["--trust-grid"] if name == "taken" else []))
        said = "".join(capsys.readouterr())
        if name == "refused":
            assert "is not on the grid of" in said
            assert "if its voxels lie as the other's do, say --trust-grid" in said
            assert kind == "identity" or "identity" not in said
            assert "resample" not in said or kind == "shifted"
            assert code == (0 if verb == "predict" else 1 if verb == "check" else 2), said
        else:
            assert code == 0, said
            assert ("taken as they lie (--trust-grid)" in said) == (name == "taken")
            results[name] = result(out)
    assert results["taken"] == results["right"]
