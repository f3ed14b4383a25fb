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
from volattn.inference.known import trained_among
from volattn.inference.link import paint_boxes
from volattn.inference.predict import Predictor, Progress
from volattn.inference.reader import SliceReader
from volattn.io.files import append_line, read_json_lines, write_json, write_text
from volattn.io.output import check_replaceable, claim_folder
from volattn.provenance import commit, versions
from volattn.report.outlines import draw_outlines
from volattn.structures.volume import Volume

DETECTIONS, MANIFEST, JOURNAL = "detections.csv", "detections.json", "detections.journal"
FORMAT = 2
_JOURNALLED = TypeAdapter(list[tuple[str, list[tuple[float, float, float, float, float]], str | None]])
HIT_IOU = 0.5
"""From which IoU on a picture calls a lesion found, as DeepLesion's scores do."""

_CONVENTIONS = {
    "boxes": "x1, y1, x2, y2 in pixels of the image counted from 1, both ends included, as in DL_info.csv",
    "scores": "everything that the model returns; the threshold only decides what pictures show",
}


@dataclass(frozen=True)
class KeySlicesPredicted:
    """What became of a data set.

    Attributes:
        csv: The detections.
        predicted: Key slices with a prediction, with and without detections.
        failed: The others, each with the reason.
        detections: In all.
        notes: What the reader should know.
    """

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

    Every key slice is noted in a journal as soon as it is done, so that a killed run goes on where it was; the CSV is
    written whole at the end. One bad key slice does not stop the others.

    Args:
        predictor: The model; of masks or of boxes.
        dataset: In DeepLesion's layout; all its cases are predicted.
        out: The folder for `detections.csv`, `detections.json` and pictures; made when there is none.
        threshold: The least score of a box in a picture; the model's own by default.
        pictures: Whether a `NAME.png` is drawn for every key slice.
        resume: Whether to leave out the key slices that are done with the same model and settings.
        progress: Called with ("predict", key slices done, key slices).
        force: Values that cannot be a CT's are taken all the same, with a note.

    Raises:
        ValueError: The threshold is none, or `out` is a file.
    """
    out = Path(out)
    threshold = predictor.check_threshold(threshold)
    settings = {
        "format": FORMAT,
        "model": predictor.fingerprint,
        "precision": "bfloat16" if predictor.bf16 else "float32",
        "volattn": version("volattn"),
        "force": force,
    }
    written = [out / DETECTIONS, out / MANIFEST, out / JOURNAL]
    written += [out / f"{case.name}.png" for case in dataset.cases if pictures]
    with claim_folder(out):
        check_replaceable(written)
        return _predict_all(predictor, dataset, out, settings, threshold, pictures, resume, progress)


def _predict_all(
    predictor: Predictor,
    dataset: Dataset,
    out: Path,
    settings: dict[str, Any],
    threshold: float,
    pictures: bool,
    resume: bool,
    progress: Progress | None,
) -> KeySlicesPredicted:
    journal = Journal(out / JOURNAL, settings, resume=resume and predictor.fingerprint is not None)
    found: dict[str, list[KeyDetection]] = {}
    overlooked: list[str] = []
    failed: dict[str, str] = {
        finding.case: str(finding) for finding in dataset.found if finding.case and finding.severity == "error"
    }
    for done, case in enumerate(dataset.cases, start=1):
        assert case.key_slice is not None
        picture = out / f"{case.name}.png" if pictures else None
        known = None
        try:
            case.key_slice.check()
            if picture is None or picture.is_file():
                known = journal.get(case)
            found[case.name], note = known or _predict_one(predictor, case, picture, threshold, settings["force"])
            overlooked += [] if note is None else [f"{case.name}: {note}"]
        except Exception as error:  # Whatever is wrong with one key slice must not cost the user the others.
            failed[case.name] = explain(error, case.image)
        else:
            if known is None:
                journal.add(case, found[case.name], note)
        if progress is not None:
            progress("predict", done, len(dataset.cases))
    rows = [(f"{name}.png", detection) for name, detections in found.items() for detection in detections]
    write_detections(out / DETECTIONS, rows)
    notes = (*trained_among(predictor.folder.training, list(found)), *overlooked)
    content = {
        "dataset": dataset.name,
        "parts": sorted({case.part for case in dataset.cases if case.part is not None}),
        "key_slices": len(found),
        "detections": len(rows),
        "failed": failed,
        "threshold": threshold,
        "settings": settings,
        "notes": list(notes),
        "conventions": _CONVENTIONS,
        "versions": versions(),
        "commit": commit(),
    }
    write_json(out / MANIFEST, content)
    return KeySlicesPredicted(out / DETECTIONS, tuple(found), failed, len(rows), notes)


class Journal:
    """Key slices that are done: a line each, after a line with the settings that they were done with.

    Args:
        path: The file; begun anew unless it is of these settings.
        settings: Plain values.
        resume: Whether to go on with what is there.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        head = json.dumps(settings, sort_keys=True)
        before, *rows = (read_json_lines(path) if resume and path.exists() else []) or [None]
        if json.dumps(before, sort_keys=True) != head:
            rows = []
        try:
            self._done = {name: (found, note) for name, found, note in _JOURNALLED.validate_python(rows)}
        except ValidationError:
            raise ValueError(f"{path}: has a line that is no key slice's; delete the file") from None
        lines = [head, *map(json.dumps, rows)]
        write_text(path, "".join(f"{line}\n" for line in lines))

    def get(self, case: Case) -> tuple[list[KeyDetection], str | None] | None:
        """The detections on a key slice, and what was overlooked there; None if it is not done."""
        done = self._done.get(_identity(case))
        if done is None:
            return None
        rows, note = done
        return [KeyDetection((x1, y1, x2, y2), score) for x1, y1, x2, y2, score in rows], note

    def add(self, case: Case, detections: Sequence[KeyDetection], note: str | None) -> None:
        """Notes a key slice."""
        row = [_identity(case), [[*one.box, one.score] for one in detections], note]
        append_line(self.path, json.dumps(row))


def _identity(case: Case) -> str:
    """What a key slice and its bag are read from: the table's facts, and the files' sizes and times."""
    key = case.key_slice
    assert key is not None
    facts = {name: value for name, value in asdict(key).items() if name not in ("table", "rows", "folder")}
    files = [(path.name, path.stat()) for path in key.files if path.is_file()]
    stats = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    content = json.dumps([case.name, facts, stats], sort_keys=True)
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
        _draw(picture, volume, key, boxes[scores >= threshold], scores[scores >= threshold])
    published = [as_published((x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes.tolist()]
    found = [KeyDetection(box, score) for box, score in zip(published, scores.tolist(), strict=True)]
    return found, note


def detect_on(predictor: Predictor, volume: Volume, z: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lesions on one slice of a CT, from the bag around it.

    Args:
        predictor: The model.
        volume: HU in canonical axes.
        z: The slice; it is taken as it is, its neighbours are interpolated around it.

    Returns:
        Boxes (n, 4) xyxy, half-open, in pixels of the slice, and their scores (n,), descending. Boxes of which less
        than a pixel to either side is on the slice are left out, as training leaves out such lesions.
    """
    reader = SliceReader(volume, predictor.folder.plan, anchor=z)
    ((_, found),) = predictor.detect(reader, [reader.anchored])
    boxes = reader.pixels(found.boxes)
    inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
    chosen = np.flatnonzero((found.labels == len(predictor.folder.classes)) & inside)
    chosen = chosen[np.argsort(-found.scores[chosen], kind="stable")]
    return boxes[chosen], found.scores[chosen].astype(np.float64)


def _draw(path: Path, volume: Volume, key: KeySlice, boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
    """The key slice with its boxes; what reaches an IoU of 0.5 is found."""
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
        hit_iou=HIT_IOU,
        organ=None,
        title=volume.name,
    )
