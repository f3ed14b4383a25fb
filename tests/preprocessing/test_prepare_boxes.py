"""Stores of key slices: the key slice stays, the others are interpolated around it, boxes stay on their lesions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_deeplesion import row, write_folder

from volattn.datasets.open import open_dataset
from volattn.io.readers.png import write_slice
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import estimate, prepare_dataset
from volattn.preprocessing.prepared import resampled_extent, resampling_weights, z_weights
from volattn.preprocessing.store import PreparedBoxes, Store

PLAN = Plan(z_spacing=2.0, size=64)
SCAN = "000001_01_01"
OTHER = "000012_01_02"
SPACINGS = st.floats(0.5, 10).map(lambda value: round(value, 3))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(
        tmp_path / "dl",
        [
            row(SCAN, 5, slices=(3, 9), Train_Val_Test="2"),
            row(SCAN, 10, (5, 6, 9.5, 12), slices=(8, 12)),
            row(SCAN, 10, (20.5, 21, 30, 30), slices=(8, 12)),
            row(OTHER, 30, slices=(20, 40), spacing=1, Train_Val_Test="3"),
        ],
    )
    return tmp_path / "dl"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(st.integers(1, 60).flatmap(lambda d: st.tuples(st.just(d), st.integers(0, d - 1))), SPACINGS, SPACINGS)
def test_an_anchored_grid_goes_through_its_anchor_and_no_further_than_the_ends(
    place: tuple[int, int], spacing: float, step: float
) -> None:
    depth, anchor = place
    lower, upper, weight = resampling_weights(depth, spacing, step, anchor)
    first, count = resampled_extent(depth, spacing, step, anchor)
    assert len(lower) == count
    assert (lower[first], weight[first]) == (anchor, 0)
    positions = (lower * (1 - weight) + upper * weight) * spacing
    wanted = anchor * spacing + (np.arange(count) - first) * step
    np.testing.assert_allclose(positions, np.clip(wanted, 0, (depth - 1) * spacing), atol=1e-3)
    # One more to either side would lie beyond what there is.
    assert wanted[0] - step < 1e-3
    assert wanted[-1] + step > (depth - 1) * spacing - 1e-3
    back = z_weights(depth, spacing, step, anchor)
    assert (back.lower[anchor], back.weight[anchor]) == (first, 0)
    assert back.upper.max() < count


def test_the_key_slice_is_kept_and_its_neighbours_are_interpolated(root: Path, tmp_path: Path) -> None:
    opened = open_dataset(root)
    store = prepare_dataset(opened, PLAN, tmp_path / "store", resume=True).store
    for case in opened.cases:
        key_slice, stored = case.key_slice, store.case(case.name)
        assert key_slice is not None
        assert stored.boxes is not None
        source = np.clip(key_slice.read().array, -200, 300).astype(float)
        at = stored.boxes.slice
        np.testing.assert_array_equal(stored.image[at], source[key_slice.z])
        heights = np.arange(key_slice.depth) * key_slice.spacing[0]
        for z, plane in enumerate(stored.image[:]):
            mm = key_slice.z * key_slice.spacing[0] + (z - at) * 2.0
            wanted = [np.interp(mm, heights, source[:, y, x]) for y, x in ((0, 0), (20, 20), (39, 47))]
            got = [plane[0, 0], plane[20, 20], plane[39, 47]]
            np.testing.assert_allclose(got, wanted, atol=0.51)
        assert stored.shape[0] == 1 + int(heights[key_slice.z] / 2) + int((heights[-1] - heights[key_slice.z]) / 2)


def test_without_a_step_the_slices_are_the_files(root: Path, tmp_path: Path) -> None:
    opened = open_dataset(root)
    store = prepare_dataset(opened, Plan(z_spacing=None, size=64), tmp_path / "store", resume=True).store
    for case in opened.cases:
        stored = store.case(case.name)
        assert case.key_slice is not None
        np.testing.assert_array_equal(stored.image[:], np.clip(case.key_slice.read().array, -200, 300))
        assert stored.description.step == case.key_slice.spacing[0]


def test_boxes_shrink_with_their_image(tmp_path: Path) -> None:
    root = tmp_path / "dl"
    (path, *_) = write_folder(root, [row(SCAN, 5, (17, 9, 32, 24), slices=(5, 5), shape=(80, 96))])
    hu = np.zeros((80, 96), np.int16)
    hu[8:24, 16:32] = 250
    write_slice(path, hu)
    stored = prepare_dataset(open_dataset(root), Plan(size=48), tmp_path / "store", force=True, resume=True).store.case(
        f"{SCAN}_005"
    )
    assert stored.boxes is not None
    assert stored.shape == (1, 40, 48)
    assert stored.boxes.boxes == ((8, 4, 16, 12),)
    np.testing.assert_array_equal(np.argwhere(stored.image[0] > 125).min(axis=0), [4, 8])
    np.testing.assert_array_equal(np.argwhere(stored.image[0] > 125).max(axis=0) + 1, [12, 16])


def test_slices_outside_the_boxes_hold_nothing(root: Path, tmp_path: Path) -> None:
    store = prepare_dataset(open_dataset(root), PLAN, tmp_path / "store", resume=True).store
    stored = store.case(f"{SCAN}_010")
    assert stored.boxes is not None
    assert np.flatnonzero(stored.slices.has_lesion).tolist() == [stored.boxes.slice]
    # Pixel centres in half-open (4, 5, 9.5, 12) and (19.5, 20, 30, 30).
    assert stored.description.lesion_pixels[stored.boxes.slice] == 5 * 7 + 11 * 10
    with pytest.raises(ValueError, match="has no label map"):
        stored.labels  # noqa: B018


def test_the_store_has_patients_and_subsets(root: Path, tmp_path: Path) -> None:
    store = prepare_dataset(open_dataset(root), PLAN, tmp_path / "store", resume=True).store
    assert store.subsets == {f"{SCAN}_005": "val", f"{SCAN}_010": "train", f"{OTHER}_030": "test"}
    assert store.patients == {f"{SCAN}_005": "1", f"{SCAN}_010": "1", f"{OTHER}_030": "12"}
    assert store.classes == ("lesion",)
    assert Store.open(tmp_path / "store").description == store.description


def test_stores_of_label_maps_know_nothing_of_boxes(tmp_path: Path, write_lits_case) -> None:
    write_lits_case(0)
    prepare_dataset(open_dataset(tmp_path / "lits"), Plan(size=32), tmp_path / "store", resume=True)
    assert not {"patients", "subsets"} & set(json.loads((tmp_path / "store" / "store.json").read_text()))
    assert "boxes" not in json.loads((tmp_path / "store" / "cases" / "volume-0" / "case.json").read_text())


def test_repetition_changes_no_byte(root: Path, tmp_path: Path) -> None:
    prepare_dataset(open_dataset(root), PLAN, tmp_path / "one", resume=True)
    first = contents(tmp_path / "one")
    again = prepare_dataset(open_dataset(root), PLAN, tmp_path / "one", resume=True)
    assert again.prepared == ()
    prepare_dataset(open_dataset(root), PLAN, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == first


def test_a_changed_slice_and_a_changed_row_are_prepared_again(root: Path, tmp_path: Path) -> None:
    before = prepare_dataset(open_dataset(root), PLAN, tmp_path / "store", resume=True).store.fingerprint
    write_slice(root / "Images_png" / OTHER / "033.png", np.full((40, 48), 20, np.int16))
    outcome = prepare_dataset(open_dataset(root), PLAN, tmp_path / "store", resume=True)
    assert outcome.prepared == (f"{OTHER}_030",)
    assert outcome.store.fingerprint != before
    table = (root / "DL_info.csv").read_text()
    (root / "DL_info.csv").write_text(table.replace("5, 6, 9.5, 12", "5, 6, 9.5, 13"))
    outcome = prepare_dataset(open_dataset(root), PLAN, tmp_path / "store", resume=True)
    assert outcome.prepared == (f"{SCAN}_010",)


def test_a_folder_that_moved_is_the_same_data(root: Path, tmp_path: Path) -> None:
    before = prepare_dataset(open_dataset(root), PLAN, tmp_path / "store", resume=True).store.fingerprint
    (tmp_path / "new").mkdir()
    root.rename(tmp_path / "new" / "dl")
    outcome = prepare_dataset(open_dataset(tmp_path / "new" / "dl"), PLAN, tmp_path / "store", resume=True)
    assert outcome.prepared == ()
    assert outcome.store.fingerprint == before


def test_the_data_set_in_numbers_and_the_estimate(root: Path, tmp_path: Path) -> None:
    opened = open_dataset(root)
    expected = estimate(opened, PLAN)
    prepare_dataset(opened, PLAN, tmp_path / "store", resume=True)
    measured = json.loads((tmp_path / "store" / "fingerprint.json").read_text())
    assert (measured["cases"], measured["lesions"]) == (3, 4)
    assert measured["lesion_long_axis_mm_5_50_95"] == [8, 8, 8]
    assert measured["organ_hu_5_50_95"] == []
    used = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.b2nd"))
    assert expected.cases == 3
    assert used / 3 < expected.disk_bytes < used * 3


def test_pixels_of_boxes_that_overlap_count_once() -> None:
    boxes = PreparedBoxes(slice=1, boxes=((0, 0, 4, 4), (2, 2, 6, 6)))
    assert boxes.pixels((3, 8, 8)).tolist() == [0, 16 + 16 - 4, 0]
