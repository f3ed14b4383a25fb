"""`volattn predict`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from volattn.cli import exits
from volattn.cli.options import Debug, Force, TrustGrid

if TYPE_CHECKING:
    from volattn.datasets.case import Dataset
    from volattn.inference.key_slices import KeySlicesPredicted
    from volattn.inference.predict import Predictor
    from volattn.inference.results import Outcome
    from volattn.models.segmenters.config import Refinement
    from volattn.scoring.deeplesion import Split

NAME = "predict"


class _Refinement(StrEnum):
    CRF = "crf"
    NONE = "none"


def command(
    model: Annotated[str, typer.Option("-m", "--model", help="Run folder, or demo: the weights in the package.")],
    inputs: Annotated[
        list[Path],
        typer.Option(
            "-i", "--input", help="CTs (.nii, .nii.gz) and folders of them, several at once; or a DeepLesion folder."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for masks, measurements and pictures.")],
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a lesion; the model's own by default.")
    ] = None,
    refine: Annotated[
        _Refinement | None,
        typer.Option(help="Refines a cascade's probabilities by a dense CRF, or not; as trained by default."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="2.5D images encoded at a time.")] = 1,
    reference: Annotated[
        Path | None, typer.Option(help="Folder with reference segmentations, to draw and to score.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skips the CTs that are finished.")] = False,
    force: Force = False,
    trust_grid: TrustGrid = False,
    splits: Annotated[
        str | None, typer.Option(help="DeepLesion: parts of its own split, e.g. test; all by default.")
    ] = None,
    keep_noisy: Annotated[
        bool, typer.Option("--keep-noisy", help="DeepLesion: rows marked Possibly_noisy count.")
    ] = False,
    png: Annotated[bool, typer.Option("--png", help="DeepLesion: a picture of every key slice.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision on a GPU.")] = False,
    debug: Debug = False,
) -> None:
    """Finds and outlines lesions in CTs."""

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.datasets.deeplesion import has_deeplesion
        from volattn.io.output import claim_folder

        with claim_folder(out):  # A folder that cannot be written is said before the model is read.
            pass
        from volattn.inference.inputs import find_inputs
        from volattn.inference.results import predict_files

        if any(path.is_dir() and has_deeplesion(path) for path in inputs):
            return _predict_key_slices()
        if splits or keep_noisy or png:
            raise ValueError("--splits, --keep-noisy and --png are for a DeepLesion folder; leave them out for CTs")
        found = find_inputs(inputs)  # A wrong path is said before the model is read.
        predictor = _loaded()
        with shown() as progress:
            outcomes = predict_files(
                predictor,
                inputs,
                out,
                threshold=threshold,
                reference=reference,
                resume=resume,
                progress=progress,
                force=force,
                trust_grid=trust_grid,
            )
        for outcome in outcomes:
            if outcome.status != "failed":
                print(outcome.message + (" (finished before)" if outcome.status == "skipped" else ""))
        if reference is not None and predictor.masks:
            _score(reference, predictor.folder.classes, out, outcomes, trust_grid)
        elif reference is not None:
            print(f"Scores: volattn evaluate detection --reference {reference} --prediction {out} -o scores.json")
        for note in found.notes:
            exits.say(note)
        exits.say_left_out(found.left_out)
        failed = {outcome.name: outcome.message for outcome in outcomes if outcome.status == "failed"}
        return exits.report_failures(failed, len(outcomes))

    def _loaded() -> Predictor:
        from volattn.inference.predict import load

        asked: Refinement | None = None if refine is None else refine.value
        return load(model, refinement=asked, device=device, batch=batch, bf16=bf16)

    def _predict_key_slices() -> int:
        from volattn.cli.options import parted
        from volattn.cli.progress import shown
        from volattn.datasets.open import open_dataset
        from volattn.inference.key_slices import predict_key_slices
        from volattn.io.names import count_of

        if len(inputs) > 1 or reference is not None:
            raise ValueError("a DeepLesion folder is predicted alone, with its own table as reference; give one -i")
        dataset = open_dataset(inputs[0], keep_noisy=keep_noisy).only(parted(splits))
        predictor = _loaded()
        with shown() as progress:
            found = predict_key_slices(
                predictor,
                dataset,
                out,
                threshold=threshold,
                pictures=png,
                resume=resume,
                progress=progress,
                force=force,
            )
        print(
            f"{found.csv}: {count_of(found.detections, 'detection')} on {count_of(len(found.predicted), 'key slice')}"
        )
        for note in found.notes:
            print(note)
        _score_key_slices(dataset, found, splits, keep_noisy)
        return exits.report_failures(found.failed, len(found.predicted) + len(found.failed))

    raise typer.Exit(exits.run(run, after_stop=exits.RESUME, debug=debug))


def _score_key_slices(dataset: Dataset, found: KeySlicesPredicted, splits: str | None, keep_noisy: bool) -> None:
    """Prints how the detections compare with the table's boxes, where every key slice of a part was predicted."""
    from volattn.datasets.deeplesion import TABLE
    from volattn.report.scores import detection_table
    from volattn.scoring.deeplesion import score_deeplesion

    table, part = dataset.root / TABLE, "all" if splits is None else splits
    command = f"volattn evaluate deeplesion --reference {table} --prediction {found.csv} --split {part}"
    if found.failed or "," in part:
        print(f"Scores, what was not predicted counting as missed: {command} -o scores.json")
        return
    scores = score_deeplesion(table, found.csv, split=cast("Split", part), keep_noisy=keep_noisy)
    print(detection_table(scores.content, f"DeepLesion, split {part}").text(), end="")


def _score(reference: Path, classes: Sequence[str], out: Path, outcomes: Sequence[Outcome], trust_grid: bool) -> None:
    """Prints how the predictions compare with their references."""
    from volattn.datasets.case import Case
    from volattn.inference.inputs import References
    from volattn.report.scores import CaseRow, case_table
    from volattn.scoring.cases import score_folder

    done = [Case(one.name, one.image, None) for one in outcomes if one.status != "failed"]
    dataset = References.open(reference, classes).dataset(done)
    scores = score_folder(dataset, out, trust_grid=trust_grid)
    for reason in scores.failed:
        exits.say(f"not scored: {reason}")
    if scores.cases:
        organ = dataset.scheme.organ_name
        print(case_table([CaseRow.of(case) for case in scores.cases], organ=organ).text())
        print(f"More scores: volattn evaluate lits --reference {reference} --prediction {out} -o scores.json")
