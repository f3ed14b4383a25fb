"""The check finds every fault in one pass, says which file, and what to do."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from volattn.datasets.case import Case, Dataset
from volattn.datasets.check import Issue, check_case, check_dataset
from volattn.datasets.lits import SCHEME
from volattn.datasets.open import open_dataset
from volattn.io.readers import read_volume, write_volume
from volattn.structures.geometry import Geometry, Turn
from volattn.structures.volume import Volume

WriteCase = Callable[..., tuple[Path, Path]]


@pytest.fixture
def pair(write_lits_case: WriteCase) -> Case:
    image, labels = write_lits_case(1, suffix=".nii")
    return Case("volume-1", image, labels)


def check(case: Case, force: bool = False) -> list[Issue]:
    return check_case(case, SCHEME, force)


def only(case: Case, severity: str, reason: str, file: Path | None = None, force: bool = False) -> None:
    """Exactly one issue, of this kind, in this file, on one line."""
    issues = check(case, force)
    assert [issue.severity for issue in issues] == [severity], issues
    (issue,) = issues
    assert reason in issue.message
    assert issue.file == (file or case.image)
    assert ";" in issue.message, "what is wrong, and then what to do"
    assert str(issue) == f"{severity}: {issue.file}: {issue.message}"
    assert "\n" not in str(issue)


def change(path: Path, edit: Callable[[np.ndarray], np.ndarray], geometry: Geometry | None = None) -> None:
    volume = read_volume(path)
    array = edit(volume.array.copy())
    header = volume.header if geometry is None else None
    write_volume(path, Volume(array, geometry or volume.geometry, header=header))


def patch(path: Path, offset: int, value: float, kind: str = "<f4") -> None:
    raw = bytearray(path.read_bytes())
    content = np.array(value, kind).tobytes()
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)


def test_a_good_case_has_no_issues(pair: Case) -> None:
    assert check(pair) == []


def test_real_case(shared_data: Path) -> None:
    """LiTS case 44 is sound but for its header, which swaps left and right."""
    (issue,) = check_dataset(open_dataset(shared_data / "lits"))
    assert issue.severity == "note"
    assert "to the patient's left" in issue.message


def test_missing_files(pair: Case) -> None:
    assert pair.labels is not None
    only(replace(pair, annotation=None), "error", "no label map")
    missing = pair.labels.with_name("segmentation-9.nii")
    only(replace(pair, annotation=missing), "error", "does not exist", missing)
    gone = pair.image.with_name("volume-9.nii")
    only(replace(pair, image=gone), "error", "does not exist", gone)


@pytest.mark.parametrize("which", ["image", "labels"])
def test_truncated_gzip_is_found_to_its_last_byte(which: str, write_lits_case: WriteCase) -> None:
    image, labels = write_lits_case(1)
    path = image if which == "image" else labels
    path.write_bytes(path.read_bytes()[:-3])
    only(Case("volume-1", image, labels), "error", "truncated", path)


def test_shapes_that_disagree(pair: Case) -> None:
    assert pair.labels is not None
    change(pair.labels, lambda a: a[:-1], Geometry.aligned((11, 24, 28), (2.0, 0.8, 0.8)))
    only(pair, "error", "has 28 x 24 x 11 voxels, not 28 x 24 x 12", pair.labels)


@pytest.mark.parametrize(("shift", "fault"), [(0.07, False), (0.1, True), (9.0, True)])
def test_affines_that_disagree(shift: float, fault: bool, pair: Case) -> None:
    assert pair.labels is not None
    geometry = Geometry.aligned((12, 24, 28), (2.0, 0.8, 0.8), (shift, 0.0, 0.0))
    change(pair.labels, lambda a: a, geometry)
    if fault:
        only(pair, "error", f"is shifted by {shift:.3g} mm", pair.labels)
    else:
        assert check(pair) == []


def test_mirrored_labels_disagree(pair: Case) -> None:
    assert pair.labels is not None
    affine = Geometry.aligned((12, 24, 28), (2.0, 0.8, 0.8)).affine.copy()
    affine[0, 2] *= -1
    change(pair.labels, lambda a: a, Geometry((12, 24, 28), affine))
    only(pair, "error", "mirrored along x (43.2 mm at the farthest corner); if its voxels", pair.labels)


def test_unknown_labels(pair: Case) -> None:
    assert pair.labels is not None
    change(pair.labels, lambda a: np.where(a == 1, 7, a))
    only(pair, "error", "label 7 is not one that is used (0 background, 1 liver, 2 lesion)", pair.labels)


def test_fractional_labels(pair: Case) -> None:
    assert pair.labels is not None
    change(pair.labels, lambda a: a.astype(np.float32) * 0.5)
    only(pair, "error", "label 0.5", pair.labels)


def test_whole_numbered_float_labels_are_fine(pair: Case) -> None:
    assert pair.labels is not None
    change(pair.labels, lambda a: a.astype(np.float32))
    assert check(pair) == []


def test_nan_voxels(pair: Case) -> None:
    def spoil(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        array[5] = math.nan
        return array

    change(pair.image, spoil)
    only(pair, "error", "672 of its 8064 voxels are NaN")


def test_all_nan_voxels(pair: Case) -> None:
    change(pair.image, lambda a: np.full(a.shape, math.nan, np.float32))
    only(pair, "error", "8064 of its 8064 voxels are NaN")


def test_nan_affine(pair: Case) -> None:
    patch(pair.image, 280, math.nan)
    only(pair, "error", "NaN")


@pytest.mark.parametrize("spacing", [0.0, -0.8])
def test_zero_or_negative_spacing(spacing: float, pair: Case) -> None:
    patch(pair.image, 80, spacing)
    only(pair, "error", "spacing is")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda a: np.clip(a, -200, 300), "as after a window"),
        (lambda a: a + 1024, "intercept"),
        (lambda a: np.where(a > -500, 400, a), "no soft tissue"),
        (lambda a: (a + 1000) / np.float32(1300), "no air"),
        (lambda a: np.zeros_like(a), "all its voxels are 0"),
    ],
    ids=["windowed", "no intercept", "bone only", "normalised", "empty"],
)
def test_values_that_are_no_cts(edit: Callable, reason: str, pair: Case) -> None:
    change(pair.image, edit)
    only(pair, "error", reason)
    only(pair, "note", "taken as it is (--force)", force=True)


def test_no_lesion_is_a_note(pair: Case) -> None:
    assert pair.labels is not None
    change(pair.labels, lambda a: np.minimum(a, 1))
    only(pair, "note", "no lesion", pair.labels)


@pytest.mark.parametrize(
    ("spacing", "reason"),
    [
        ((2.0, 0.8, 0.9), "differs between x and y"),
        ((2.0, 3.0, 3.0), "unusual"),
        ((0.1, 0.8, 0.8), "unusual"),
        ((20.0, 0.8, 0.8), "unusual"),
    ],
)
def test_odd_spacing_is_a_note(spacing: tuple, reason: str, write_lits_case: WriteCase) -> None:
    only(Case("volume-1", *write_lits_case(1, spacing=spacing)), "note", reason)


def test_pixdim_that_contradicts_the_affine_is_a_note(pair: Case) -> None:
    patch(pair.image, 88, 5.0)
    patch(pair.image, 252, 0, "<i2")  # no qform, which takes its spacing from pixdim
    only(pair, "note", "stated spacing is 0.8 x 0.8 x 5 mm")


@pytest.mark.parametrize("turn", [Turn(), Turn((2, 0, 1), (True, False, True))])
@pytest.mark.parametrize(("side", "noted"), [(slice(44, 56), True), (slice(4, 16), False)], ids=["left", "right"])
def test_a_liver_on_the_left_is_a_note(
    side: slice, noted: bool, turn: Turn, tmp_path: Path, make_volume: Callable[..., Volume]
) -> None:
    volume = make_volume((12, 60, 60))
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[2:10, 20:40, side] = 1
    labels[4, 30, side.start] = 2
    geometry = volume.geometry.turned(turn)
    case = Case("a", tmp_path / "a.nii", tmp_path / "b.nii")
    write_volume(tmp_path / "a.nii", Volume(turn.apply(volume.array), geometry))
    write_volume(tmp_path / "b.nii", Volume(turn.apply(labels), geometry))
    if noted:
        only(case, "note", "16 mm to the patient's left")
    else:
        assert check(case) == []


def test_a_header_without_orientation_is_a_note(pair: Case) -> None:
    assert pair.labels is not None
    for path in (pair.image, pair.labels):
        patch(path, 252, 0, "<i4")  # qform_code and sform_code
    issues = check(pair)
    assert [(issue.severity, issue.file) for issue in issues] == [("note", pair.image), ("note", pair.labels)]
    assert all("nothing of its orientation" in issue.message for issue in issues)


def test_a_tilted_gantry_and_few_slices_are_notes(tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
    affine = Geometry.aligned((3, 24, 28), (2.0, 0.8, 0.8)).affine.copy()
    affine[1, 0] = 0.5
    volume = make_volume((3, 24, 28), affine=affine)
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[1, 12, 14] = 2
    write_volume(tmp_path / "a.nii", volume)
    write_volume(tmp_path / "b.nii", Volume(labels, volume.geometry))
    issues = check(Case("a", tmp_path / "a.nii", tmp_path / "b.nii"))
    assert [issue.severity for issue in issues] == ["note", "note"]
    assert "perpendicular" in issues[0].message
    assert "3 axial slices" in issues[1].message


def test_all_faults_of_all_cases_in_one_pass(write_lits_case: WriteCase) -> None:
    good, _ = write_lits_case(0)
    image, labels = write_lits_case(1, suffix=".nii")
    patch(image, 80, -0.8)
    write_volume(labels, Volume(np.full((9, 9, 9), 5, np.uint8), Geometry.aligned((9, 9, 9), (1, 1, 1))))
    _, lone = write_lits_case(2)
    (lone.parent / "volume-2.nii.gz").write_bytes(b"")
    seen: list[tuple[str, int, int]] = []
    issues = check_dataset(open_dataset(good.parent), progress=lambda *step: seen.append(step))
    assert seen == [("check", 1, 3), ("check", 2, 3), ("check", 3, 3)]
    faults = [(issue.case, issue.file.name, issue.severity) for issue in issues]
    assert faults == [
        ("volume-1", "volume-1.nii", "error"),  # spacing
        ("volume-1", "segmentation-1.nii", "error"),  # label 5
        ("volume-1", "segmentation-1.nii", "note"),  # no lesion
        ("volume-1", "segmentation-1.nii", "error"),  # another shape
        ("volume-2", "volume-2.nii.gz", "error"),  # empty
    ]
    assert len({str(issue) for issue in issues}) == len(issues)


def test_nothing_is_written(write_lits_case: WriteCase) -> None:
    image, _ = write_lits_case(0)
    before = {path: path.read_bytes() for path in image.parent.iterdir()}
    check_dataset(open_dataset(image.parent))
    assert {path: path.read_bytes() for path in image.parent.iterdir()} == before


def test_cases_that_the_description_promises(pair: Case) -> None:
    dataset = Dataset("set", pair.image.parent, (pair,), SCHEME, expected=4)
    (issue,) = check_dataset(dataset)
    assert (issue.severity, issue.case, issue.file.name) == ("error", "", "dataset.json")
    assert "4 training cases (numTraining), found 1" in issue.message
    assert check_dataset(replace(dataset, expected=1)) == []


def test_lesion_only_data(tmp_path: Path, write_lits_case: WriteCase, write_description) -> None:
    root = write_description(labels={"background": 0, "lung nodule": 1}, channel_names={"0": "CT"})
    labels = np.zeros((12, 24, 28), np.uint8)
    labels[4:6, 8:11, 9:12] = 1
    image, segmentation = write_lits_case(0, labels=labels)
    for source, target in ((image, "imagesTr/a_0000.nii.gz"), (segmentation, "labelsTr/a.nii.gz")):
        (root / target).parent.mkdir()
        shutil.move(source, root / target)
    dataset = open_dataset(root)
    assert dataset.scheme.classes == ("lung nodule",)
    assert check_dataset(dataset) == []
