"""Phantom cohorts on disk: LiTS's layout, the same bytes for the same seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from volattn.datasets.check import check_dataset
from volattn.datasets.open import open_dataset
from volattn.io.output import LOCK
from volattn.phantoms import make_phantom, write_phantoms
from volattn.phantoms.write import MANIFEST

SIZE = 48


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_phantoms(folder, 2, 5, size=SIZE)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in (LOCK, MANIFEST)}


def test_same_seed_same_bytes_whatever_the_folder_and_the_workers(cohort: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    write_phantoms(tmp_path / "again", 2, 5, size=SIZE, workers=2, progress=lambda *event: told.append(event))
    assert _contents(tmp_path / "again") == _contents(cohort)
    assert told == [("phantom", 0, 2), ("phantom", 1, 2), ("phantom", 2, 2)]


def test_a_cohort_can_be_made_in_parts(cohort: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path, 1, 5, size=SIZE, first=1)
    assert {name.split(".")[0] for name in _contents(tmp_path)} == {"volume-1", "segmentation-1", "truth-1"}
    assert (tmp_path / "volume-1.nii.gz").read_bytes() == (cohort / "volume-1.nii.gz").read_bytes()


def test_nibabel_reads_what_was_made(cohort: Path) -> None:
    phantom = make_phantom(5, 1, SIZE)
    image = nibabel.load(cohort / "volume-1.nii.gz")
    labels = nibabel.load(cohort / "segmentation-1.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert labels.get_data_dtype() == np.uint8
    # NIfTI's world is R-A-S: columns that run to the left and rows that run to the back descend in it.
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_array_equal(image.affine, labels.affine)
    np.testing.assert_allclose(image.header.get_zooms(), phantom.spacing[::-1], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), phantom.image)
    np.testing.assert_array_equal(np.asarray(labels.dataobj).transpose(2, 1, 0), phantom.labels)


def test_the_truth_lists_lesions_and_distractors(cohort: Path) -> None:
    phantom = make_phantom(5, 0, SIZE)
    truth = json.loads((cohort / "truth-0.json").read_text())
    assert (truth["seed"], truth["index"], truth["size"]) == (5, 0, SIZE)
    assert truth["spacing_mm_zyx"] == list(phantom.spacing)
    kinds = [structure.kind for structure in phantom.structures]
    assert [entry["kind"] for entry in truth["lesions"]] == ["lesion"] * kinds.count("lesion")
    assert len(truth["distractors"]) == len(kinds) - kinds.count("lesion")
    assert all(entry["kind"] != "lesion" for entry in truth["distractors"])


def test_opens_as_a_data_set_without_a_fault(cohort: Path) -> None:
    dataset = open_dataset(cohort)
    assert [case.name for case in dataset.cases] == ["volume-0", "volume-1"]
    faults = [issue for issue in check_dataset(dataset) if issue.severity == "error"]
    assert faults == []


@pytest.mark.parametrize("loss", ["missing", "damaged"])
def test_what_is_whole_is_left_and_what_is_not_is_made_again(cohort: Path, tmp_path: Path, loss: str) -> None:
    folder = shutil.copytree(cohort, tmp_path / "cohort")
    kept, lost = folder / "volume-0.nii.gz", folder / "volume-1.nii.gz"
    before = kept.stat().st_mtime_ns
    lost.unlink() if loss == "missing" else lost.write_bytes(lost.read_bytes()[:-1])
    with pytest.raises(ValueError, match="already holds a phantom cohort; continue it with --resume"):
        write_phantoms(folder, 2, 5, size=SIZE, resume=False)
    write_phantoms(folder, 2, 5, size=SIZE)
    assert kept.stat().st_mtime_ns == before
    assert _contents(folder) == _contents(cohort)


def test_no_cases_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 0"):
        write_phantoms(tmp_path / "none", 0, 0)
    assert not (tmp_path / "none").exists()
