"""`volattn prepare`: a data set becomes a store; killed at any moment, it goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from volattn.config import Config
from volattn.datasets.case import LESION, Case, Dataset, LabelScheme
from volattn.faults import explain
from volattn.io.files import atomic_path, sha256, write_json, write_text
from volattn.io.names import count_of
from volattn.io.output import claim_folder
from volattn.preprocessing.measures import percentiles
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import shrunk_shape
from volattn.preprocessing.sources import Prepared, canonical_geometry, digests, prepare_source
from volattn.preprocessing.store import (
    CASE,
    IMAGE,
    JOB,
    LABELS,
    STORE,
    CaseDescription,
    Measure,
    Store,
    StoreDescription,
    canonical_json,
    case_folder,
    write_array,
    write_slices,
)
from volattn.structures.geometry import resampled_depth
from volattn.workers import WorkerDied, each

FINGERPRINT = "fingerprint.json"
PLAN = "plan.yaml"
_SECONDS_PER_VOXEL = 1.6e-7  # two-core laptop class; reading, hashing, averaging and compressing together
_COMPRESSED = 0.5  # of int16 HU with noise
_ORPHANS = 60.0  # seconds for a killed run's workers to end: at once, unless they are deep in a large volume

Progress = Callable[[str, int, int], None]


class Job(Config):
    """`job.json`, written first: what the store is being made of.

    Attributes:
        dataset: The data set's name.
        plan: How the volumes are prepared.
        scheme: What the data set's label values mean.
    """

    dataset: str
    plan: Plan
    scheme: LabelScheme


@dataclass(frozen=True)
class Estimate:
    """What preparing will take, judged from the headers.

    Attributes:
        cases: Cases with labels and a readable header.
        disk_bytes: Of the store, about.
        seconds: With the given workers, about.
    """

    cases: int
    disk_bytes: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What `prepare_dataset` did.

    Attributes:
        store: The store.
        prepared: Names of the cases prepared now.
        kept: Names of those that stood from before.
        failed: Name -> reason of those that could not be prepared; they are not in the store.
        notes: What was overlooked because the user said so.
    """

    store: Store
    prepared: tuple[str, ...]
    kept: tuple[str, ...]
    failed: dict[str, str]
    notes: tuple[str, ...] = ()


def estimate(dataset: Dataset, plan: Plan, workers: int = 1) -> Estimate:
    """Disk and time that preparing will take; reads headers only."""
    cases, stored, read = 0, 0, 0
    for case in dataset.cases:
        if not case.has_reference:
            continue
        try:
            canonical = canonical_geometry(case)
        except ValueError:
            continue
        depth, *plane = canonical.shape
        spacing = canonical.spacing[0]
        slices = resampled_depth(depth, spacing, plan.z_spacing or spacing)
        stored += slices * int(np.prod(shrunk_shape((plane[0], plane[1]), plan.size)))
        read += int(np.prod(canonical.shape))
        cases += 1
    seconds = (read + stored) * _SECONDS_PER_VOXEL / max(1, min(workers, cases))
    return Estimate(cases, int(stored * 2 * _COMPRESSED), seconds)


def prepare_dataset(
    dataset: Dataset,
    plan: Plan,
    out: Path | str,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    trust_grid: bool = False,
) -> Outcome:
    """Prepares every labelled case of a data set.

    Killed at any moment and called again it goes on; the store's bytes do not depend on that, nor on the workers.
    One bad case does not stop the others.

    Args:
        dataset: The data set; cases without labels are left out.
        plan: How.
        out: The store's folder.
        workers: Processes; 0 or 1 works in this one.
        progress: Called with ("prepare", done, total).
        force: See `prepare_source`, as is `trust_grid`; what they overlook is noted.

    Raises:
        ValueError: The folder holds something else or a store of another plan or data set, another process is
            preparing it, or no case could be prepared.
    """
    out = Path(out)
    overlook = {"force": force, "trust_grid": trust_grid}
    with claim_folder(out, marker=JOB, what="store"):
        return _prepare(dataset, plan, out, workers, progress or (lambda what, done, total: None), overlook)


def _prepare(
    dataset: Dataset, plan: Plan, out: Path, workers: int, tell: Progress, overlook: dict[str, bool]
) -> Outcome:
    job = Job(dataset=dataset.name, plan=plan, scheme=dataset.scheme)
    _claim(out, job)
    cases = [case for case in dataset.cases if case.has_reference]
    if not cases:
        raise ValueError(f"{dataset.root}: no case has labels; there is nothing to train on")
    fresh: dict[str, bool] = {}
    failed: dict[str, str] = {}

    tell("prepare", 0, len(cases))
    tasks = [_Task(case, dataset.scheme, plan, case_folder(out, case.name), overlook) for case in cases]
    for task, result in each(_attempt, tasks, workers):
        if isinstance(result, WorkerDied):
            failed[task.case.name] = (
                f"{task.case.image}: the process that prepared it was killed, likely for memory; give fewer workers"
            )
        elif isinstance(result, str):
            failed[task.case.name] = result
        else:
            fresh[task.case.name] = result
        tell("prepare", len(fresh) + len(failed), len(cases))

    done = [case.name for case in cases if case.name in fresh]
    if not done:
        raise ValueError(
            f"{dataset.root}: none of {count_of(len(cases), 'case')} could be prepared; first: {failed[cases[0].name]}"
        )
    described = [CaseDescription.read(case_folder(out, name) / CASE) for name in done]
    write_text(out / PLAN, plan.text())
    write_json(out / FINGERPRINT, _measured(described))
    description = StoreDescription(
        dataset=dataset.name,
        plan=plan,
        scheme=dataset.scheme,
        fingerprint=_fingerprint(job, described),
        cases=tuple(done),
        failed={case.name: failed[case.name] for case in cases if case.name in failed},
        patients={case.name: case.patient for case in cases if case.patient and case.name in fresh} or None,
        parts={case.name: case.part for case in cases if case.part and case.name in fresh} or None,
    )
    write_text(out / STORE, description.text("json"))
    return Outcome(
        Store(out, description),
        tuple(name for name in done if fresh[name]),
        tuple(name for name in done if not fresh[name]),
        description.failed,
        tuple(f"{case.name}: {note}" for case in described for note in case.notes or ()),
    )


def _claim(out: Path, job: Job) -> None:
    """Makes the folder ours, or sees that it is."""
    if (out / JOB).is_file():
        before = Job.read(out / JOB)
        if before != job:
            different = [key for key in Job.model_fields if getattr(before, key) != getattr(job, key)]
            raise ValueError(
                f"{out}: holds a store of another {' and '.join(different)}; give another folder or delete this one"
            )
    else:
        write_text(out / JOB, job.text("json"))


@dataclass(frozen=True)
class _Task:
    """One case to prepare, as it travels to a worker."""

    case: Case
    scheme: LabelScheme
    plan: Plan
    folder: Path
    overlook: dict[str, bool]


def _attempt(task: _Task) -> bool | str:
    """True if the case was prepared, False if it stood already, a reason if it cannot be."""
    try:
        # A killed run's workers outlive it by a moment, and by its lock: a case has one of its own.
        with claim_folder(task.folder, patience=_ORPHANS):
            return _prepare_case(task)
    except Exception as error:  # Whatever is wrong with one case must not cost the user the others.
        return explain(error, task.case.image)


def _prepare_case(task: _Task) -> bool:
    case, folder = task.case, task.folder
    sources = digests(case)
    if _stands(folder, sources):
        return False
    prepared = prepare_source(case, task.scheme, task.plan, **task.overlook)
    image, resampled = prepared.image, prepared.image.resampled
    shape = (len(image), *resampled.shape)
    files = {}
    with atomic_path(folder / IMAGE) as temporary:
        write_slices(temporary, image, shape, np.int16)
        files[IMAGE] = sha256(temporary)
    if prepared.labels is not None:
        assert prepared.labels.shape == shape
        with atomic_path(folder / LABELS) as temporary:
            write_array(temporary, prepared.labels)
            files[LABELS] = sha256(temporary)
    organ_pixels, lesion_pixels = _pixels(prepared, shape)
    geometry = resampled.geometry
    description = CaseDescription(
        name=case.name,
        shape=shape,
        step=resampled.step,
        source_shape=geometry.shape,
        source_affine=tuple(tuple(row) for row in geometry.affine.tolist()),
        organ_pixels=organ_pixels,
        lesion_pixels=lesion_pixels,
        image_sha256=sources[0],
        labels_sha256=sources[1],
        files=files,
        measures=prepared.measures,
        boxes=prepared.boxes,
        notes=prepared.notes or None,
    )
    write_text(folder / CASE, description.text("json"))
    return True


def _pixels(prepared: Prepared, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pixels of organ or lesion, and of lesion, in each slice."""
    if prepared.boxes is not None:
        covered = tuple(prepared.boxes.pixels(shape).tolist())
        return covered, covered
    assert prepared.labels is not None
    organ = tuple(int(np.count_nonzero(plane)) for plane in prepared.labels)
    return organ, tuple(int(np.count_nonzero(plane == LESION)) for plane in prepared.labels)


def _stands(folder: Path, sources: tuple[str, str]) -> bool:
    if not (folder / CASE).is_file():
        return False
    try:
        description = CaseDescription.read(folder / CASE)
    except ValueError:
        return False
    if description.notes:  # What may be overlooked is for this run to say.
        return False
    if description.name != folder.name or description.measures.keys() != set(get_args(Measure)):
        return False
    return (description.image_sha256, description.labels_sha256) == sources and all(
        (folder / name).is_file() and sha256(folder / name) == digest for name, digest in description.files.items()
    )


def _measured(cases: list[CaseDescription]) -> dict[str, Any]:
    """The data set in numbers: what a plan, and a reader, wants to know of it."""
    measures = [case.measures for case in cases]
    axes = [axis for measured in measures for axis in measured["lesion_long_axes_mm"]]
    spacing = np.array([measured["spacing_mm"] for measured in measures])

    def median(key: Measure) -> list[float]:
        known = [measured[key] for measured in measures if measured[key]]
        return np.round(np.median(known, axis=0), 2).tolist() if known else []

    return {
        "cases": len(cases),
        "spacing_mm_zyx": {
            "least": spacing.min(axis=0).tolist(),
            "median": np.median(spacing, axis=0).tolist(),
            "largest": spacing.max(axis=0).tolist(),
        },
        "source_shapes_zyx": {case.name: list(case.source_shape) for case in cases},
        "prepared_shapes_zyx": {case.name: list(case.shape) for case in cases},
        "lesions": len(axes),
        "lesions_per_case": {c.name: len(m["lesion_long_axes_mm"]) for c, m in zip(cases, measures, strict=True)},
        "lesion_long_axis_mm_5_50_95": percentiles(np.array(axes)),
        "lesions_small_medium_large": [
            sum(axis < 15 for axis in axes),
            sum(15 <= axis <= 30 for axis in axes),
            sum(axis > 30 for axis in axes),
        ],
        "organ_hu_5_50_95": median("organ_hu"),
        "lesion_hu_5_50_95": median("lesion_hu"),
    }


def _fingerprint(job: Job, cases: list[CaseDescription]) -> str:
    content = [job.model_dump(mode="json"), [[case.name, case.image_sha256, case.labels_sha256] for case in cases]]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
