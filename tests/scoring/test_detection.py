"""Lesions in volumes: presets, and every way to write them down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.datasets.instances import Instance, read_boxes
from volattn.inference.records import LesionRecord, lps_box
from volattn.io.readers import read_labels, write_labels, write_volume
from volattn.report.report import build_report
from volattn.scoring.detection import PRESETS, score_detections
from volattn.scoring.pairing import Evaluation
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

SHAPE = (12, 40, 40)
SPACING = (5.0, 0.8, 0.8)
Box = tuple[int, int, int, int, int, int]

pytestmark = pytest.mark.usefixtures("few_resamples")

FIRST: Box = (2, 5, 5, 5, 15, 15)
SECOND: Box = (6, 20, 20, 10, 30, 30)
FAR: Box = (0, 33, 33, 2, 38, 38)


def mask_of(boxes: Sequence[Box], shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """One number per box, from 1."""
    mask = np.zeros(shape, np.uint8)
    for number, (z0, y0, x0, z1, y1, x1) in enumerate(boxes, start=1):
        mask[z0:z1, y0:y1, x0:x1] = number
    return mask


def write_mask(path: Path, mask: np.ndarray, affine: np.ndarray | None = None) -> Path:
    geometry = Geometry.aligned(mask.shape, SPACING) if affine is None else Geometry(mask.shape, affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_labels(path, mask, Volume(mask, geometry))
    return path


def write_predicted(path: Path, found: Sequence[tuple[Box, float]], **changes: Any) -> Path:
    """`NAME.json` as `predict` writes it, what evaluation looks at."""
    geometry = Geometry.aligned(SHAPE, SPACING)
    lesions = []
    for number, (box, score) in enumerate(found, start=1):
        world = geometry.to_world(np.array([box[:3], box[3:]]) - 0.5)
        lesions.append(
            {
                "id": number,
                "score": score,
                "box_voxels": {"axes": "kji", "start": list(box[:3]), "stop": list(box[3:])},
                "box_lps_mm": {"min": world.min(axis=0).tolist(), "max": world.max(axis=0).tolist()},
            }
            | changes
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"grid": {"axes": "kji", "shape": list(SHAPE)}, "lesions": lesions}))
    return path


def score(folder: Path, preset: str = "nndet", **options: Any) -> Evaluation:
    return score_detections(folder / "reference", folder / "prediction", PRESETS[preset], **options)


def sensitivities(scores: Evaluation) -> list[float]:
    return list(scores.content["sensitivity_at_fp_per_scan"].values())


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Two cases with two lesions each."""
    for name in ("case_01", "case_02"):
        write_mask(tmp_path / "reference" / f"{name}.nii.gz", mask_of([FIRST, SECOND]))
    return tmp_path


@pytest.mark.parametrize("preset", PRESETS)
def test_the_reference_against_itself(reference: Path, preset: str) -> None:
    for name in ("case_01", "case_02"):
        write_mask(reference / "prediction" / f"{name}.nii.gz", mask_of([FIRST, SECOND]))
    content = score(reference, preset).content
    assert list(content["sensitivity_at_fp_per_scan"]) == ["0.125", "0.25", "0.5", "1", "2", "4", "8"]
    assert set(content["sensitivity_at_fp_per_scan"].values()) == {1.0}
    assert content["mean_sensitivity"] == 1
    assert content.get("average_precision", 1) == 1
    assert ("average_precision" in content) == (preset != "luna16")
    assert content["settings"]["preset"] == preset
    assert content["settings"]["threshold"] == {"nndet": 0.1, "luna16": 1.0, "strict": 0.5}[preset]
    assert (content["scans"], content["lesions"], content["detections"]) == (2, 4, 4)
    # 8 mm wide, diagonal 11.3 mm.
    assert content["by_size"]["<15 mm"]["lesions"] == 4


def test_presets_differ_as_they_say(reference: Path) -> None:
    # Moved by 7 of 10 columns: IoU 3/17; its centre is just outside.
    moved: Box = (2, 5, 12, 5, 15, 22)
    inside: Box = (3, 8, 8, 4, 12, 12)  # a small box in the middle: IoU 16/300
    for name in ("case_01", "case_02"):
        write_predicted(reference / "prediction" / f"{name}.json", [(moved, 0.9), (inside, 0.8), (SECOND, 0.7)])
    found = {preset: score(reference, preset).content["cases"][0]["detections"] for preset in PRESETS}
    hits = {
        preset: [one["lesions"] if isinstance(one, dict) else [] for one in detections]
        for preset, detections in found.items()
    }
    assert hits == {"nndet": [[0], [], [1]], "luna16": [[], [0], [1]], "strict": [[], [], [1]]}


def test_a_duplicate_counts_against_one_to_one_only(reference: Path) -> None:
    for name in ("case_01", "case_02"):
        found = [(FIRST, 0.9), (FIRST, 0.8), (SECOND, 0.7)]
        write_predicted(reference / "prediction" / f"{name}.json", found)
    assert sensitivities(score(reference, "luna16")) == [1] * 7
    for preset in ("nndet", "strict"):
        assert sensitivities(score(reference, preset)) == [0.5, 0.5, 0.5, 1, 1, 1, 1]


def test_masks_without_scores_are_one_operating_point(reference: Path) -> None:
    for name in ("case_01", "case_02"):
        write_mask(reference / "prediction" / f"{name}.nii.gz", mask_of([FIRST, SECOND, FAR]))
    assert sensitivities(score(reference, "strict")) == [0, 0, 0, 1, 1, 1, 1]
    # As nnDetection has it: a straight line from no detection to all of them.
    assert sensitivities(score(reference, "nndet")) == [0.125, 0.25, 0.5, 1, 1, 1, 1]


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**20), axis=st.integers(0, 2), pad=st.integers(0, 3))
def test_flips_and_padding_change_nothing(
    seed: int, axis: int, pad: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    generator = np.random.default_rng(seed)
    # Cell by cell, so that instances stay apart whatever their order.
    masks = []
    for _ in range(2):
        mask = np.zeros((12, 24, 24), np.uint8)
        for number, (z, y, x) in enumerate(np.ndindex(2, 3, 3), start=1):
            low = np.array([z * 6, y * 8, x * 8]) + generator.integers(0, 2, 3)
            high = low + generator.integers(2, 6, 3)
            if generator.random() < 0.6:
                mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = number
        mask[0, 0, 0] = 100
        masks.append(mask)

    def values(change: bool, preset: str) -> list[float]:
        folder = tmp_path_factory.mktemp("case")
        for place, mask in zip(("reference", "prediction"), masks, strict=True):
            changed = np.pad(np.flip(mask, axis), pad) if change else mask
            write_mask(folder / place / "case.nii", np.ascontiguousarray(changed))
        content = score(folder, preset).content
        return [*content["sensitivity_at_fp_per_scan"].values(), content["detections"]]

    for preset in PRESETS:
        assert values(False, preset) == values(True, preset)


def test_every_form_says_the_same(reference: Path) -> None:
    moved: Box = (2, 6, 6, 5, 16, 16)
    boxes, scores = [moved, SECOND, FAR], [0.9, 0.4, 0.6]
    write_predicted(reference / "a" / "case_01.json", list(zip(boxes, scores, strict=True)))
    write_predicted(reference / "a" / "case_02.json", [])
    # What predict writes beside it is not looked at.
    write_mask(reference / "a" / "case_01.nii.gz", (mask_of(boxes) > 0) * np.uint8(2))

    entries = {
        str(number): {
            "score": value,
            "label": 0,
            # nnDetection: z0, y0, z1, y1, x0, x1, lower ends a voxel further out.
            "box": [box[0] - 1, box[1] - 1, box[3], box[4], box[2] - 1, box[5]],
        }
        for number, (box, value) in enumerate(zip(boxes, scores, strict=True), start=1)
    }
    for name, content in (("case_01", entries), ("case_02", {})):
        write_mask(reference / "b" / f"{name}_boxes.nii.gz", mask_of(boxes if content else []))
        (reference / "b" / f"{name}_boxes.json").write_text(json.dumps(content))

    given_scores = {str(number): value for number, value in enumerate(scores, start=1)}
    write_mask(reference / "c" / "case_01.nii.gz", mask_of(boxes))
    write_mask(reference / "c" / "case_02.nii.gz", mask_of([]))
    (reference / "c" / "case_01.json").write_text(
        json.dumps({"instances": dict.fromkeys(given_scores, 0), "scores": given_scores})
    )
    (reference / "c" / "case_02.json").write_text(json.dumps({"instances": {}}))

    results = []
    for kind in "abc":
        content = score_detections(reference / "reference", reference / kind, PRESETS["nndet"]).content
        results.append({key: content[key] for key in ("cases", "intervals", "average_precision", "by_size")})
        assert content["failed"] == {}
        assert content["lesions"] == 4
    assert results[0] == results[1] == results[2]


def test_the_boxes_of_nndetection_reach_a_voxel_further(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "case.nii", mask_of([FIRST]))
    entry = {"score": 0.5, "label": 1, "box": [1, 4, 5, 15, 4, 15]}
    (tmp_path / "case_boxes.json").write_text(json.dumps({"1": entry}))
    found = read_boxes(tmp_path / "case_boxes.json", read_labels(path))
    assert found is not None
    assert found.found == (Instance(1, FIRST, 0.5, 1),)


def test_the_most_certain_detection_takes_the_lesion(tmp_path: Path) -> None:
    write_mask(tmp_path / "reference" / "case.nii", mask_of([FIRST]))
    exact, later = FIRST, (2, 7, 7, 5, 17, 17)
    write_predicted(tmp_path / "prediction" / "case.json", [(exact, 0.4), (later, 0.9)])
    (case,) = score(tmp_path).content["cases"]
    assert case["detections"] == [{"score": 0.9, "lesions": [0], "matched": 0}, 0.4]


def test_semantic_and_binary_masks_are_taken_apart(tmp_path: Path) -> None:
    mask = mask_of([FIRST, SECOND])
    organ = np.ones(SHAPE, np.uint8)
    organ[mask > 0] = 2
    write_mask(tmp_path / "reference" / "segmentation-3.nii", organ)
    write_mask(tmp_path / "reference" / "volume-3.nii", organ)  # LiTS has its CTs there
    write_mask(tmp_path / "prediction" / "case_003.nii.gz", (mask > 0).astype(np.uint8))
    content = score(tmp_path, lesion=2).content
    assert (content["lesions"], content["detections"], content["mean_sensitivity"]) == (2, 2, 1)
    assert content["read_as"] == {
        "reference": ["components of the value 2"],
        "prediction": ["components of the value 1"],
    }
    write_mask(tmp_path / "prediction" / "case_003.nii.gz", organ)
    assert score(tmp_path, lesion=2, predicted_lesion=2).content["mean_sensitivity"] == 1


def test_an_instance_in_two_pieces_is_one(tmp_path: Path) -> None:
    mask = mask_of([FIRST, SECOND, FAR])
    mask[mask == 3] = 2
    for place in ("reference", "prediction"):
        write_mask(tmp_path / place / "case.nii", mask)
    assert score(tmp_path).content["lesions"] == 2


def test_classes_are_matched_each_by_itself(tmp_path: Path) -> None:
    def write(place: str, classes: dict[str, int]) -> None:
        write_mask(tmp_path / place / "case.nii.gz", mask_of([FIRST, SECOND]))
        (tmp_path / place / "case.json").write_text(json.dumps({"instances": classes}))

    write("reference", {"1": 0, "2": 1})
    write("prediction", {"1": 0, "2": 0})
    content = score(tmp_path, "strict").content
    assert content["settings"]["classes"] == "each by itself"
    assert sensitivities(score(tmp_path, "strict")) == [0, 0, 0, 0.5, 0.5, 0.5, 0.5]
    assert [content["by_class"][name]["sensitivity_at_fp_per_scan"]["1"] for name in "01"] == [1, 0]
    assert content["average_precision"] == pytest.approx(0.5)
    (tmp_path / "prediction" / "case.json").unlink()
    content = score(tmp_path, "strict").content
    assert (content["settings"]["classes"], content["average_precision"]) == ("one", 1)


def test_no_more_than_a_hundred_detections_for_nndet(tmp_path: Path) -> None:
    write_mask(tmp_path / "reference" / "case.nii", mask_of([FIRST]))
    found = [(FAR, 0.9 - number * 1e-3) for number in range(100)]
    write_predicted(tmp_path / "prediction" / "case.json", [*found, (FIRST, 0.1)])
    cases = {preset: score(tmp_path, preset).content["cases"][0] for preset in ("nndet", "strict")}
    assert len(cases["nndet"]["detections"]) == 100
    assert cases["strict"]["detections"][-1] == {"score": 0.1, "lesions": [0], "matched": 0}


def test_oblique_boxes_of_predict_are_known_by_their_place(tmp_path: Path) -> None:
    angle = 0.2
    affine = np.array(
        [
            [0.3, 0.8 * np.sin(angle), 0.8 * np.cos(angle), 7],
            [0.1, 0.8 * np.cos(angle), -0.8 * np.sin(angle), -4],
            [5.0, 0.0, 0.0, 11],
            [0, 0, 0, 1],
        ]
    )
    write_mask(tmp_path / "reference" / "case.nii", mask_of([FIRST]), affine)
    write_predicted(tmp_path / "prediction" / "case.json", [(FIRST, 0.9)])
    with pytest.raises(ValueError, match=r"case\.json: lesion 1 lies .* mm from where the reference's grid puts it"):
        score(tmp_path)
    corners = np.array(np.meshgrid(*zip(FIRST[:3], FIRST[3:], strict=True))).reshape(3, -1).T - 0.5
    world = Geometry(SHAPE, affine).to_world(corners)
    bounds = {"min": world.min(axis=0).tolist(), "max": world.max(axis=0).tolist()}
    write_predicted(tmp_path / "prediction" / "case.json", [(FIRST, 0.9)], box_lps_mm=bounds)
    assert score(tmp_path).content["mean_sensitivity"] == 1


def test_what_predict_says_of_a_lesion_is_read(tmp_path: Path) -> None:
    """Its own records, of a file whose axes run against the patient's."""
    affine = np.array([[0, 0.0, -0.8, 7], [0, 0.8, 0, -4], [-5.0, 0, 0, 11], [0, 0, 0, 1]])
    path = write_mask(tmp_path / "reference" / "case.nii", mask_of([FIRST]), affine)
    record = LesionRecord(1, 0.9, FIRST, lps_box(FIRST, read_labels(path).geometry), 1.0, 1.0, 1.0, 0, "k", 0, 0, None)
    content = {"grid": {"axes": "kji", "shape": list(SHAPE)}, "lesions": [record.as_json()]}
    (tmp_path / "prediction").mkdir()
    (tmp_path / "prediction" / "case.json").write_text(json.dumps(content))
    for preset in PRESETS:
        assert score(tmp_path, preset).content["mean_sensitivity"] == 1


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("missing", "has no prediction in"),
        ("shape", "has 40 x 40 x 11 voxels, not 40 x 40 x 12; resample"),
        ("place", "it is shifted by 1 mm; if its voxels lie as the other's do, say --trust-grid"),
        ("negative", "has the label -1; instances are numbered from 1"),
        ("fractional", "label 0.5 at voxel"),
        ("NaN", "is not a whole number"),
        ("truncated", "is truncated within its header"),
        ("no class", "has no class for instance 2 of case_02.nii.gz; add it"),
        ("no voxel", "instance '3' has no voxel in case_02.nii.gz"),
        ("score", "scores.1: must be a number, found None"),
        ("no JSON", "case_02.json: is not valid JSON"),
        ("other JSON", "holds neither predict's lesions nor nnDetection's boxes"),
        ("inside out", "has its corners reversed"),
        ("other grid", "was predicted on [1, 2, 3] voxels"),
        ("no box", "lesions.0.box_voxels: must be a mapping of keys to values, found None; predict again"),
    ],
)
def test_a_bad_case_stops_nothing_but_itself(reference: Path, fault: str, part: str) -> None:
    folder = reference / "prediction"
    write_mask(folder / "case_01.nii.gz", mask_of([FIRST]))
    spoil(folder, fault)
    scores = score(reference)
    (line,) = scores.failed.values()
    assert list(scores.failed) == ["case_02"]
    assert part in line
    assert "case_02" in line
    assert "\n" not in line
    assert (scores.content["scans"], scores.total) == (1, 2)
    assert scores.content["failed"] == scores.failed
    with pytest.raises(ValueError, match="case_02"):
        score(reference, fail_fast=True)


def spoil(folder: Path, fault: str) -> None:
    path, sidecar = folder / "case_02.nii.gz", folder / "case_02.json"
    mask = mask_of([FIRST, SECOND])
    instances: dict[str, Any] = {"instances": {"1": 0, "2": 0}}
    if fault == "shape":
        write_mask(path, mask[1:])
    elif fault == "place":
        affine = Geometry.aligned(SHAPE, SPACING).affine.copy()
        affine[0, 3] += 1
        write_mask(path, mask, affine)
    elif fault in ("negative", "fractional", "NaN"):
        value = {"negative": -1, "fractional": 0.5, "NaN": np.nan}[fault]
        array = mask.astype(np.float32)
        array[0, 0, 0] = value
        write_volume(path, Volume(array, Geometry.aligned(SHAPE, SPACING)))
    elif fault == "truncated":
        write_mask(path, mask)
        path.write_bytes(path.read_bytes()[:60])
    elif fault in ("no class", "no voxel", "score"):
        write_mask(path, mask)
        if fault == "no class":
            del instances["instances"]["2"]
        elif fault == "no voxel":
            instances["instances"]["3"] = 0
        else:
            instances["scores"] = {"1": None, "2": 0.5}
        sidecar.write_text(json.dumps(instances))
    elif fault in ("no JSON", "other JSON"):
        sidecar.write_text("{" if fault == "no JSON" else json.dumps({"a": 1}))
    elif fault == "inside out":
        voxels = {"start": [5, 5, 5], "stop": [2, 15, 15]}
        write_predicted(sidecar, [(FIRST, 0.5)], box_voxels=voxels)
    elif fault == "other grid":
        write_predicted(sidecar, [(FIRST, 0.5)])
        sidecar.write_text(sidecar.read_text().replace("[12, 40, 40]", "[1, 2, 3]"))
    elif fault == "no box":
        write_predicted(sidecar, [(FIRST, 0.5)], box_voxels=None)


def test_nothing_to_score(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        score(tmp_path)
    (tmp_path / "reference").mkdir()
    with pytest.raises(ValueError, match="reference: holds no label map"):
        score(tmp_path)
    write_mask(tmp_path / "reference" / "a.nii", mask_of([FIRST]))
    (tmp_path / "prediction").mkdir()
    with pytest.raises(ValueError, match=r"prediction: holds no .* and no boxes \(\.json\)"):
        score(tmp_path)


def test_files_are_paired_as_label_maps_are(tmp_path: Path) -> None:
    for number in (3, 12):
        write_mask(tmp_path / "reference" / f"segmentation-{number}.nii.gz", mask_of([FIRST]))
        write_mask(tmp_path / "reference" / f"volume-{number}.nii.gz", mask_of([FAR]))  # the CT
    write_predicted(tmp_path / "prediction" / "case_0003.json", [(FIRST, 0.5)])
    write_predicted(tmp_path / "prediction" / "volume-12.json", [(FIRST, 0.5)])
    scores = score(tmp_path, lesion=1)
    assert (scores.content["mean_sensitivity"], scores.total, list(scores.notes)) == (1, 2, [])
    write_predicted(tmp_path / "prediction" / "other_12.json", [])
    with pytest.raises(ValueError, match=r"other_12\.json.* both have the number of segmentation-12\.nii\.gz"):
        score(tmp_path, lesion=1)
    (tmp_path / "prediction" / "other_12.json").unlink()
    write_mask(tmp_path / "reference" / "segmentation-3.nii", mask_of([FIRST]))
    with pytest.raises(ValueError, match="are the same case; keep one of them"):
        score(tmp_path, lesion=1)


def test_predictions_without_a_reference_are_said(reference: Path) -> None:
    for name in ("case_01", "case_02", "case_07"):
        write_mask(reference / "prediction" / f"{name}.nii.gz", mask_of([FIRST]))
    scores = score(reference)
    assert scores.content["predictions_without_reference"] == ["case_07"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("found", [[], [(FAR, 0.9)]], ids=["nothing found", "a false positive"])
def test_without_a_lesion_nothing_is_defined(tmp_path: Path, preset: str, found: list[tuple[Box, float]]) -> None:
    for name in ("a", "b"):
        write_mask(tmp_path / "reference" / f"{name}.nii", mask_of([]))
        write_predicted(tmp_path / "prediction" / f"{name}.json", found)
    content = score(tmp_path, preset).content
    assert (content["lesions"], content["mean_sensitivity"]) == (0, None)
    assert content.get("average_precision") is None
    if preset == "nndet":
        report = build_report(content)
        assert "There is no lesion in the references" in report.html()
        assert ("worst-scans" in report.pictures) == bool(found)


def test_a_case_without_lesions_counts_its_false_positives(tmp_path: Path) -> None:
    write_mask(tmp_path / "reference" / "a.nii", mask_of([FIRST]))
    write_mask(tmp_path / "reference" / "b.nii", mask_of([]))
    write_predicted(tmp_path / "prediction" / "a.json", [(FIRST, 0.5)])
    write_predicted(tmp_path / "prediction" / "b.json", [(FAR, 0.9)])
    assert sensitivities(score(tmp_path, "strict")) == [0, 0, 1, 1, 1, 1, 1]
