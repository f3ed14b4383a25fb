"""The package in five functions: `load`, `predict`, `train`, `prepare` and `evaluate`; the command line calls the same.

PyTorch is loaded by the functions that need it, when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from volattn.workers import Progress, Workers, choose_workers

if TYPE_CHECKING:
    from volattn.datasets.issues import LeftOut
    from volattn.inference.key_slices import KeySlicesPredicted
    from volattn.inference.predict import Predictor
    from volattn.inference.results import Outcome
    from volattn.preprocessing.prepare import Outcome as Prepared
    from volattn.training.recipe import Recipe
    from volattn.training.run import Result

Device = str
"""`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
Precision = Literal["fp32", "bf16", "fp16"]

_WORTH_WORKERS = 10.0
"""Seconds of work that are worth the start of processes."""


def load(
    model: Path | str,
    *,
    device: Device | None = None,
    precision: Precision | None = None,
    batch: int = 1,
    refine: Literal["crf", "none"] | None = None,
    report_auxiliary: bool = False,
) -> Predictor:
    """Loads a trained model.

    Args:
        model: A run folder of `train`, or `demo` for the weights in the package (trained on phantoms only).
        precision: Mixed precision on a GPU; `fp32` by default.
        batch: 2.5D images encoded at a time.
        refine: Refines the probabilities of a `cascade` with a dense CRF, or does not; by default as it was trained.
        report_auxiliary: Predictions name what was found of the model's auxiliary classes, such as look-alikes, too.

    Raises:
        ValueError: It is not a model folder, the device is not there, or it cannot be refined.

    Example:
        ```python
        import volattn

        predictor = volattn.load("demo")
        prediction = predictor.predict("ct.nii.gz")
        for lesion in prediction.lesions:
            print(lesion.id, lesion.score, lesion.volume_ml)
        prediction.save("results")
        ```
    """
    from volattn.inference.predict import load

    return load(
        model,
        device=device or "auto",
        precision=precision or "fp32",
        batch=batch,
        refinement=refine,
        report_auxiliary=report_auxiliary,
    )


def predict(
    model: Predictor | Path | str,
    inputs: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    threshold: float | None = None,
    reference: Path | str | None = None,
    resume: bool = False,
    device: Device | None = None,
    precision: Precision | None = None,
    batch: int = 1,
    refine: Literal["crf", "none"] | None = None,
    force: bool = False,
    trust_grid: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Finds and outlines the lesions of CTs and writes four files for each; one bad CT does not stop the others.

    Args:
        model: What `load` gives or takes.
        inputs: NIfTI files and folders of them.
        out: Folder for `NAME.nii.gz`, `NAME_lesions.nii.gz`, `NAME.json` and `NAME.png`.
        threshold: Lesions with a lower score are dropped; by default the model's own threshold.
        reference: Folder with reference segmentations, for the pictures.
        resume: Skips CTs that are finished with the same model and settings.
        device: As `precision`, `batch` and `refine`: see `load`; not used if the model is loaded already.
        force: Takes CTs whose values cannot be HU, with a note.
        trust_grid: Takes references of the CT's shape as they lie where the headers disagree, with a note.

    Raises:
        ValueError: There is no input, or nothing can be written.

    Example:
        ```python
        for outcome in volattn.predict("lits-run", ["a.nii.gz", "more-cts"], "results"):
            print(outcome.message)
        ```
    """
    from volattn.inference.inputs import find_inputs
    from volattn.inference.results import predict_files
    from volattn.io.output import claim_folder

    paths = [Path(one) for one in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    if isinstance(model, (str, Path)):
        with claim_folder(out):  # Wrong paths are refused before the model is read.
            find_inputs(paths)
        model = load(model, device=device, precision=precision, batch=batch, refine=refine)
    return predict_files(
        model,
        paths,
        out,
        threshold=threshold,
        reference=reference,
        resume=resume,
        progress=progress,
        force=force,
        trust_grid=trust_grid,
    )


def predict_key_slices(
    model: Predictor | Path | str,
    dataset: Path | str,
    out: Path | str,
    *,
    subset: Sequence[str] = (),
    threshold: float | None = None,
    pictures: bool = False,
    keep_noisy: bool = False,
    resume: bool = False,
    device: Device | None = None,
    precision: Precision | None = None,
    batch: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> KeySlicesPredicted:
    """Detects lesions on the key slices of a DeepLesion folder and writes `detections.csv`.

    Args:
        subset: Subsets of the official split, such as `("test",)`; all by default.
        threshold: Least score of a box in a picture.
        resume: Skips key slices that are done with the same model and settings.

    Raises:
        ValueError: It is not a DeepLesion folder, or has no such subset.
    """
    from volattn.datasets.case import Reading
    from volattn.datasets.open import open_dataset
    from volattn.inference.key_slices import predict_key_slices
    from volattn.io.output import claim_folder

    with claim_folder(out):
        opened = open_dataset(dataset, Reading(keep_noisy)).only(tuple(subset))
    if isinstance(model, (str, Path)):
        model = load(model, device=device, precision=precision, batch=batch)
    return predict_key_slices(
        model, opened, out, threshold=threshold, pictures=pictures, resume=resume, progress=progress, force=force
    )


def prepare(
    dataset: Path | str,
    out: Path | str,
    *,
    recipe: Recipe | Path | str = "lits",
    subset: Sequence[str] = (),
    resume: bool = False,
    workers: Workers = "auto",
    organ_only: bool = False,
    auxiliary: Sequence[str] = (),
    keep_noisy: bool = False,
    force: bool = False,
    trust_grid: bool = False,
    announce: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Prepares the labelled cases of a data set for training.

    Args:
        dataset: A LiTS, MSD, nnU-Net raw or DeepLesion folder.
        out: Folder of the store.
        recipe: Whose plan is followed: a name that `volattn info` lists, or a `.yaml` file.
        subset: Subsets of the data set's own split; all by default.
        resume: Keeps finished cases, and rebuilds missing or damaged ones. Without it a folder with a store is refused.
        workers: Processes; 0 works in this one.
        organ_only: Takes data without labels of lesions, to train on painted ones (`synthetic`).
        auxiliary: Names of labels that a detector may learn as classes that it does not report.
        keep_noisy: Takes rows that DeepLesion marks Possibly_noisy.
        force: Takes CTs whose values cannot be HU, with a note.
        trust_grid: Takes labels of the image's shape as they lie where the headers disagree, with a note.
        announce: Called with notes on the data set and the estimate of disk and time.

    Raises:
        ValueError: The folder holds something else, or no case could be prepared.

    Example:
        ```python
        print(volattn.prepare("lits", "lits-store", recipe="lits").failed)  # {case: reason}
        ```
    """
    from volattn.datasets.case import Reading
    from volattn.datasets.open import open_dataset
    from volattn.io.names import count_of
    from volattn.preprocessing.prepare import estimate, prepare_dataset

    say = announce or (lambda text: None)
    plan = _recipe(recipe).plan
    opened = open_dataset(dataset, Reading(keep_noisy, organ_only, tuple(auxiliary))).only(tuple(subset))
    for issue in opened.found:
        if issue.severity == "note":
            say(str(issue))
    processes = choose_workers(workers, len(opened.cases))
    if workers == "auto" and estimate(opened, plan).seconds < _WORTH_WORKERS:
        processes = 0
    expected = estimate(opened, plan, processes)
    mib, minutes = round(expected.disk_bytes / 2**20), max(1, round(expected.seconds / 60))
    say(f"{opened.name}: {count_of(expected.cases, 'case')}, about {mib} MiB and {minutes} min")
    outcome = prepare_dataset(
        opened, plan, out, workers=processes, resume=resume, progress=progress, force=force, trust_grid=trust_grid
    )
    errors = [issue for issue in opened.found if issue.severity == "error"]
    unreadable = {issue.case or issue.file.name: f"{issue.file}: {issue.message}" for issue in errors}
    return replace(outcome, failed=unreadable | outcome.failed, notes=(*outcome.notes, *_left_out(opened.left_out)))


def train(
    recipe: Recipe | Path | str,
    data: Path | str,
    out: Path | str,
    *,
    settings: Sequence[str] = (),
    weights: str | None = None,
    resume: bool = False,
    fold: str | None = None,
    subset: Sequence[str] = (),
    device: Device | None = None,
    precision: Precision | None = None,
    workers: Workers = "auto",
    tensorboard: bool = False,
    dry_run: bool = False,
    announce: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Trains a model; under `torchrun` on all its processes together.

    Args:
        recipe: A name that `volattn info` lists, or a `.yaml` file.
        data: The store that `prepare` wrote.
        out: The run folder, which `load` takes.
        settings: Changes to the recipe, each as `key=value`.
        weights: `none`, `imagenet`, `coco`, `demo`, a weights file or a run folder; by default the recipe's.
        resume: Goes on with the run in the folder.
        fold: `k/n` for a cross-validation fold.
        subset: Subsets of the data set's own split to train on; by default `train` where there is one.
        precision: By default the recipe's.
        workers: Processes that read ahead; `auto`: 0 on a CPU, up to 4 beside a GPU.
        tensorboard: Also writes TensorBoard files.
        dry_run: Only announces steps, time and memory; needs no weights and writes nothing.
        announce: Called with the estimate, the origin of the weights and every validation, a line each.

    Raises:
        ValueError: Recipe, store, folder or weights do not fit, memory ran out, or a loss is not finite. The last
            saved state is whole.

    Example:
        ```python
        result = volattn.train("lits", "lits-store", "lits-run", settings=["model.bag=5"], precision="bf16")
        ```
    """
    from volattn.training.run import train

    return train(
        _recipe(recipe).updated(list(settings)),
        data,
        out,
        resume=resume,
        fold=fold,
        subsets=tuple(subset),
        weights=weights,
        workers=None if workers == "auto" else workers,
        device=device or "auto",
        precision=precision,
        tensorboard=tensorboard,
        dry_run=dry_run,
        progress=progress,
        announce=announce,
    )


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` gives.

    Attributes:
        scores: The content of `scores.json`; None if no case could be scored.
        failed: Cases that could not be scored, with the reason.
        notes: How files were understood, and what was left out.
    """

    scores: dict[str, Any] | None
    failed: dict[str, str]
    cases: int
    notes: tuple[str, ...] = ()


def evaluate(
    reference: Path | str,
    prediction: Path | str,
    out: Path | str,
    *,
    kind: Literal["lits", "deeplesion", "detection"] = "lits",
    preset: Literal["nndet", "luna16", "strict"] = "nndet",
    strict: bool = False,
    organ: int | Literal["none"] | None = None,
    lesion: int | None = None,
    predicted_lesion: int | None = None,
    subset: Literal["train", "val", "test", "all"] = "test",
    keep_noisy: bool = False,
    trust_grid: bool = False,
    seed: int = 0,
    fail_fast: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores predictions of any program and writes `scores.json`. Needs no PyTorch.

    Args:
        reference: Reference label maps (`lits`), masks (`detection`) or `DL_info.csv` (`deeplesion`).
        prediction: Label maps (`lits`), results of `predict` or nnDetection (`detection`), or a CSV (`deeplesion`).
        out: A `.json` file.
        kind: `lits` scores label maps as the LiTS challenge does; `deeplesion` boxes on key slices; `detection`
            lesions in volumes, with scores.
        strict: `lits`: counts lesions as the challenge's scorer does, its faults included.
        organ: `lits`: label of the organ, or `none` for masks of lesions only; by default 1, or none if `lesion` is 1.
        lesion: Label of lesions; by default what a `dataset.json` names, else 2.
        predicted_lesion: `detection`: label of lesions in predicted masks.
        keep_noisy: `deeplesion`: counts rows marked Possibly_noisy.
        trust_grid: Compares voxels as they lie where shapes agree and headers do not.
        seed: Of the bootstrap behind the 95 % intervals.
        fail_fast: Raises at the first case that cannot be scored.

    Raises:
        ValueError: Nothing can be scored, or (with `fail_fast`) a case cannot.

    Example:
        ```python
        volattn.evaluate("lits", "results", "scores.json").scores["lesion"]["dice_per_case"]
        ```
    """
    from volattn.io.output import claim_file
    from volattn.scoring.deeplesion import score_deeplesion
    from volattn.scoring.detection import PRESETS, score_detections
    from volattn.scoring.lits import lits_scheme, organ_label
    from volattn.scoring.lits_folders import score_lits_folders
    from volattn.scoring.score_files import KEYS, write_scores

    target = claim_file(out, inputs=(reference, prediction), replaces=KEYS)
    shared: dict[str, Any] = {"seed": seed, "fail_fast": fail_fast}
    of_volumes = shared | {"trust_grid": trust_grid, "progress": progress}
    if kind == "deeplesion":
        found = score_deeplesion(reference, prediction, subset=subset, keep_noisy=keep_noisy, **shared)
    elif kind == "detection":
        found = score_detections(
            reference, prediction, PRESETS[preset], lesion=lesion, predicted_lesion=predicted_lesion, **of_volumes
        )
    else:
        label = 2 if lesion is None else lesion
        given = organ is not None or lesion is not None
        scheme = lits_scheme(organ_label(organ, label), label) if given else None
        found = score_lits_folders(reference, prediction, scheme, strict=strict, **of_volumes)
    scores = write_scores(target, found.content) if found.content else None
    return Evaluation(scores, dict(found.failed), found.total, (*found.notes, *_left_out(found.left_out)))


def _recipe(recipe: Recipe | Path | str) -> Recipe:
    from volattn.training.recipe import load_recipe

    return load_recipe(str(recipe)) if isinstance(recipe, (str, Path)) else recipe


def _left_out(left_out: Iterable[LeftOut]) -> tuple[str, ...]:
    from volattn.datasets.issues import count_left_out

    sentence = count_left_out(left_out)
    return () if sentence is None else (sentence,)
