"""Average precision, against pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_slices import Slices, random_slices, scored
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from volattn.scoring.deeplesion import FROC
from volattn.scoring.pool import Pool


def ap50(slices: Slices) -> float:
    pool = Pool(scored(slices), FROC)
    return float(pool.measure(pool.whole())[0, -1])


def coco_ap50(slices: Slices, ignored: set[tuple[str, int]] = frozenset()) -> float:  # type: ignore[assignment]
    """pycocotools on the same pixels: x2 - x1 + 1 of them in a row."""

    def box(x1: float, y1: float, x2: float, y2: float) -> list[float]:
        return [x1, y1, x2 - x1 + 1, y2 - y1 + 1]

    names = sorted(slices)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [{"id": number} for number in range(len(names))],
            "categories": [{"id": 1}],
            "annotations": [
                {
                    "id": 1000 * number + place + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": box(*lesion),
                    "area": box(*lesion)[2] * box(*lesion)[3],
                    "iscrowd": 0,
                }
                for number, name in enumerate(names)
                for place, lesion in enumerate(sorted(slices[name][0]))
            ],
        }
        reference.createIndex()
        found = [
            {"image_id": number, "category_id": 1, "bbox": box(*one), "score": score}
            for number, name in enumerate(names)
            for one, score in slices[name][1]
        ]
        if not found:
            return 0.0
        evaluation = COCOeval(reference, reference.loadRes(found), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"][0, :, 0, 0, 2].mean())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**20))
def test_pycocotools(seed: int) -> None:
    slices = random_slices(seed, count=8)
    assert ap50(slices) == pytest.approx(coco_ap50(slices), abs=1e-12)


def test_no_more_than_a_hundred_detections_of_an_image() -> None:
    slices = random_slices(3, count=3)
    name = next(iter(slices))
    lesions, _ = slices[name]
    far = [((400.0 + n, 400.0, 420.0 + n, 420.0), 0.9 - n * 1e-4) for n in range(100)]
    slices[name] = (lesions, [*far, (lesions[0], 0.5)])
    assert ap50(slices) == pytest.approx(coco_ap50(slices), abs=1e-12)
    slices[name] = (lesions, [*far[1:], (lesions[0], 0.5)])
    assert ap50(slices) == pytest.approx(coco_ap50(slices), abs=1e-12)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**20))
def test_a_patient_that_counts_twice_is_there_twice(seed: int) -> None:
    slices = random_slices(seed)
    pool = Pool(scored(slices), FROC)
    weights = np.random.default_rng(seed).integers(0, 3, len(pool.patients)).astype(float)
    weights[0] += 1
    repeated: Slices = {}
    for name, content in slices.items():
        for copy in range(int(weights[pool.patients.index(str(int(name.split("_")[0])))])):
            repeated[f"{name[:-4]}_{copy}.png"] = content
    assert pool.measure(pool.whole(), weights)[0, -1] == pytest.approx(ap50(repeated), abs=1e-12)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**20))
def test_detections_of_other_lesions_are_left_out(seed: int) -> None:
    """A group's average precision is that of a data set without the other lesions and what was matched to them."""
    slices = random_slices(seed)
    images = scored(slices)
    pool = Pool(images, FROC)
    chosen = np.random.default_rng(seed).random(pool.lesions) < 0.5
    chosen[0] = True
    kept: Slices = {}
    first = 0
    for image in pool.images:
        lesions = sorted(slices[image.name][0])
        ordered = sorted(slices[image.name][1], key=lambda one: (-one[1], one[0]))
        wanted = chosen[first : first + len(lesions)]
        far = [(900.0 + place, 900.0, 901.0 + place, 901.0) for place in range(len(ordered))]
        detections = [
            (box if record.matched is not None else far[place], score)
            for place, ((box, score), record) in enumerate(zip(ordered, image.detections, strict=True))
            if record.matched is None or wanted[record.matched]
        ]
        # Far off, what was matched to nothing stays so whichever lesions are left.
        kept[image.name] = ([box for box, keep in zip(lesions, wanted, strict=True) if keep], detections)
        first += len(lesions)
    with_lesions = {name: content for name, content in kept.items() if content[0]}
    others = {name: content for name, content in kept.items() if not content[0]}
    if not with_lesions:
        return
    name = next(iter(with_lesions))
    for number, (_, found) in enumerate(others.values(), start=1):
        away = [((box[0], box[1] + 50 * number, box[2], box[3] + 50 * number), s) for box, s in found]
        with_lesions[name][1].extend(away)
    value = float(pool.measure(chosen[None])[0, -1])
    assert value == pytest.approx(coco_ap50(with_lesions), abs=1e-12)
