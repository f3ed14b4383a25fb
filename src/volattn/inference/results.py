"""Many CTs in, some files each out: label maps, JSON and a picture."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from volattn.datasets.case import Case
from volattn.faults import explain
from volattn.inference.inputs import References, find_inputs
from volattn.inference.predict import Predictor
from volattn.inference.prediction import Files, Prediction
from volattn.inference.stitch import MASK_PROBABILITY, ORGAN_SCORE
from volattn.io.files import sha256
from volattn.io.names import count_of, one_line, printable
from volattn.io.output import check_replaceable, claim_folder
from volattn.io.readers import read_header
from volattn.workers import Progress, map_items

FORMAT = 2
"""Version of the JSON; results of another one are not resumed."""


@dataclass(frozen=True)
class Outcome:
    """The outcome for one CT.

    Attributes:
        status: "predicted", "skipped" (finished before, with the same input, model and settings) or "failed".
        lesions: How many were found; None if it failed.
        notes: What the reader should know, e.g. that the model was trained on this case.
    """

    name: str
    image: Path
    status: Literal["predicted", "skipped", "failed"]
    lesions: int | None = None
    notes: tuple[str, ...] = ()
    error: Exception | None = field(default=None, compare=False)
    seconds: float = 0.0

    @property
    def message(self) -> str:
        """One line."""
        if self.error is not None:
            return explain(self.error, self.image)
        assert self.lesions is not None
        return "; ".join([f"{self.name}: {count_of(self.lesions, 'lesion')}", *self.notes])


@dataclass(frozen=True)
class _Job:
    """The settings for all CTs of a run; see `predict_files`."""

    predictor: Predictor
    out: Path
    threshold: float
    references: References | None
    resume: bool
    force: bool
    trust_grid: bool

    def files(self, name: str) -> Files:
        return Files.of(self.out, name, self.predictor.masks)


def predict_files(
    predictor: Predictor,
    inputs: Sequence[Path | str],
    out: Path | str,
    *,
    threshold: float | None = None,
    reference: Path | str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    force: bool = False,
    trust_grid: bool = False,
) -> list[Outcome]:
    """Predicts CTs one after the other and writes the files of each; see `volattn.predict`.

    Files appear complete or not at all, and the JSON appears last. One bad case does not stop the others.

    Args:
        progress: Called with ("1/3 NAME", slices done, slices).

    Returns:
        One outcome per CT. What the model's warning says is in the JSON, not in the outcomes' notes.

    Raises:
        ValueError: Nothing could be done: no input, two of one name, a result would overwrite an input or a
            reference, a threshold outside [0, 1], or no usable reference folder.
    """
    out = Path(out)
    found = find_inputs(inputs)
    references = None if reference is None else References.open(reference, predictor.folder.classes)
    job = _Job(predictor, out, predictor.check_threshold(threshold), references, resume, force, trust_grid)
    written = _check_outputs(job, found.cases)
    outcomes: list[Outcome] = []

    def predict_one(case: Case) -> Outcome:
        label = f"{len(outcomes) + 1}/{len(found.cases)} {case.name}"
        report = None if progress is None else lambda _, done, total: progress(label, done, total)
        try:
            return _predict_one(job, case, report)
        except torch.OutOfMemoryError:
            raise ValueError(f"{case.image}: out of GPU memory; lower the batch, or use the CPU") from None

    with claim_folder(out):
        check_replaceable(written)
        began = time.monotonic()
        for case, result in map_items(predict_one, found.cases):
            if isinstance(result, Exception):  # One bad case must not cost the user the others.
                result = Outcome(case.name, case.image, "failed", error=result)
            outcomes.append(replace(result, seconds=time.monotonic() - began))
            began = time.monotonic()
    outcomes += [
        Outcome(one_line(one.file.name), one.file, "failed", error=ValueError(f"{one.file}: {one.fault}"))
        for one in found.left_out
        if one.fault is not None
    ]
    return outcomes


def _predict_one(job: _Job, case: Case, progress: Progress | None) -> Outcome:
    name, image, predictor = case.name, case.image, job.predictor
    files = job.files(name)
    notes: list[str] = []
    read_header(image)  # Refuses sizes that are too large before anything is read.
    digest = sha256(image)
    reference, reference_digest = _find_reference(job.references, case, notes)
    crf = predictor.folder.model.refinement
    settings = {
        "format": FORMAT,
        "input": digest,
        "model": predictor.fingerprint,
        "threshold": job.threshold,
        "organ_threshold": ORGAN_SCORE,
        "mask_probability": MASK_PROBABILITY,
        "refinement": None if crf is None else crf.model_dump(),
        "precision": predictor.precision,
        "auxiliary": predictor.report_auxiliary,
        "neighbours": predictor.neighbours,
        "reference": reference_digest,
        "force": job.force,
        "trust_grid": job.trust_grid,
        "volattn": version("volattn"),
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    warning = predictor.folder.warning
    if job.resume and predictor.fingerprint is not None:
        finished = _read_finished(files, fingerprint)
        if finished is not None:
            known = tuple(note for note in finished["notes"] if note != warning)
            return Outcome(name, image, "skipped", len(finished["lesions"]), known)

    prediction = predictor.predict(image, job.threshold, progress, force=job.force)
    notes += prediction.notes
    truth = _read_reference(job, reference, prediction, notes)
    provenance = predictor.folder.provenance
    seen = None if provenance is None else provenance.seen(digest, name)
    if seen is not None:
        notes.append(seen.note)
    record = {
        "name": name,
        "fingerprint": fingerprint,
        "file": printable(image.name),
        "reference": None if truth is None or reference is None else reference.name,
        "seen_in_training": None if seen is None else seen.model_dump(),
        "notes": notes,
        "settings": settings,
    }
    prediction.write(files, record, reference=truth)
    shown = tuple(note for note in notes if note != warning)
    return Outcome(name, image, "predicted", len(prediction.lesions), shown)


def _check_outputs(job: _Job, cases: Sequence[Case]) -> list[Path]:
    """The files that are going to be written; none of them is an input, and none is written twice."""
    kept = {case.image.resolve(): "the CT" for case in cases}
    if job.references is not None:
        kept |= {file.resolve(): "the reference" for file in job.references.files.values()}
    written: dict[Path, Path] = {}
    results = [(case.image, path) for case in cases for path in job.files(case.name).paths]
    for image, result in results:
        place = result.resolve()
        if place in kept:
            raise ValueError(f"{result}: is {kept[place]} itself; give another folder for the results")
        if place in written:
            raise ValueError(
                f"{written[place]} and {image} would both be written as {result.name}; "
                "rename one, or predict them into two folders"
            )
        written[place] = image
    return [result for _, result in results]


def _find_reference(
    references: References | None, case: Case, notes: list[str]
) -> tuple[Path, str] | tuple[None, None]:
    """The reference of a case and its hash. A bad one costs the comparison, not the prediction, here and below."""
    if references is None:
        return None, None
    try:
        path = references.find(case)
        if path is not None:
            return path, sha256(path)
        notes.append(f"no reference for it in {references.folder}")
    except (ValueError, OSError) as error:
        notes.append(f"without its reference: {explain(error)}")
    return None, None


def _read_reference(job: _Job, path: Path | None, prediction: Prediction, notes: list[str]) -> NDArray[np.uint8] | None:
    if job.references is None or path is None:
        return None
    try:
        truth, note = job.references.read(path, prediction.volume, job.trust_grid)
    except Exception as error:  # Damaged files make readers raise anything.
        notes.append(f"without its reference: {explain(error, path)}")
        return None
    notes += [] if note is None else [note]
    return truth


def _read_finished(files: Files, fingerprint: str) -> dict[str, Any] | None:
    """The JSON of a finished case with this fingerprint; None if there is none."""
    if not all(path.is_file() for path in files.paths):
        return None
    try:
        content = json.loads(files.json.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("fingerprint") == fingerprint else None
