"""Key slices in, `detections.csv` out: DeepLesion's coordinates, the bags of training, nothing lost to a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from boxes_in_ct import box_predictor
from small_deeplesion import row, write_folder
from small_detectors import made, small_config

from volattn.checkpoints import ModelFolder
from volattn.datasets.case import Dataset
from volattn.datasets.deeplesion import read_detections, read_dl_info
from volattn.datasets.open import open_dataset
from volattn.inference.key_slices import detect_on, predict_key_slices
from volattn.inference.predict import Predictor
from volattn.inference.stream import stream
from volattn.io.readers.png import write_slice
from volattn.models.registry import MODELS
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.provenance import Provenance
from volattn.scoring.deeplesion import score_deeplesion
from volattn.slabs.images import image_slices, to_input

BOXES = [name for name, model in MODELS.items() if model.config.output == "boxes"]


def folder_of_bright_boxes(root: Path) -> Dataset:
    """Three scans whose lesions are as bright as a detector of brightness wants them."""
    rows = [
        row("000001_01_01", 5, (11, 9, 20, 18), Train_Val_Test="3"),
        row("000001_01_01", 5, (30, 21, 37, 27), Train_Val_Test="3"),
        row("000002_01_01", 7, (5, 30, 16, 36), slices=(4, 9), spacing=2.0, Train_Val_Test="3"),
        row("000003_01_01", 4, (21, 11, 30, 20), slices=(4, 4), Train_Val_Test="2"),
    ]
    write_folder(root, rows)
    for one in rows:
        number = int(one["Key_slice_index"])
        hu = np.full((40, 48), 60, np.int16)
        hu[:3] = -1000
        for other in rows:
            if other["File_name"] == one["File_name"]:
                x1, y1, x2, y2 = (int(float(v)) for v in other["Bounding_boxes"].split(","))
                hu[y1 - 1 : y2, x1 - 1 : x2] = 220
        scan = one["File_name"].rpartition("_")[0]
        write_slice(root / "Images_png" / scan / f"{number:03d}.png", hu)
    return open_dataset(root)


def bright(size: int = 48) -> Predictor:
    predictor = box_predictor(name="faster_rcnn")
    predictor.folder = predictor.folder.model_copy(update={"plan": Plan(z_spacing=2.0, size=size)})
    return predictor


def small_predictor(name: str, classes: tuple[str, ...] = ("lesion",), size: int = 64) -> Predictor:
    """New weights that find something everywhere."""
    config = small_config(3, name)
    folder = ModelFolder(
        model=config,
        plan=Plan(window=(-200, 300), z_spacing=2.0, size=size),
        classes=classes,
        threshold=0.5,
        provenance=Provenance(recipe="small", dataset="small", fingerprint="0"),
    )
    torch.manual_seed(0)
    model = made(config, classes=classes, dtype=torch.float32)
    return Predictor(model, folder, fingerprint="f" * 64, device="cpu")


@pytest.mark.parametrize("size", [48, 96])
def test_boxes_come_back_in_the_tables_own_pixels(tmp_path: Path, size: int) -> None:
    dataset = folder_of_bright_boxes(tmp_path / "dl")
    found = predict_key_slices(bright(size), dataset, tmp_path / "out")
    assert found.predicted == tuple(case.name for case in dataset.cases)
    assert not found.failed
    table = tmp_path / "dl" / "DL_info.csv"
    scores = score_deeplesion(table, found.csv, subset="all").content
    assert scores["mean_sensitivity"] == 1
    assert scores["ap50"] == 1
    if size == 48:  # one pixel of the input is one of the image
        known = {lesion.file_name for lesion in read_dl_info(table).lesions}
        boxes = {one.box for rows in read_detections(found.csv, known).images.values() for one in rows}
        assert boxes == {lesion.box for lesion in read_dl_info(table).lesions}


@pytest.mark.parametrize("name", ["faster_rcnn", "data_level_fusion"])
def test_bags_are_those_of_the_store_that_training_reads(tmp_path: Path, name: str) -> None:
    dataset = folder_of_bright_boxes(tmp_path / "dl")
    predictor = small_predictor(name)
    store = prepare_dataset(dataset, predictor.folder.plan, tmp_path / "store").store
    for case in dataset.cases:
        stored = store.case(case.name)

        def read(centres, stored=stored):
            needed = image_slices(centres, stored.shape[0], predictor.model.config.slices)
            return to_input(torch.from_numpy(np.asarray(stored.image[:])[needed]), store.plan.window, 64)

        ((_, wanted),) = stream(predictor.model, read, stored.shape[0], targets=stored.annotated_slices)
        assert case.key_slice is not None
        boxes, scores = detect_on(predictor, case.key_slice.read(), case.key_slice.z)
        assert len(scores) > 0
        shown = np.clip(wanted.boxes * [48 / 64, 40 / 53, 48 / 64, 40 / 53], 0, [48, 40, 48, 40])
        visible = (shown[:, 2:] - shown[:, :2] >= 1).all(axis=1)  # the input is padded below the image
        assert visible.sum() > 0
        np.testing.assert_allclose(scores, wanted.scores[visible], atol=1e-6)
        np.testing.assert_allclose(boxes, shown[visible], atol=1e-4)


def test_a_killed_run_goes_on_and_gives_the_same_file(tmp_path: Path) -> None:
    dataset = folder_of_bright_boxes(tmp_path / "dl")
    whole = predict_key_slices(bright(), dataset, tmp_path / "whole")

    def stop(what: str, done: int, total: int) -> None:
        assert (what, total) == ("predict", 3)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_key_slices(bright(), dataset, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out" / "detections.csv").exists()
    journal = tmp_path / "out" / "detections.journal"
    journal.write_text(journal.read_text() + '["cut sho')

    predictor = bright()
    calls: list[int] = []
    detect = predictor.detect
    predictor.detect = lambda reader, targets: calls.append(1) or detect(reader, targets)  # type: ignore
    again = predict_key_slices(predictor, dataset, tmp_path / "out", resume=True)
    assert len(calls) == 1
    assert again.csv.read_bytes() == whole.csv.read_bytes()

    predictor.fingerprint = "0" * 64
    predict_key_slices(predictor, dataset, tmp_path / "out", resume=True)
    assert len(calls) == 4
    path = tmp_path / "dl" / "Images_png" / "000002_01_01" / "005.png"
    write_slice(path, np.full((40, 48), 50, np.int16))
    predict_key_slices(predictor, dataset, tmp_path / "out", resume=True)
    assert len(calls) == 5


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    dataset = folder_of_bright_boxes(tmp_path / "dl")
    (tmp_path / "dl" / "Images_png" / "000001_01_01" / "006.png").unlink()
    (tmp_path / "dl" / "Images_png" / "000003_01_01" / "004.png").write_bytes(b"\x89PNG")
    found = predict_key_slices(bright(), dataset, tmp_path / "out")
    assert list(found.predicted) == ["000002_01_01_007"]
    assert "rows 2, 3: slice 6 of 3 to 8 is not there" in found.failed["000001_01_01_005"]
    assert "004.png" in found.failed["000003_01_01_004"]
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert content["failed"] == found.failed
    assert (content["key_slices"], content["subsets"]) == (1, ["test", "val"])


def test_a_score_on_what_was_trained_on_says_so(tmp_path: Path) -> None:
    dataset = folder_of_bright_boxes(tmp_path / "dl")
    predictor = bright()
    provenance = predictor.folder.provenance.model_copy(update={"cases": ("000001_01_01_005",)})
    predictor.folder = predictor.folder.model_copy(update={"provenance": provenance})
    found = predict_key_slices(predictor, dataset, tmp_path / "out")
    assert found.notes == ("the model was trained on 1 of 3 cases: their scores are no test",)


def test_pictures_on_request(tmp_path: Path) -> None:
    dataset = folder_of_bright_boxes(tmp_path / "dl")
    predict_key_slices(bright(), dataset, tmp_path / "out", pictures=True)
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {f"{case.name}.png" for case in dataset.cases}


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.slow
def test_every_detector_predicts_the_real_scans(shared_data: Path, tmp_path: Path, name: str) -> None:
    dataset = open_dataset(shared_data / "deeplesion")
    there = [case for case in dataset.cases if case.key_slice is not None and case.key_slice.missing() is None]
    assert len({case.image for case in there}) == 3
    some = Dataset(dataset.name, dataset.root, tuple(there), dataset.scheme)
    found = predict_key_slices(small_predictor(name), some, tmp_path / "out")
    assert not found.failed
    assert len(found.predicted) == len(there)
    scores = score_deeplesion(dataset.root / "DL_info.csv", found.csv, subset="all").content
    assert scores["detections"] == found.detections
    assert not scores["failed"]
