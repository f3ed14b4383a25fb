"""DeepLesion's files in, scores out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from key_slices import HEADER, Slices, info_row, random_slices, scored, write_found, write_info, write_rows

from volattn.datasets.deeplesion import KeyDetection, read_detections, read_dl_info, write_detections
from volattn.scoring.deeplesion import FROC, Subset, score_deeplesion
from volattn.scoring.pool import Pool, ScoredImage
from volattn.scoring.score_files import read_scores, write_scores

pytestmark = pytest.mark.usefixtures("few_resamples")


def score(folder: Path, slices: Slices, **options: Any) -> dict[str, Any]:
    info = write_info(folder / "DL_info.csv", slices)
    return score_deeplesion(info, write_found(folder / "detections.csv", slices), **options).content


@pytest.mark.parametrize(("subset", "keep_noisy"), [("test", False), ("all", True)])
def test_the_reference_against_itself(shared_data: Path, tmp_path: Path, subset: Subset, keep_noisy: bool) -> None:
    path = shared_data / "deeplesion" / "DL_info.csv"
    info = read_dl_info(path)
    detections = tmp_path / "detections.csv"
    write_detections(detections, [(one.file_name, KeyDetection(one.box, 1.0)) for one in info.lesions])
    content = score_deeplesion(path, detections, subset=subset, keep_noisy=keep_noisy).content
    assert set(content["sensitivity_at_fp_per_image"].values()) == {1.0}
    assert content["mean_sensitivity"] == content["ap50"] == 1.0
    assert content["failed"] == {}
    for kind in ("by_type", "by_size", "by_slice_interval"):
        groups = content[kind].values()
        assert sum(group["lesions"] for group in groups) == content["lesions"]
        assert all(set(group["sensitivity_at_fp_per_image"].values()) == {1.0} for group in groups)


def test_the_real_table(shared_data: Path) -> None:
    info = read_dl_info(shared_data / "deeplesion" / "DL_info.csv")
    assert len(info.lesions) == 1349
    assert not info.faults
    assert [sum(one.subset == part for one in info.lesions) for part in ("train", "val", "test")] == [936, 187, 226]
    assert sum(one.noisy for one in info.lesions) == 1
    first = info.lesions[0]
    assert (first.row, first.file_name, first.patient, first.key_slice) == (2, "000001_01_01_109.png", "1", 109)
    assert first.box == (226.169, 90.0204, 241.252, 111.977)
    assert first.diameters_mm == pytest.approx((11.9677 * 0.488281, 5.10387 * 0.488281))
    assert (first.lesion_type, first.slice_interval_mm, first.slice_range) == ("mediastinum", 5.0, (103, 115))


def test_levels_are_named_and_averaged(tmp_path: Path) -> None:
    content = score(tmp_path, random_slices(5))
    values = content["sensitivity_at_fp_per_image"]
    assert list(values) == ["0.5", "1", "2", "4", "8", "16"]
    assert content["mean_sensitivity"] == pytest.approx(np.mean([values[key] for key in ("0.5", "1", "2", "4")]))
    ends = content["intervals"]["sensitivity_at_fp_per_image"]
    assert all(low <= values[key] <= high for key, (low, high) in ends.items())


def test_the_cases_hold_all_that_the_curve_needs(tmp_path: Path) -> None:
    content = score(tmp_path, random_slices(8, decimals=1))
    write_scores(tmp_path / "scores.json", content)
    again = read_scores(tmp_path / "scores.json")
    assert {key: again[key] for key in content} == content
    pool = Pool([ScoredImage.from_json(case) for case in again["cases"]], FROC)
    values = FROC.described(pool.measure(pool.whole())[0].tolist())
    assert values == {key: content[key] for key in values}
    assert (tmp_path / "scores.json").read_text().count('{"name"') == len(content["cases"])


def test_a_seed_decides_the_intervals(tmp_path: Path) -> None:
    slices = random_slices(5, count=8)
    assert score(tmp_path, slices, seed=1) == score(tmp_path, slices, seed=1)
    assert score(tmp_path, slices, seed=1)["intervals"] != score(tmp_path, slices, seed=2)["intervals"]


def test_a_single_patient_has_no_interval(tmp_path: Path) -> None:
    content = score(tmp_path, random_slices(5, count=2))
    assert content["patients"] == 1
    assert content["intervals"]["ap50"] is None


def test_groups_share_the_false_positives_of_all(tmp_path: Path) -> None:
    lesions = {
        "000001_01_01_001.png": info_row("000001_01_01_001.png", (10, 10, 30, 30), kind=4),
        "000002_01_01_001.png": info_row("000002_01_01_001.png", (10, 10, 30, 30), kind=5),
    }
    info = write_rows(tmp_path / "DL_info.csv", HEADER, lesions.values())
    found = [
        ("000001_01_01_001.png", KeyDetection((10, 10, 30, 30), 0.9)),
        ("000001_01_01_001.png", KeyDetection((50, 50, 60, 60), 0.8)),
        ("000001_01_01_001.png", KeyDetection((70, 50, 80, 60), 0.7)),
        ("000002_01_01_001.png", KeyDetection((10, 10, 30, 30), 0.6)),
    ]
    write_detections(tmp_path / "detections.csv", found)
    content = score_deeplesion(info, tmp_path / "detections.csv").content
    types = content["by_type"]
    assert list(types) == ["liver", "lung"]
    assert [types["liver"]["sensitivity_at_fp_per_image"][key] for key in ("0.5", "1")] == [1, 1]
    assert [types["lung"]["sensitivity_at_fp_per_image"][key] for key in ("0.5", "1")] == [0, 1]
    assert types["liver"]["ap50"] == 1
    assert types["lung"]["ap50"] == pytest.approx(1 / 3)
    assert list(content["by_size"]) == ["10-30 mm"]
    assert list(content["by_slice_interval"]) == [">2.5 mm"]


def test_noisy_rows_are_left_out(tmp_path: Path) -> None:
    slices = random_slices(2)
    name = next(iter(slices))
    info = write_info(tmp_path / "DL_info.csv", slices, noisy=[name])
    found = write_found(tmp_path / "detections.csv", slices)
    without = {key: value for key, value in slices.items() if key != name}
    pool, whole = (Pool(scored(some), FROC) for some in (without, slices))
    left_out, kept = (score_deeplesion(info, found, keep_noisy=keep).content for keep in (False, True))
    assert left_out["ap50"] == pool.measure(pool.whole())[0, -1]
    assert kept["ap50"] == whole.measure(whole.whole())[0, -1]
    assert (left_out["images"], kept["images"]) == (5, 6)
    assert left_out["noisy_lesions"] == len(slices[name][0])


def test_other_subsets_are_left_alone(tmp_path: Path) -> None:
    slices = random_slices(4)
    info = write_info(tmp_path / "DL_info.csv", slices, part=2)
    found = write_found(tmp_path / "detections.csv", slices)
    with pytest.raises(ValueError, match="no lesions in the subset test"):
        score_deeplesion(info, found)
    assert score_deeplesion(info, found, subset="val").content["images"] == 6


def test_no_detections_at_all(tmp_path: Path) -> None:
    slices: Slices = {name: (lesions, []) for name, (lesions, _) in random_slices(4).items()}
    content = score(tmp_path, slices)
    assert set(content["sensitivity_at_fp_per_image"].values()) == {0.0}
    assert content["ap50"] == 0


def test_columns_that_only_group_may_be_missing(tmp_path: Path) -> None:
    header = ("File_name", "Bounding_boxes", "Possibly_noisy", "Train_Val_Test")
    rows = [["000001_01_01_001.png", "1, 2, 30, 40", "0", "3"], ["000002_01_01_001.png", "1, 2, 30, 40", "0", "3"]]
    info = write_rows(tmp_path / "DL_info.csv", header, rows)
    write_detections(tmp_path / "d.csv", [("000001_01_01_001.png", KeyDetection((1, 2, 30, 40), 1))])
    content = score_deeplesion(info, tmp_path / "d.csv").content
    assert content["ap50"] == pytest.approx(51 / 101)
    assert (content["patients"], list(content["by_type"])) == (2, ["unknown"])


NAMES = ("000001_01_01_001.png", "000002_01_01_001.png", "000003_01_01_001.png")


def bad_detections(path: Path, fault: str) -> Path:
    """Good rows for two of three key slices; the third one's is bad."""
    header = ["File_name", "x1", "y1", "x2", "y2", "score"]
    row = [NAMES[1], "1", "2", "30", "40", "0.5"]
    changes = {
        "inside out": (3, "0"),
        "upside down": (4, "1"),
        "NaN": (5, "nan"),
        "infinite": (1, "inf"),
        "no number": (2, "two"),
        "empty": (5, ""),
        "unknown": (0, "000009_01_01_001.png"),
    }
    if fault in changes:
        place, value = changes[fault]
        row[place] = value
    elif fault == "short":
        row = row[:4]
    good = [[name, "1", "2", "30", "40", "0.5"] for name in (NAMES[0], NAMES[2])]
    return write_rows(path, header, [good[0], row, good[1]])


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("inside out", "corners reversed; give x1 <= x2"),
        ("upside down", "corners reversed"),
        ("NaN", "score is 'nan'; give a finite number"),
        ("infinite", "x1 is 'inf'"),
        ("no number", "y1 is 'two'; give a number"),
        ("empty", "score is empty"),
        ("unknown", "'000009_01_01_001.png' is not in the reference; write it as DL_info.csv does"),
        ("short", "y2 is empty"),
    ],
)
def test_a_bad_row_costs_its_key_slice(tmp_path: Path, fault: str, part: str) -> None:
    rows = [info_row(name, (1, 2, 30, 40)) for name in NAMES]
    info = write_rows(tmp_path / "DL_info.csv", HEADER, rows)
    path = bad_detections(tmp_path / "detections.csv", fault)
    scores = score_deeplesion(info, path)
    (line,) = scores.failed.values()
    assert line.startswith(f"{path}: row 3: ")
    assert part in line
    assert "\n" not in line
    assert scores.content["images"] == (3 if fault == "unknown" else 2)
    assert scores.content["failed"] == scores.failed
    with pytest.raises(ValueError, match="row 3"):
        score_deeplesion(info, path, fail_fast=True)


@pytest.mark.parametrize(
    ("column", "value", "part"),
    [
        ("Bounding_boxes", "9, 2, 3, 40", "corners reversed"),
        ("Bounding_boxes", "9, 2, 3", "give 4 numbers"),
        ("Train_Val_Test", "4", "give one of 1, 2, 3"),
        ("Coarse_lesion_type", "9", "give one of -1, 1,"),
        ("Spacing_mm_px_", "0.8, x, 5", "Spacing_mm_px_ is 'x'"),
    ],
)
def test_a_bad_row_of_the_reference_costs_its_key_slice(tmp_path: Path, column: str, value: str, part: str) -> None:
    rows = [info_row(name, (1, 2, 30, 40)) for name in NAMES]
    rows[1][HEADER.index(column)] = value
    info = write_rows(tmp_path / "DL_info.csv", HEADER, rows)
    write_detections(tmp_path / "d.csv", [(name, KeyDetection((1, 2, 30, 40), 1)) for name in NAMES])
    scores = score_deeplesion(info, tmp_path / "d.csv")
    assert list(scores.failed) == [NAMES[1]]
    assert scores.failed[NAMES[1]].startswith(f"{info}: row 3: ")
    assert part in scores.failed[NAMES[1]]
    assert (scores.content["images"], scores.content["ap50"]) == (2, 1)
    with pytest.raises(ValueError, match="row 3"):
        score_deeplesion(info, tmp_path / "d.csv", fail_fast=True)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("File_name,x1,y1,x2,score\n", "row 1: has no column y2"),
        ("", "is empty"),
        (b"\x80\x81\xff\xfe\x00", "not a text file"),
        (None, "does not exist"),
        ("File_name,x1,x1,y1,x2,y2,score\n", "row 1: has the column x1 twice"),
        ("File_name,x1,y1,x2,y2,score\n\0,1,2,3,4,5\n", "holds null characters"),
        ('File_name,x1,y1,x2,y2,score\n"a,1,2,3,4,5\n', "line 2: cannot be read"),
        ("File_name,x1,y1,x2,y2,score\n" + 200_000 * "a", "line 2: cannot be read"),
        (",,,\n", "is empty"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str | bytes | None, part: str) -> None:
    info = write_rows(tmp_path / "DL_info.csv", HEADER, [info_row(NAMES[0], (1, 2, 30, 40))])
    path = tmp_path / "detections.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=part) as raised:
        score_deeplesion(info, path)
    assert str(path) in str(raised.value)


def test_blank_rows_line_ends_and_marks_change_nothing(tmp_path: Path) -> None:
    text = f'File_name,x1,y1,x2,y2,score,note\n,,,,,,\n{NAMES[0]},1,2,30,40,0.5,"two\nlines"\n , ,\n\n'
    expected = None
    for begins, ends in (("", "\n"), ("\ufeff", "\n"), ("", "\r\n"), ("\ufeff", "\r")):
        path = tmp_path / "detections.csv"
        path.write_bytes((begins + text.replace("\n", ends)).encode())
        found = read_detections(path, {NAMES[0]})
        assert found == (expected or found)
        expected = found
        path.write_bytes((begins + text + f"{NAMES[0]},9,2,3,40,0.5\n").replace("\n", ends).encode())
        scores = read_detections(path, {NAMES[0]}, fail_fast=False)
        assert next(iter(scores.faults.values())).startswith(f"{path}: row 6: ")


def test_detections_are_written_as_they_are_read(tmp_path: Path) -> None:
    slices = random_slices(1)
    path = write_found(tmp_path / "detections.csv", slices)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["File_name", "x1", "y1", "x2", "y2", "score"]
    assert [(row[0], float(row[5])) for row in rows[1:]] == [
        (name, value) for name, (_, found) in slices.items() for _, value in found
    ]
