"""Many CTs in, some files each out: the label map and the lesion map of masks, the JSON and the picture."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from volattn.datasets.case import Case
from volattn.faults import explain
from volattn.inference.inputs import References, find_inputs
from volattn.inference.known import known_case
from volattn.inference.predict import Prediction, Predictor, Progress
from volattn.inference.records import AXES
from volattn.inference.stitch import MASK_PROBABILITY, ORGAN_SCORE
from volattn.io.files import sha256, write_json
from volattn.io.names import count_of, one_line, printable
from volattn.io.output import check_replaceable, claim_folder
from volattn.io.readers.nifti import read_header, write_labels
from volattn.provenance import commit, versions
from volattn.report.outlines import draw_outlines

FORMAT = 1
"""Version of the JSON; results of another one are not resumed."""

_CONVENTIONS = {
    "voxels": (
        f"indices into the file's array in the order {AXES} (NIfTI's i, j, k reversed), from 0; boxes are half-open"
    ),
    "lps_mm": "x to the patient's left, y to the back, z to the head; the bounds include the voxels' edges",
    "key_slice": (
        "the slice with the long axis (of boxes: with the highest score), along the file's slice axis and counted from "
        "the feet"
    ),
    "bag": (
        "centres of the slices that gave context to the lesion's best detection, with the attention that "
        "each got (mean over the pyramid's levels); model slices are resampled ones, counted from the feet"
    ),
}


class Files(NamedTuple):
    """What is written for one CT.

    Attributes:
        json: Everything that is said of its lesions; written last, so that its presence says that the others are whole.
        picture: The slices with the largest lesions.
        labels: 0 background, 1 organ, 2 lesion; None of a detector of boxes.
        lesions: One number per 3D lesion; None of a detector of boxes.
    """

    json: Path
    picture: Path
    labels: Path | None
    lesions: Path | None

    @classmethod
    def of(cls, out: Path, name: str, masks: bool) -> Files:
        """The files of a CT in a folder."""
        maps = (out / f"{name}.nii.gz", out / f"{name}_lesions.nii.gz") if masks else (None, None)
        return cls(out / f"{name}.json", out / f"{name}.png", *maps)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All there are, the JSON first."""
        return tuple(path for path in self if path is not None)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Removes all of them, new and of an earlier run, if the block that writes them fails."""
        self.json.unlink(missing_ok=True)  # It vouches for the others, which are about to change.
        try:
            yield
        except BaseException:
            for path in self.paths:
                path.unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class Outcome:
    """What became of one CT.

    Attributes:
        name: Its name, without `.nii.gz`.
        image: Its file.
        status: "predicted", "skipped" (finished before, with the same input, model and settings) or "failed".
        lesions: How many were found; None if it failed.
        notes: What the reader should know, e.g. that the model was trained on this case.
        error: Why it failed.
        seconds: How long it took.
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
        what = count_of(self.lesions, "lesion")
        return "; ".join([f"{self.name}: {what}", *self.notes])


@dataclass(frozen=True)
class Job:
    """What holds for all CTs of a run.

    Attributes:
        predictor: The model.
        out: The folder that is written to.
        threshold: Lesion detections below this score are dropped.
        references: Where reference segmentations are looked for.
        resume: Whether finished cases are left as they are.
        force: See `predict_files`, as is `trust_grid`.
    """

    predictor: Predictor
    out: Path
    threshold: float
    references: References | None
    resume: bool
    force: bool = False
    trust_grid: bool = False

    def files(self, name: str) -> Files:
        """What is written for a CT."""
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
    """Predicts CTs one after the other and writes `NAME.nii.gz`, `NAME_lesions.nii.gz`, `NAME.json`, `NAME.png`; of a
    detector of boxes the last two.

    Files appear whole or not at all, and the JSON appears last. One bad case does not stop the others.

    Args:
        predictor: The model.
        inputs: Files and folders, see `find_inputs`.
        out: The folder for the results; made when there is one.
        threshold: Lesion detections below this score are dropped; the model's own by default.
        reference: A folder with reference segmentations, for the pictures; see `References`.
        resume: Whether to skip the cases that are finished with the same input, model and settings.
        progress: Called with ("1/3 NAME", slices done, slices).
        force: Values that cannot be a CT's are taken all the same, with a note.
        trust_grid: References of the CT's shape are taken as they lie, whatever their own grid says, with a note.

    Returns:
        One outcome per CT.

    Raises:
        ValueError: Nothing could be done: no input, two of one name, a result would overwrite an input or a
            reference, a threshold that is none, or a reference folder that is none.
    """
    out = Path(out)
    found = find_inputs(inputs)
    cases = found.cases
    references = None if reference is None else References.open(reference, predictor.folder.classes)
    job = Job(predictor, out, predictor.check_threshold(threshold), references, resume, force, trust_grid)
    written = _check_outputs(job, cases)
    outcomes = []
    with claim_folder(out):
        check_replaceable(written)
        for index, case in enumerate(cases, start=1):
            begun = time.monotonic()
            label = f"{index}/{len(cases)} {case.name}"
            try:
                outcome = _predict_one(job, case, _renamed(progress, label))
            except torch.OutOfMemoryError:
                advice = f"{case.image}: out of GPU memory; lower the batch, or use the CPU"
                outcome = _failed(case, ValueError(advice))
            except Exception as error:  # Whatever is wrong with one case must not cost the user the others.
                outcome = _failed(case, error)
            outcomes.append(replace(outcome, seconds=time.monotonic() - begun))
    outcomes += [
        Outcome(one_line(one.file.name), one.file, "failed", error=ValueError(f"{one.file}: {one.fault}"))
        for one in found.left_out
        if one.fault is not None
    ]
    return outcomes


def _predict_one(job: Job, case: Case, progress: Progress | None) -> Outcome:
    name, image = case.name, case.image
    files = job.files(name)
    notes: list[str] = []
    read_header(image)  # Sizes are judged before anything is read.
    source = sha256(image)
    reference = _find_reference(job.references, case, notes)
    crf = job.predictor.folder.model.segmentation.crf
    settings = {
        "format": FORMAT,
        "input": source,
        "model": job.predictor.fingerprint,
        "threshold": job.threshold,
        "organ_threshold": ORGAN_SCORE,
        "mask_probability": MASK_PROBABILITY,
        "refinement": None if crf is None else crf.model_dump(),
        "precision": "bfloat16" if job.predictor.bf16 else "float32",
        "reference": None if reference is None else sha256(reference),
        "force": job.force,
        "trust_grid": job.trust_grid,
        "volattn": version("volattn"),
    }
    fingerprint = _fingerprint(settings)
    if job.resume and job.predictor.fingerprint is not None:
        done = _finished(files, fingerprint)
        if done is not None:
            return Outcome(name, image, "skipped", len(done["lesions"]), tuple(done["notes"]))

    prediction = job.predictor.predict(image, job.threshold, progress, force=job.force)
    volume = prediction.volume
    notes += prediction.notes
    truth = _read_reference(job, reference, prediction, notes)
    split = known_case(job.predictor.folder.training, name, source)
    if split is not None and split.note is not None:
        notes.append(split.note)

    content = {
        "name": name,
        "fingerprint": fingerprint,
        "file": printable(image.name),
        "reference": None if truth is None or reference is None else reference.name,
        "seen_in_training": None if split is None else split.as_json(),
        "notes": notes,
        "settings": settings,
        **describe(prediction, job.predictor),
    }
    with files.all_or_none():
        _draw(files.picture, prediction, truth, job.predictor.folder.classes)
        if files.labels is not None and files.lesions is not None:
            write_labels(files.labels, prediction.labels, volume)
            write_labels(files.lesions, prediction.lesions, volume)
        write_json(files.json, content)
    return Outcome(name, image, "predicted", len(prediction.records), tuple(notes))


def describe(prediction: Prediction, predictor: Predictor) -> dict[str, Any]:
    """What the JSON says of a prediction and of the model behind it: plain values, nothing of the patient."""
    geometry, folder, organ = prediction.volume.geometry, predictor.folder, prediction.organ
    return {
        "model": {
            "sha256": predictor.fingerprint,
            "classes": list(folder.classes),
            "recipe": folder.training.recipe,
            "dataset": folder.training.dataset,
            "name": folder.model.name,
            "finds": "masks" if prediction.masks else "boxes",
            "attention": folder.model.attention.kind,
            "bag": predictor.model.bag,
            "slice_step_mm": folder.plan.z_spacing,
        },
        "grid": {
            "axes": AXES,
            "shape": list(geometry.shape),
            "spacing_mm": [round(spacing, 6) for spacing in geometry.spacing],
        },
        "conventions": _CONVENTIONS,
        "threshold": prediction.threshold,
        "organ_threshold": prediction.organ_threshold,
        "single_organ": folder.single_organ,
        "organ": None if organ is None else {"name": organ.name, "volume_ml": round(organ.volume_ml, 6)},
        "lesions": [record.as_json() for record in prediction.records],
        "versions": versions(),
        "commit": commit(),
    }


def _draw(path: Path, prediction: Prediction, truth: NDArray[np.uint8] | None, classes: Sequence[str]) -> None:
    volume = prediction.volume
    turn = volume.geometry.turn()
    draw_outlines(
        path,
        turn.apply(volume.array),
        turn.apply(prediction.labels),
        turn.apply(prediction.lesions),
        volume.canonical().geometry.spacing,
        scores=[record.score for record in prediction.records],
        reference=None if truth is None else turn.apply(truth),
        organ=classes[0] if len(classes) > 1 and prediction.masks else None,
        title=volume.name,
    )


def _check_outputs(job: Job, cases: Sequence[Case]) -> list[Path]:
    """The files that are going to be written; none of them is an input, and none is written twice."""
    kept = {case.image.resolve(): "the CT" for case in cases}
    if job.references is not None:
        kept |= {file.resolve(): "the reference" for file in job.references.files.values()}
    written: dict[Path, Path] = {}
    for case in cases:
        for result in job.files(case.name).paths:
            place = result.resolve()
            if place in kept:
                raise ValueError(f"{result}: is {kept[place]} itself; give another folder for the results")
            if place in written:
                raise ValueError(
                    f"{written[place]} and {case.image} would both be written as {result.name}; "
                    "rename one, or predict them into two folders"
                )
            written[place] = case.image
    return [result for case in cases for result in job.files(case.name).paths]


def _find_reference(references: References | None, case: Case, notes: list[str]) -> Path | None:
    if references is None:
        return None
    try:
        path = references.find(case)
    except ValueError as error:
        notes.append(str(error))
        return None
    if path is None:
        notes.append(f"no reference for it in {references.folder}")
    return path


def _read_reference(job: Job, path: Path | None, prediction: Prediction, notes: list[str]) -> NDArray[np.uint8] | None:
    """A bad reference costs the comparison, not the prediction."""
    if job.references is None or path is None:
        return None
    try:
        truth, note = job.references.read(path, prediction.volume, job.trust_grid)
    except ValueError as error:
        notes.append(f"without its reference: {error}")
        return None
    notes += [] if note is None else [note]
    return truth


def _finished(files: Files, fingerprint: str) -> dict[str, Any] | None:
    """The JSON of a finished case with this fingerprint; None if there is none."""
    if not all(path.is_file() for path in files.paths):
        return None
    try:
        content = json.loads(files.json.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("fingerprint") != fingerprint:
        return None
    return content


def _fingerprint(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _renamed(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None
    return lambda _, done, total: progress(label, done, total)


def _failed(case: Case, error: Exception) -> Outcome:
    return Outcome(case.name, case.image, "failed", error=error)
