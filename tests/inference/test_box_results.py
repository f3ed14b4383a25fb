"""A detector of boxes on CTs: boxes on the input's voxels, JSON that the scorer reads, no masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from boxes_in_ct import LESION_BOXES, SHAPE, box_predictor, ct, truth, turns

from volattn.inference.results import predict_files
from volattn.io.output import LOCK
from volattn.io.readers import write_labels, write_volume
from volattn.scoring.detection import PRESETS, score_detections


@pytest.mark.parametrize("index", range(0, 48, 7))
def test_boxes_are_on_the_voxels_of_the_file(index: int) -> None:
    turn = list(turns())[index]
    prediction = box_predictor(name="faster_rcnn").predict(ct(turn))
    assert not prediction.masks
    assert prediction.organ is None
    assert len(prediction.lesions) == 2
    lesions = turn.undo(truth()) == 2
    for record in prediction.lesions:
        inside = np.zeros(lesions.shape, bool)
        inside[tuple(slice(*ends) for ends in zip(record.box[:3], record.box[3:], strict=True))] = True
        assert inside.sum() in [np.prod(np.subtract(box[3:], box[:3])) for box in LESION_BOXES]
        assert lesions[inside].all()
        assert (record.volume_ml, record.long_axis_mm) == (None, None)
        assert record.bag is not None
    np.testing.assert_array_equal(prediction.lesion_map > 0, lesions)
    np.testing.assert_array_equal(prediction.labels == 2, lesions)
    scores = [record.score for record in prediction.lesions]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("spacing", [(0.5, 0.8, 0.8), (0.75, 0.8, 0.8), (2.9, 0.8, 0.8), (4.0, 1.6, 1.6)])
def test_other_slices_than_the_models_hold_the_lesion(spacing: tuple[float, float, float]) -> None:
    """Boxes reach half a step to either side; finer slices are all there, coarser ones are not doubled."""
    prediction = box_predictor(name="retinanet").predict(ct(spacing=spacing))
    for record in prediction.lesions:
        box = min(LESION_BOXES, key=lambda one: abs(np.subtract(one, record.box)).sum())
        slack = np.ceil(1.5 / spacing[0])
        assert abs(np.subtract(box, record.box))[[1, 2, 4, 5]].max() == 0
        assert abs(np.subtract(box, record.box)).max() <= slack
        assert record.box[0] >= 0
        assert record.box[3] <= SHAPE[0]


@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_two_files_that_the_scorer_reads(tmp_path: Path, tilt: float) -> None:
    volume = ct(list(turns())[29], tilt)
    write_volume(tmp_path / "in" / "case-7.nii.gz", volume)
    lesions = list(turns())[29].undo(truth() == 2).astype(np.uint8)
    write_labels(tmp_path / "reference" / "case-7.nii.gz", lesions, volume)
    outcomes = predict_files(
        box_predictor(name="faster_rcnn"), [tmp_path / "in"], tmp_path / "out", reference=tmp_path / "reference"
    )
    assert [(one.status, one.lesions) for one in outcomes] == [("predicted", 2)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [LOCK, "case-7.json", "case-7.png"]
    content = json.loads((tmp_path / "out" / "case-7.json").read_text())
    assert content["model"]["finds"] == "boxes"
    assert content["organ"] is None
    for lesion in content["lesions"]:
        assert "volume_ml" not in lesion
        assert set(lesion) == {"id", "score", "box_voxels", "box_lps_mm", "key_slice", "best_detection"}

    scores = score_detections(tmp_path / "reference", tmp_path / "out", PRESETS["strict"]).content
    assert scores["lesions"] == 2
    assert scores["mean_sensitivity"] == 1

    again = predict_files(
        box_predictor(name="faster_rcnn"),
        [tmp_path / "in"],
        tmp_path / "out",
        reference=tmp_path / "reference",
        resume=True,
    )
    assert [one.status for one in again] == ["skipped"]
