"""Boxes on the key slices of a data set in DeepLesion's layout: `detections.csv`, what was run, and pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from volattn.datasets.case import BACKGROUND, LESION, Case, Dataset
from volattn.datasets.ct_values import check_values
from volattn.datasets.deeplesion import KeyDetection, as_published, write_detections
from volattn.datasets.key_slice import KeySlice
from volattn.faults import explain
from volattn.inference.link import paint_boxes
from volattn.inference.predict import Predictor
from volattn.inference.stitch import class_boxes
from volattn.inference.stream import SliceReader
from volattn.io.files import append_line, read_json_lines, write_json, write_text
from volattn.io.output import check_replaceable, claim_folder
from volattn.provenance import commit, versions
from volattn.report.outlines import draw_outlines
from volattn.structures.volume import Volume
from volattn.workers import Progress, map_items

DETECTIONS, MANIFEST, JOURNAL = "detections.csv", "detections.json", "detections.journal"
FORMAT = 3
_JOURNALLED = TypeAdapter(list[tuple[str, list[tuple[float, float, float, float, float]], str | None]])
_CONVENTIONS = {
    "boxes": "x1, y1, x2, y2 in pixels of the image counted from 1, both ends included, as in DL_info.csv",
    "scores": "everything that the model returns; the threshold only decides what pictures show",
}


@dataclass(frozen=True)
class KeySlicesPredicted:
    """The file of detections and how many there are; the key slices in it, and the failed ones with their reasons."""

    csv: Path
    predicted: tuple[str, ...]
    failed: dict[str, str]
    detections: int
    notes: tuple[str, ...]


def predict_key_slices(
    predictor: Predictor,
    dataset: Dataset,
    out: Path | str,
    *,
    threshold: float | None = None,
    pictures: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    force: bool = False,
) -> KeySlicesPredicted:
    """Detects lesions on key slices, each with the slices that were published around it.

    For options see `volattn.api.predict_key_slices`. Every finished key slice is noted in a journal, so that a killed
    run can be resumed; the CSV is written at the end. One bad key slice does not stop the others.

    Raises:
        ValueError: The threshold is outside [0, 1], or `out` is a file.
    """
    out = Path(out)
    threshold = predictor.check_threshold(threshold)
    settings = {
        "format": FORMAT,
        "model": predictor.fingerprint,
        "precision": predictor.precision,
        "volattn": version("volattn"),
        "force": force,
    }
    drawn = {case.name: out / f"{case.name}.png" for case in dataset.cases if pictures}
    with claim_folder(out):
        check_replaceable([out / DETECTIONS, out / MANIFEST, out / JOURNAL, *drawn.values()])
        journal = Journal(out / JOURNAL, settings, resume=resume and predictor.fingerprint is not None)

        def predict_one(case: Case) -> tuple[list[KeyDetection], str | None]:
            assert case.key_slice is not None
            case.key_slice.check()
            picture = drawn.get(case.name)
            finished = journal.get(case) if picture is None or picture.is_file() else None
            if finished is not None:
                return finished
            found, note = _predict_one(predictor, case, picture, threshold, force)
            journal.add(case, found, note)
            return found, note

        found: dict[str, list[KeyDetection]] = {}
        doubts: list[str] = []
        failed: dict[str, str] = {
            issue.case: str(issue) for issue in dataset.found if issue.case and issue.severity == "error"
        }
        for done, (case, result) in enumerate(map_items(predict_one, dataset.cases), start=1):
            if isinstance(result, Exception):  # One bad key slice must not cost the user the others.
                failed[case.name] = explain(result, case.image)
            else:
                found[case.name], note = result
                doubts += [] if note is None else [f"{case.name}: {note}"]
            if progress is not None:
                progress("predict", done, len(dataset.cases))
        rows = [(f"{name}.png", detection) for name, detections in found.items() for detection in detections]
        write_detections(out / DETECTIONS, rows)
        provenance, warning = predictor.folder.provenance, predictor.folder.warning
        notes = (*(provenance.notes_on(list(found)) if provenance else ()), *doubts)
        content = {
            "dataset": dataset.name,
            "subsets": sorted({case.subset for case in dataset.cases if case.subset is not None}),
            "key_slices": len(found),
            "detections": len(rows),
            "failed": failed,
            "threshold": threshold,
            "settings": settings,
            "notes": [*([] if warning is None else [warning]), *notes],
            "conventions": _CONVENTIONS,
            "versions": versions(),
            "commit": commit(),
        }
        write_json(out / MANIFEST, content)
    return KeySlicesPredicted(out / DETECTIONS, tuple(found), failed, len(rows), notes)


class Journal:
    """Finished key slices, a line each, after a line with their settings; emptied if those are others."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        head = json.dumps(settings, sort_keys=True)
        before, *rows = (read_json_lines(path) if resume and path.exists() else []) or [None]
        if json.dumps(before, sort_keys=True) != head:
            rows = []
        try:
            self._finished = {name: (found, note) for name, found, note in _JOURNALLED.validate_python(rows)}
        except ValidationError:
            raise ValueError(f"{path}: has a line that is no key slice's; delete the file") from None
        lines = [head, *map(json.dumps, rows)]
        write_text(path, "".join(f"{line}\n" for line in lines))

    def get(self, case: Case) -> tuple[list[KeyDetection], str | None] | None:
        """The detections on a key slice, and a note on its values; None if it is not finished."""
        finished = self._finished.get(_identity(case))
        if finished is None:
            return None
        rows, note = finished
        return [KeyDetection((x1, y1, x2, y2), score) for x1, y1, x2, y2, score in rows], note

    def add(self, case: Case, detections: Sequence[KeyDetection], note: str | None) -> None:
        row = [_identity(case), [[*one.box, one.score] for one in detections], note]
        append_line(self.path, json.dumps(row))


def _identity(case: Case) -> str:
    """A hash of what a key slice and its bag are read from: the table's values, and the files' sizes and times."""
    key = case.key_slice
    assert key is not None
    values = {name: value for name, value in asdict(key).items() if name not in ("table", "rows", "folder")}
    files = [(path.name, path.stat()) for path in key.files if path.is_file()]
    stats = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    content = json.dumps([case.name, values, stats], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _predict_one(
    predictor: Predictor, case: Case, picture: Path | None, threshold: float, force: bool
) -> tuple[list[KeyDetection], str | None]:
    key = case.key_slice
    assert key is not None
    volume = key.read(case.name)
    note = check_values(volume.array, key.called, force)
    boxes, scores = detect_on(predictor, volume, key.z)
    if picture is not None:
        drawn = scores >= threshold
        _draw(picture, volume, key, boxes[drawn], scores[drawn], predictor.folder.warning)
    published = [as_published((x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes.tolist()]
    found = [KeyDetection(box, score) for box, score in zip(published, scores.tolist(), strict=True)]
    return found, note


def detect_on(predictor: Predictor, volume: Volume, z: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lesions on one slice of a CT, from the bag around it.

    Args:
        volume: HU in canonical axes.
        z: The slice; it is used unchanged, its neighbours are interpolated around it.

    Returns:
        Boxes (n, 4) xyxy, half-open, in pixels of the slice, and their scores (n,), descending. Boxes of which less
        than a pixel to either side is on the slice are left out, as training leaves out such lesions.
    """
    reader = SliceReader(volume, predictor.folder.plan, fixed_z=z)
    ((_, found),) = predictor.detect(reader, [reader.resampled.fixed_slice])
    inputs, scores = class_boxes(found, len(predictor.folder.classes))
    boxes = reader.pixels(inputs)
    chosen = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    return boxes[chosen], scores[chosen].astype(np.float64)


def _draw(
    path: Path,
    volume: Volume,
    key: KeySlice,
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    warning: str | None,
) -> None:
    lesions = paint_boxes(boxes, key.shape)[None]
    truth = paint_boxes(np.array(key.inside()).reshape(-1, 4), key.shape)[None]
    draw_outlines(
        path,
        volume.array[key.z : key.z + 1],
        np.where(lesions > 0, np.uint8(LESION), np.uint8(BACKGROUND)),
        lesions,
        key.spacing,
        scores=scores.tolist(),
        reference=np.where(truth > 0, np.uint8(LESION), np.uint8(BACKGROUND)),
        hit_iou=0.5,  # from which DeepLesion's scores call a lesion found
        organ=None,
        title=volume.name,
        footer=warning or "",
    )
