"""`volattn predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from volattn.cli import exits
from volattn.cli.options import Device, Force, Precision, TrustGrid

if TYPE_CHECKING:
    from volattn.inference.key_slices import KeySlicesPredicted
    from volattn.inference.predict import Predictor
    from volattn.inference.results import Outcome
    from volattn.scoring.deeplesion import Subset

NAME = "predict"


@exits.verb()
def command(
    model: Annotated[str, typer.Option("-m", "--model", help="Run folder, or demo: the weights in the package.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for masks, measurements and pictures.")],
    cts: Annotated[
        list[Path] | None, typer.Argument(metavar="CT", help="CTs and folders of them; or a DeepLesion folder.")
    ] = None,
    inputs: Annotated[
        list[Path] | None, typer.Option("-i", "--input", metavar="CT", help="CTs, as without -i.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a lesion; the model's own by default.")
    ] = None,
    refine: Annotated[
        Literal["crf", "none"] | None,
        typer.Option(help="Refines a cascade's probabilities by a dense CRF, or not; as trained by default."),
    ] = None,
    report_auxiliary: Annotated[
        bool, typer.Option("--report-auxiliary", help="Also lists what is found of the model's auxiliary classes.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="2.5D images encoded at a time.")] = 1,
    reference: Annotated[
        Path | None, typer.Option(help="Folder with reference segmentations, to draw and to score.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keeps CTs that are finished with the same model and settings.")
    ] = False,
    force: Force = False,
    trust_grid: TrustGrid = False,
    subset: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="DeepLesion: subsets of its split; all by default.")
    ] = None,
    keep_noisy: Annotated[
        bool, typer.Option("--keep-noisy", help="DeepLesion: rows marked Possibly_noisy count.")
    ] = False,
    png: Annotated[bool, typer.Option("--png", help="DeepLesion: a picture of every key slice.")] = False,
    device: Device = "auto",
    precision: Precision = None,
) -> int:
    """Finds and outlines lesions in CTs."""
    from volattn import api
    from volattn.cli.options import split_commas
    from volattn.cli.progress import shown
    from volattn.datasets.case import Reading
    from volattn.datasets.deeplesion import has_deeplesion
    from volattn.datasets.open import open_dataset
    from volattn.inference.inputs import find_inputs
    from volattn.io.names import count_of
    from volattn.io.output import claim_folder

    paths = [*(inputs or ()), *(cts or ())]
    key_slices = any(path.is_dir() and has_deeplesion(path) for path in paths)
    with claim_folder(out):  # A folder that cannot be written and a wrong path are refused before the model is read.
        if not key_slices:
            if subset or keep_noisy or png:
                raise ValueError("--subset, --keep-noisy and --png are for a DeepLesion folder; leave them out for CTs")
            found = find_inputs(paths)
        elif len(paths) > 1 or reference is not None:
            raise ValueError("a DeepLesion folder is predicted alone, with its own table as reference; give one folder")
        else:
            open_dataset(paths[0], Reading(keep_noisy)).only(split_commas(subset))
    predictor = api.load(
        model, device=device, precision=precision, batch=batch, refine=refine, report_auxiliary=report_auxiliary
    )
    if key_slices:
        with shown() as progress:
            boxes = api.predict_key_slices(
                predictor,
                paths[0],
                out,
                subset=split_commas(subset),
                threshold=threshold,
                pictures=png,
                keep_noisy=keep_noisy,
                resume=resume,
                force=force,
                progress=progress,
            )
        _warn(predictor)
        slices = count_of(len(boxes.predicted), "key slice")
        print(f"{boxes.csv}: {count_of(boxes.detections, 'detection')} on {slices}", *boxes.notes, sep="\n")
        _score_key_slices(paths[0], boxes, subset, keep_noisy)
        return exits.report_failures(boxes.failed, len(boxes.predicted) + len(boxes.failed))
    with shown() as progress:
        outcomes = api.predict(
            predictor,
            paths,
            out,
            threshold=threshold,
            reference=reference,
            resume=resume,
            force=force,
            trust_grid=trust_grid,
            progress=progress,
        )
    _warn(predictor)
    failed = {outcome.name: outcome.message for outcome in outcomes if outcome.status == "failed"}
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
    return exits.report_failures(failed, len(outcomes))


def _warn(predictor: Predictor) -> None:
    if predictor.folder.warning is not None:
        exits.say(predictor.folder.warning)


def _score_key_slices(root: Path, found: KeySlicesPredicted, subset: str | None, keep_noisy: bool) -> None:
    """Prints how the detections compare with the table's boxes, where every key slice of a subset was predicted."""
    from volattn.datasets.deeplesion import TABLE
    from volattn.report.tables import detection_table
    from volattn.scoring.deeplesion import score_deeplesion

    table, part = root / TABLE, "all" if subset is None else subset
    command = f"volattn evaluate deeplesion --reference {table} --prediction {found.csv} --subset {part}"
    if found.failed or "," in part:
        print(f"Scores, what was not predicted counting as missed: {command} -o scores.json")
        return
    scores = score_deeplesion(table, found.csv, subset=cast("Subset", part), keep_noisy=keep_noisy)
    print(detection_table(scores.content, f"DeepLesion, subset {part}").text(), end="")


def _score(reference: Path, classes: Sequence[str], out: Path, outcomes: Sequence[Outcome], trust_grid: bool) -> None:
    """Prints how the predictions compare with their references."""
    from volattn.datasets.case import Case
    from volattn.inference.inputs import References
    from volattn.report.tables import case_table
    from volattn.scoring.cases import score_folder

    done = [Case(one.name, one.image, None) for one in outcomes if one.status != "failed"]
    dataset = References.open(reference, classes).dataset(done)
    scores = score_folder(dataset, out, trust_grid=trust_grid)
    for reason in scores.failed:
        exits.say(f"not scored: {reason}")
    if scores.cases:
        organ = dataset.scheme.organ_name
        print(case_table([case.as_json() for case in scores.cases], organ=organ).text())
        print(f"More scores: volattn evaluate lits --reference {reference} --prediction {out} -o scores.json")
