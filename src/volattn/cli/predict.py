"""`volattn predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Debug

if TYPE_CHECKING:
    from volattn.inference.results import Outcome

NAME = "predict"


def command(
    model: Annotated[
        str, typer.Option("-m", "--model", help="Run folder, or demo: the weights in the package.")
    ],
    inputs: Annotated[
        list[Path],
        typer.Option("-i", "--input", help="CTs (.nii, .nii.gz) and folders of them, several at once."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for masks, measurements and pictures.")],
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a lesion; the model's own by default.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="2.5D images encoded at a time.")] = 1,
    reference: Annotated[
        Path | None, typer.Option(help="Folder with reference segmentations, to draw and to score.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skips the CTs that are finished.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision on a GPU.")] = False,
    debug: Debug = False,
) -> None:
    """Finds and outlines lesions in CTs."""

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.inference.inputs import find_inputs
        from volattn.inference.predict import load
        from volattn.inference.results import predict_files

        find_inputs(inputs)  # A wrong path is said before the model is read.
        predictor = load(model, device=device, batch=batch, bf16=bf16)
        with shown() as progress:
            outcomes = predict_files(
                predictor,
                inputs,
                out,
                threshold=threshold,
                reference=reference,
                resume=resume,
                progress=progress,
            )
        for outcome in outcomes:
            if outcome.status != "failed":
                print(outcome.message + (" (finished before)" if outcome.status == "skipped" else ""))
        if reference is not None:
            _score(reference, predictor.folder.classes, out, outcomes)
        failed = {outcome.name: outcome.message for outcome in outcomes if outcome.status == "failed"}
        return exits.report_failures(failed, len(outcomes))

    raise typer.Exit(exits.run(run, after_stop=exits.RESUME, debug=debug))


def _score(reference: Path, classes: Sequence[str], out: Path, outcomes: Sequence[Outcome]) -> None:
    """Prints how the predictions compare with their references."""
    from volattn.evaluation.folders import score_folder
    from volattn.inference.inputs import References
    from volattn.reporting.scores import CaseRow, case_table

    done = [outcome.image for outcome in outcomes if outcome.status != "failed"]
    dataset = References.open(reference, classes).dataset(done)
    scores = score_folder(dataset, out)
    for reason in scores.failed:
        exits.say(f"not scored: {reason}")
    if scores.cases:
        organ = dataset.scheme.organ_name
        print(case_table([CaseRow.of(case) for case in scores.cases], organ=organ).text())
        print(f"More scores: volattn evaluate lits --reference {reference} --prediction {out} -o scores.json")
