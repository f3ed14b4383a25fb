"""DeepLesion's layout: the same contract as every reader's, boxes of its own, and every fault named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_deeplesion import SHAPE, row, write_folder

from volattn.datasets.case import Reading
from volattn.datasets.check import check_dataset
from volattn.datasets.deeplesion import as_published, half_open, read_dl_info, write_dl_info
from volattn.datasets.open import open_dataset
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset

SCAN = "000001_01_01"
OTHER = "000012_01_02"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three key slices of two patients, one of them with two lesions."""
    write_folder(
        tmp_path / "dl",
        [
            row(OTHER, 30, slices=(28, 33), spacing=1, Train_Val_Test="3"),
            row(SCAN, 5, Train_Val_Test="2"),
            row(SCAN, 10, (5, 6, 9.5, 12), slices=(8, 12)),
            row(SCAN, 10, (20.5, 21, 30, 30), slices=(8, 12), Lesion_diameters_Pixel_="20, 9"),
        ],
    )
    return tmp_path / "dl"


def test_a_case_is_a_key_slice_in_natural_order(root: Path) -> None:
    dataset = open_dataset(root)
    assert [case.name for case in dataset.cases] == [f"{SCAN}_005", f"{SCAN}_010", f"{OTHER}_030"]
    assert [case.subset for case in dataset.cases] == ["val", "train", "test"]
    assert [case.patient for case in dataset.cases] == ["1", "1", "12"]
    assert all(case.labels is None and case.annotation is not None for case in dataset.cases)
    assert dataset.scheme.classes == ("lesion",)
    assert dataset.name == "dl"
    assert open_dataset(root / "DL_info.csv") == dataset


def test_two_rows_of_one_slice_are_two_boxes(root: Path) -> None:
    key_slice = open_dataset(root).cases[1].key_slice
    assert key_slice is not None
    assert key_slice.boxes == ((4, 5, 9.5, 12), (19.5, 20, 30, 30))
    assert key_slice.long_axes_mm == (8, 16)
    assert key_slice.rows == (4, 5)


def test_the_array_runs_to_the_head_from_the_highest_number(root: Path) -> None:
    written = write_folder(root, [row(SCAN, 5, slices=(3, 8))])
    (case,) = open_dataset(root).cases
    assert case.key_slice is not None
    volume = case.key_slice.read(case.name)
    assert volume.array.dtype == np.int16
    for z, number in enumerate(range(8, 2, -1)):
        np.testing.assert_array_equal(volume.array[z], written[case.image / f"{number:03d}.png"])
    np.testing.assert_array_equal(volume.array[case.key_slice.z], written[case.key_slice.files[case.key_slice.z]])
    assert volume.geometry.turn().is_identity
    assert volume.geometry.spacing == pytest.approx((5.0, 0.8, 0.8))


def test_parts_of_one_scan_lie_where_they_are_to_each_other(root: Path) -> None:
    first, second, _ = (case.key_slice for case in open_dataset(root).cases)
    assert first is not None
    assert second is not None
    shared = [key.geometry.to_world(np.array([[key.last - 8, 0, 0]])) for key in (first, second)]
    np.testing.assert_allclose(shared[0], shared[1])  # Slice 8 is in both.


corners = st.floats(0.5, 900, allow_nan=False)


@given(st.tuples(corners, corners, corners, corners))
def test_boxes_go_to_ours_and_back(box: tuple[float, float, float, float]) -> None:
    assert as_published(half_open(box)) == pytest.approx(box, abs=1e-9)


def test_a_box_of_one_pixel_has_its_area() -> None:
    assert half_open((7, 9, 7, 9)) == (6, 8, 7, 9)


def test_the_order_of_rows_does_not_matter(root: Path) -> None:
    before = open_dataset(root)
    table = (root / "DL_info.csv").read_text().splitlines()
    (root / "DL_info.csv").write_text("\n".join([table[0], table[2], table[1], *table[3:]]) + "\n")
    assert open_dataset(root).cases == before.cases


def test_doubtful_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row(SCAN, 5), row(SCAN, 5, (5, 5, 9, 9), Possibly_noisy="1"), row(OTHER, 5, Possibly_noisy="1")]
    write_folder(tmp_path, rows)
    plain, kept = open_dataset(tmp_path), open_dataset(tmp_path, Reading(keep_noisy=True))
    assert [(case.name, len(case.key_slice.boxes)) for case in plain.cases if case.key_slice] == [(f"{SCAN}_005", 1)]
    assert [(case.name, len(case.key_slice.boxes)) for case in kept.cases if case.key_slice] == [
        (f"{SCAN}_005", 2),
        (f"{OTHER}_005", 1),
    ]
    (note,) = check_dataset(plain)
    assert note.severity == "note"
    assert "takes 1 row and leaves out 2 marked Possibly_noisy" in note.message
    (note,) = check_dataset(kept)
    assert "takes 3 rows, 2 of them marked Possibly_noisy" in note.message


def test_subsets_can_be_chosen(root: Path) -> None:
    dataset = open_dataset(root)
    assert [case.subset for case in dataset.only(("train", "val")).cases] == ["val", "train"]
    assert dataset.only(()) == dataset
    with pytest.raises(ValueError, match="has no subset exam; give --subset with any of test,train,val"):
        dataset.only(("exam",))


def test_all_is_well(root: Path) -> None:
    assert check_dataset(open_dataset(root)) == []


def _png_of_8_bits(path: Path) -> None:
    Image.new("L", (SHAPE[1], SHAPE[0])).save(path)


def _png_of_another_size(path: Path) -> None:
    Image.fromarray(np.full((10, 11), 32800, np.uint16)).save(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_png_of_8_bits, "has 8 bits"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "truncated or damaged"),
        (lambda path: path.write_bytes(b"hello"), "is not a PNG"),
        (_png_of_another_size, "is 11 x 10 pixels where DL_info.csv says 48 x 40"),
    ],
)
@pytest.mark.parametrize("number", [5, 7], ids=["key slice", "neighbour"])
def test_bad_images(spoil: Callable[[Path], None], reason: str, number: int, root: Path) -> None:
    path = root / "Images_png" / SCAN / f"{number:03d}.png"
    spoil(path)
    (issue,) = check_dataset(open_dataset(root))
    assert (issue.case, issue.file, issue.severity) == (f"{SCAN}_005", path, "error")
    assert "row 3: " in issue.message
    assert reason in issue.message
    assert ";" in issue.message, "what is wrong, and then what to do"
    assert "\n" not in str(issue)
    outcome = prepare_dataset(open_dataset(root), Plan(size=64), root / "store")
    assert outcome.store.names == (f"{SCAN}_010", f"{OTHER}_030")
    assert reason in outcome.failed[f"{SCAN}_005"]
    assert str(path) in outcome.failed[f"{SCAN}_005"]


def test_missing_slices_and_folders(root: Path) -> None:
    folder = root / "Images_png" / SCAN
    for number in (3, 4, 7):
        (folder / f"{number:03d}.png").unlink()
    for path in (root / "Images_png" / OTHER).iterdir():
        path.unlink()
    (root / "Images_png" / OTHER).rmdir()
    first, second = check_dataset(open_dataset(root))
    assert str(first) == (f"error: {folder}: row 3: slices 3-4, 7 of 3 to 8 are not there; unpack the archive again")
    assert str(second) == (
        f"error: {root / 'Images_png' / OTHER}: there is no such folder; unpack the archive that holds it"
    )
    outcome = prepare_dataset(open_dataset(root), Plan(size=64), root / "store")
    assert outcome.store.names == (f"{SCAN}_010",)
    assert "row 3: slices 3-4, 7 of 3 to 8" in outcome.failed[f"{SCAN}_005"]
    assert "no such folder" in outcome.failed[f"{OTHER}_030"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"box": (20, 9, 11, 18)}, "corners reversed"),
        ({"Bounding_boxes": "1, 2, 3"}, "Bounding_boxes is '1, 2, 3'"),
        ({"Bounding_boxes": "1, 2, x, 9"}, "'x'"),
        ({"box": (49, 9, 60, 18)}, "is outside the image of 48 x 40"),
        ({"box": (5, -9, 10, 0)}, "is outside the image"),
        ({"slices": (6, 9)}, "key slice 5 is outside slices 6 to 9"),
        ({"slices": (8, 3), "Key_slice_index": "5"}, "slices 8 to 3 are none"),
        ({"spacing": 0}, "its spacing of 0.8 x 0.8 x 0 mm is no CT's"),
        ({"spacing": 1e7}, "its spacing of 0.8 x 0.8 x 1e+07 mm is no CT's"),
        ({"slices": (1, 20_000_000)}, "its 48 x 40 x 20000000 voxels of 0.8 x 0.8 x 5 mm are longer than 3 m"),
        ({"Slice_range": "1, 1e300"}, "longer than 3 m"),
        ({"Image_size": "1e9, 1e9"}, "longer than 3 m"),
        ({"Key_slice_index": "6"}, "Key_slice_index is 6"),
        ({"Image_size": "0, 40"}, "image size 0 x 40 is none"),
        ({"Train_Val_Test": "4"}, "Train_Val_Test is '4'"),
        ({"Possibly_noisy": "maybe"}, "'maybe'"),
        ({"Spacing_mm_px_": "0.8, 5"}, "Spacing_mm_px_ is '0.8, 5'"),
        ({"File_name": "000001_01_01.png", "Key_slice_index": "1"}, "row 3"),
    ],
)
def test_bad_rows(changed: dict, reason: str, tmp_path: Path) -> None:
    """A bad row is one line with file, row and cure, and costs its own key slice only."""
    good = [row(SCAN, 5), row(OTHER, 30, slices=(28, 33))]
    write_folder(tmp_path, good)
    bad = {**row("000007_01_01", **{"number": 5, **changed})}
    write_folder(tmp_path / "more", [row("000007_01_01", 5)])
    (tmp_path / "more" / "Images_png" / "000007_01_01").rename(tmp_path / "Images_png" / "000007_01_01")
    write_dl_info(tmp_path / "DL_info.csv", [good[0], bad, good[1]])
    dataset = open_dataset(tmp_path)
    issues = [issue for issue in check_dataset(dataset) if issue.severity == "error"]
    about = [issue for issue in issues if issue.file == tmp_path / "DL_info.csv"]
    assert len(about) == 1, issues
    assert "row 3" in about[0].message
    assert reason in about[0].message
    assert ";" in about[0].message
    assert "\n" not in str(about[0])
    outcome = prepare_dataset(dataset, Plan(size=64), tmp_path / "store")
    assert outcome.store.names == (f"{SCAN}_005", f"{OTHER}_030")


def test_a_bad_row_takes_its_key_slice_with_it(root: Path) -> None:
    """A slice with a lesion that is not marked would teach that it is none."""
    table = (root / "DL_info.csv").read_text()
    (root / "DL_info.csv").write_text(table.replace("20.5, 21, 30, 30", "20.5, 21, 30"))
    dataset = open_dataset(root)
    assert [case.name for case in dataset.cases] == [f"{SCAN}_005", f"{OTHER}_030"]
    assert [(issue.case, issue.severity) for issue in dataset.found] == [(f"{SCAN}_010", "error")]


def test_rows_of_one_slice_that_disagree(root: Path) -> None:
    rows = [row(SCAN, 5), row(SCAN, 5, (5, 5, 9, 9), slices=(2, 8))]
    write_folder(root, [*rows, row(OTHER, 30, slices=(28, 33))])
    dataset = open_dataset(root)
    assert [case.name for case in dataset.cases] == [f"{OTHER}_030"]
    (issue,) = dataset.found
    assert "row 3: has (2, 8) as slice_range" in issue.message
    assert "row 2 has (3, 8); make them agree" in issue.message


def test_a_box_over_the_edge_is_a_note_and_cut(tmp_path: Path) -> None:
    write_folder(tmp_path, [row(SCAN, 5, (-3, 30, 9, 44))])
    dataset = open_dataset(tmp_path)
    (issue,) = check_dataset(dataset)
    assert (issue.severity, issue.file.name) == ("note", "DL_info.csv")
    assert "row 2: box x -4 to 9, y 29 to 44 goes over the edge" in issue.message
    assert dataset.cases[0].key_slice is not None
    assert dataset.cases[0].key_slice.inside() == ((0, 29, 9, 40),)


@pytest.mark.parametrize(("force", "severity"), [(False, "error"), (True, "note")])
def test_values_that_are_no_cts(force: bool, severity: str, tmp_path: Path) -> None:
    for path in write_folder(tmp_path, [row(SCAN, 5)]):
        Image.fromarray(np.full(SHAPE, 128, np.uint16)).save(path)
    (issue,) = check_dataset(open_dataset(tmp_path), force)
    assert issue.severity == severity
    assert "cannot be a CT's HU" in issue.message


@pytest.mark.parametrize("column", ["File_name", "Slice_range", "Spacing_mm_px_", "Image_size", "Possibly_noisy"])
def test_a_column_that_is_missing(column: str, root: Path) -> None:
    write_dl_info(root / "DL_info.csv", [{k: v for k, v in row().items() if k != column}])
    with pytest.raises(ValueError, match=rf"DL_info\.csv: row 1: has no column {column}; ") as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)


def test_no_images_at_all(root: Path) -> None:
    (root / "Images_png").rename(root / "elsewhere")
    with pytest.raises(ValueError, match="no folder Images_png; unpack"):
        open_dataset(root)


def test_nothing_is_written(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    check_dataset(open_dataset(root))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_rows_survive_a_round_trip(root: Path, tmp_path: Path) -> None:
    lesions = read_dl_info(root / "DL_info.csv").lesions
    write_dl_info(tmp_path / "again.csv", [lesion.cells() for lesion in lesions])
    assert read_dl_info(tmp_path / "again.csv").lesions == lesions
