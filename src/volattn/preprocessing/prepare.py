"""`volattn prepare`: a data set becomes a store; killed at any moment, it continues where it was."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from volattn.config import Config
from volattn.datasets.case import LESION, Case, Dataset, LabelScheme
from volattn.faults import explain
from volattn.io.files import atomic_path, sha256, sha256_of_values, write_json, write_text
from volattn.io.names import count_of
from volattn.io.output import claim_folder
from volattn.phantoms.write import MANIFEST as PHANTOMS
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepared import shrunk_shape
from volattn.preprocessing.sources import Prepared, canonical_geometry, digests, percentiles, prepare_source
from volattn.preprocessing.store import (
    CASE,
    IMAGE,
    JOB,
    LABELS,
    STORE,
    CaseDescription,
    Measure,
    PreparedBoxes,
    Store,
    StoreDescription,
    case_folder,
    write_array,
    write_slices,
)
from volattn.structures.geometry import resampled_depth
from volattn.workers import Progress, map_items

FINGERPRINT = "fingerprint.json"
PLAN = "plan.yaml"
_SECONDS_PER_VOXEL = 1.6e-7  # two-core laptop class; reading, hashing, averaging and compressing together
_COMPRESSED = 0.5  # of int16 HU with noise
_ORPHANS = 60.0  # seconds for a killed run's workers to end: at once, unless they are deep in a large volume


class Job(Config):
    """`job.json`, written first: all that the store depends on beside its source files."""

    dataset: str
    plan: Plan
    scheme: LabelScheme


@dataclass(frozen=True)
class Estimate:
    """Cases with annotation and a readable header, bytes of the store, and seconds with the given workers."""

    cases: int
    disk_bytes: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What `prepare_dataset` did.

    Attributes:
        kept: Names of those that were complete already.
        failed: Name -> reason of those that could not be prepared; they are not in the store.
        notes: What was overlooked because the user asked for it.
    """

    store: Store
    prepared: tuple[str, ...]
    kept: tuple[str, ...]
    failed: dict[str, str]
    notes: tuple[str, ...] = ()


def estimate(dataset: Dataset, plan: Plan, workers: int = 1) -> Estimate:
    """What preparing will take; reads headers only."""
    cases, stored, read = 0, 0, 0
    for case in dataset.cases:
        if case.annotation is None:
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
    workers: int = 0,
    progress: Progress | None = None,
    force: bool = False,
    trust_grid: bool = False,
    resume: bool = True,
) -> Outcome:
    """Prepares every annotated case of a data set.

    Killed at any moment and called again it continues; the store's bytes do not depend on that, nor on the workers.
    One bad case does not stop the others.

    Args:
        dataset: The data set; cases without annotation are left out.
        workers: Processes; 0 or 1 works in this one.
        progress: Called with ("prepare", done, total).
        force: See `prepare_source`, as is `trust_grid`; what they overlook is noted.
        resume: Whether a folder with a store, finished or not, may be continued: complete cases are kept, missing and
            damaged ones rebuilt.

    Raises:
        ValueError: The folder holds something else, a store without `resume` being given, or a store of another plan
            or data set; another process is preparing it; or no case could be prepared.
    """
    out = Path(out)
    job = Job(dataset=dataset.name, plan=plan, scheme=dataset.scheme)
    overlook = {"force": force, "trust_grid": trust_grid}
    report = progress or (lambda what, done, total: None)
    with claim_folder(out, marker=JOB, what="store", settings=job.model_dump(mode="json"), resume=resume):
        return _prepare(dataset, job, out, workers, report, overlook)


def _prepare(
    dataset: Dataset, job: Job, out: Path, workers: int, report: Progress, overlook: dict[str, bool]
) -> Outcome:
    cases = [case for case in dataset.cases if case.annotation is not None]
    if not cases:
        raise ValueError(f"{dataset.root}: no case has labels; there is nothing to train on")
    fresh: dict[str, bool] = {}
    failed: dict[str, str] = {}

    report("prepare", 0, len(cases))
    prepare = partial(_prepare_claimed, job, out, overlook)
    for case, result in map_items(prepare, cases, workers, name=lambda case: case.image):
        if isinstance(result, Exception):  # One bad case must not cost the user the others.
            failed[case.name] = explain(result, case.image)
        else:
            fresh[case.name] = result
        report("prepare", len(fresh) + len(failed), len(cases))

    done = [case.name for case in cases if case.name in fresh]
    if not done:
        raise ValueError(
            f"{dataset.root}: none of {count_of(len(cases), 'case')} could be prepared; first: {failed[cases[0].name]}"
        )
    described = [CaseDescription.read(case_folder(out, name) / CASE) for name in done]
    write_text(out / PLAN, job.plan.text())
    write_json(out / FINGERPRINT, _measured(described))
    sources = [[case.name, case.image_sha256, case.labels_sha256] for case in described]
    description = StoreDescription(
        dataset=job.dataset,
        plan=job.plan,
        scheme=job.scheme,
        fingerprint=sha256_of_values([job.model_dump(mode="json"), sources]),
        cases=tuple(done),
        phantoms=(dataset.root / PHANTOMS).is_file(),
        failed={case.name: failed[case.name] for case in cases if case.name in failed},
        patients={case.name: case.patient for case in cases if case.patient and case.name in fresh} or None,
        subsets={case.name: case.subset for case in cases if case.subset and case.name in fresh} or None,
    )
    write_text(out / STORE, description.text("json"))
    return Outcome(
        Store(out, description),
        tuple(name for name in done if fresh[name]),
        tuple(name for name in done if not fresh[name]),
        description.failed,
        tuple(f"{case.name}: {note}" for case in described for note in case.notes or ()),
    )


def _prepare_claimed(job: Job, out: Path, overlook: dict[str, bool], case: Case) -> bool:
    """Prepares a case; whether there was anything to do."""
    # The workers of a killed run may hold a case for a moment after its lock is free: a case has a lock of its own.
    with claim_folder(case_folder(out, case.name), wait=_ORPHANS) as folder:
        sources = digests(case)
        if _is_complete(folder, sources):
            return False
        _prepare_case(case, folder, sources, prepare_source(case, job.scheme, job.plan, **overlook))
        return True


def _prepare_case(case: Case, folder: Path, sources: tuple[str, str], prepared: Prepared) -> None:
    image, annotation, resampled = prepared.image, prepared.annotation, prepared.image.resampled
    shape = (len(image), *resampled.shape)
    files = {}
    with atomic_path(folder / IMAGE) as temporary:
        write_slices(temporary, image, shape, np.int16)
        files[IMAGE] = sha256(temporary)
    if isinstance(annotation, PreparedBoxes):
        organ_pixels = lesion_pixels = tuple(annotation.pixels(shape).tolist())
    else:
        assert annotation.shape == shape
        with atomic_path(folder / LABELS) as temporary:
            write_array(temporary, annotation)
            files[LABELS] = sha256(temporary)
        organ_pixels = tuple(int(np.count_nonzero(plane)) for plane in annotation)
        lesion_pixels = tuple(int(np.count_nonzero(plane == LESION)) for plane in annotation)
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
        boxes=annotation if isinstance(annotation, PreparedBoxes) else None,
        notes=prepared.notes or None,
    )
    write_text(folder / CASE, description.text("json"))


def _is_complete(folder: Path, sources: tuple[str, str]) -> bool:
    try:
        description = CaseDescription.read(folder / CASE)
    except ValueError:
        return False
    if description.notes:  # What may be overlooked is for this run to decide.
        return False
    if description.name != folder.name or description.measures.keys() != set(get_args(Measure)):
        return False
    return (description.image_sha256, description.labels_sha256) == sources and all(
        (folder / name).is_file() and sha256(folder / name) == digest for name, digest in description.files.items()
    )


def _measured(cases: list[CaseDescription]) -> dict[str, Any]:
    """The data set in numbers, for choosing a plan."""
    measures = [case.measures for case in cases]
    axes = [axis for measured in measures for axis in measured["lesion_long_axes_mm"]]
    spacing = np.array([measured["spacing_mm"] for measured in measures])

    def median(key: Measure) -> list[float]:
        found = [measured[key] for measured in measures if measured[key]]
        return np.round(np.median(found, axis=0), 2).tolist() if found else []

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
