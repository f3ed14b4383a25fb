"""Validation by boxes says what the scorer of `volattn evaluate deeplesion` says of the same boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score
from small_runs import write_store

from volattn.datasets.deeplesion import KeyDetection, write_detections, write_dl_info
from volattn.inference.stream import SliceDetections
from volattn.preprocessing.store import Store
from volattn.scoring.deeplesion import score_deeplesion
from volattn.slabs.slab import component_maps, objects
from volattn.structures.boxes import box_iou
from volattn.training.validate import CANDIDATES, Validation
from volattn.training.validate_boxes import BoxEvaluator, f1_curve

NAMES = ("volume-0", "volume-1", "volume-2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store")


def lesions_of(store: Store, name: str, z: int) -> np.ndarray:
    """(m, 4) xyxy, half-open; a slice is as large as the input."""
    return objects(component_maps(np.asarray(store.case(name).labels[z]), 1))["boxes"].double().numpy()


def invented(lesions: np.ndarray, seed: int) -> SliceDetections:
    """Boxes near the lesions, twice at times, and elsewhere; organs among them."""
    generator = np.random.default_rng(seed)
    near = np.repeat(lesions, 2, axis=0) + generator.uniform(-3, 3, (2 * len(lesions), 4))
    corner = generator.uniform(0, 40, (2, 2))
    boxes = np.concatenate([near, np.concatenate([corner, corner + 12], axis=1), [[5, 5, 60, 60]]])
    labels = np.array([2] * (len(boxes) - 1) + [1])
    scores = np.round(generator.uniform(0.05, 1, len(boxes)), 1)
    order = np.argsort(-scores)
    return SliceDetections(boxes[order].astype(np.float32), labels[order], scores[order].astype(np.float32), None, {})


def read(store: Store) -> Validation:
    found = {}
    for number, name in enumerate(NAMES):
        accumulator = BoxEvaluator().start(store, store.case(name))
        for z in store.case(name).annotated_slices:
            accumulator.add(z, invented(lesions_of(store, name, z), 100 * number + z))
        found[name] = accumulator.finish()
    return BoxEvaluator().summarise(found, {"channel.0": 0.5})


def test_the_scores_are_those_of_the_scorer(store: Store, tmp_path: Path) -> None:
    """Through files: a table of the same lesions, and detections in its own coordinates."""
    rows, detections = [], []
    for number, name in enumerate(NAMES):
        for z in range(14):
            lesions = lesions_of(store, name, z)
            key = f"{number + 1:06d}_01_01_{z:03d}.png"
            for x0, y0, x1, y1 in lesions.tolist():
                box = f"{x0 + 1:g}, {y0 + 1:g}, {x1:g}, {y1:g}"
                rows.append(
                    {
                        "File_name": key,
                        "Patient_index": str(number),
                        "Bounding_boxes": box,
                        "Lesion_diameters_Pixel_": "10, 5",
                        "Coarse_lesion_type": "-1",
                        "Possibly_noisy": "0",
                        "Spacing_mm_px_": "1, 1, 1",
                        "Train_Val_Test": "3",
                    }
                )
            if len(lesions):  # the table knows no slices without lesions
                found = invented(lesions, 100 * number + z)
                for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
                    x0, y0, x1, y1 = box.astype(float).tolist()
                    if label == 2:
                        detections.append((key, KeyDetection((x0 + 1, y0 + 1, x1, y1), float(score))))
    write_dl_info(tmp_path / "DL_info.csv", rows)
    write_detections(tmp_path / "detections.csv", detections)
    expected = score_deeplesion(tmp_path / "DL_info.csv", tmp_path / "detections.csv").content

    found = {}
    for number, name in enumerate(NAMES):
        accumulator = BoxEvaluator().start(store, store.case(name))
        for z in range(14):
            lesions = lesions_of(store, name, z)
            if len(lesions):
                accumulator.add(z, invented(lesions, 100 * number + z))
        found[name] = accumulator.finish()
    scores = BoxEvaluator().summarise(found, {}).scores
    assert 0.1 < scores["mean_sensitivity"] < 0.95
    assert scores["mean_sensitivity"] == pytest.approx(expected["mean_sensitivity"])
    assert scores["sensitivity_at_1"] == pytest.approx(expected["sensitivity_at_fp_per_image"]["1"])
    assert scores["ap50"] == pytest.approx(expected["ap50"])


def test_what_is_counted_at_the_threshold_gives_the_best_f1(store: Store) -> None:
    validation = read(store)
    assert list(validation.cases) == list(NAMES)
    totals = {key: sum(case[key] for case in validation.cases.values()) for key in validation.cases["volume-0"]}
    found, missed = totals["found"], totals["lesions"] - totals["found"]
    best = 2 * found / (2 * found + missed + totals["false_positives"])
    assert missed > 0
    assert totals["false_positives"] > 0
    matched = [
        (boxed.score, boxed.matched is not None, bool(boxed.lesions))
        for number, name in enumerate(NAMES)
        for z in range(14)
        for boxed in _matched(store, name, z, 100 * number + z)
    ]
    for threshold in CANDIDATES:
        kept = [row for row in matched if np.float32(row[0]) >= threshold]
        hits, false = sum(row[1] for row in kept), sum(not row[2] for row in kept)
        assert 2 * hits / max(1, 2 * hits + (totals["lesions"] - hits) + false) <= best + 1e-12


def _matched(store: Store, name: str, z: int, seed: int):
    accumulator = BoxEvaluator().start(store, store.case(name))
    accumulator.add(z, invented(lesions_of(store, name, z), seed))
    return accumulator.finish()[0].detections


def test_f1_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    matched, false = generator.uniform(0, 1, 30).astype(np.float32), generator.uniform(0, 1, 20)
    curve = f1_curve(matched, false.astype(np.float32), lesions=36)
    for place in (0, 40, 94):
        kept = np.concatenate([matched, false]) >= CANDIDATES[place]
        truth = np.array([1] * 30 + [0] * 20 + [1] * 6)
        assert curve[place] == pytest.approx(f1_score(truth, [*kept, *[False] * 6]))


def test_boxes_are_compared_in_the_slices_own_pixels(store: Store) -> None:
    """A slice of half the input's size: boxes of the input are halved, and the marked boxes are taken as they are."""
    case = store.case("volume-0")
    plan = store.plan.model_copy(update={"size": 128})
    larger = Store(store.path, store.description.model_copy(update={"plan": plan}))
    z = int(np.argmax(case.slices.lesion_pixels))
    lesions = lesions_of(store, "volume-0", z)
    exact = SliceDetections(
        (2 * lesions).astype(np.float32), np.array([2] * len(lesions)), np.ones(len(lesions), np.float32), None, {}
    )
    accumulator = BoxEvaluator().start(larger, case)
    accumulator.add(z, exact)
    assert [one.matched for one in accumulator.finish()[0].detections] == list(range(len(lesions)))
    half = box_iou(lesions, 2 * lesions).max()
    assert half < 0.5


def test_without_a_lesion_nothing_is_found_and_json_can_say_so(store: Store) -> None:
    case = store.case("volume-0")
    accumulator = BoxEvaluator().start(store, case)
    accumulator.add(0, invented(np.zeros((0, 4)), 0))
    found = BoxEvaluator().summarise({"volume-0": accumulator.finish()}, {})
    assert found.scores == {"mean_sensitivity": 0, "sensitivity_at_1": 0, "ap50": 0}
    assert json.loads(json.dumps(found.model_dump(), allow_nan=False)) == found.model_dump()
