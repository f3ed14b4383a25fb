"""`volattn evaluate detection`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from volattn.cli import exits
from volattn.cli.options import Debug, ReportFolder, TrustGrid

NAME = "detection"


def command(
    reference: Annotated[Path, typer.Option(help="Folder of reference masks, a number per lesion.")],
    prediction: Annotated[Path, typer.Option(help="Folder of predict's or nnDetection's results, or of masks.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The scores, a .json file.")],
    preset: Annotated[Literal["nndet", "luna16", "strict"], typer.Option(help="How detections are matched.")] = "nndet",
    lesion: Annotated[
        int | None, typer.Option(min=1, help="Value of lesions in reference masks of classes; found where it can be.")
    ] = None,
    predicted_lesion: Annotated[
        int | None, typer.Option(min=1, help="Value of lesions in predicted masks; found where it can be.")
    ] = None,
    trust_grid: TrustGrid = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stops at the first bad case.")] = False,
    report: ReportFolder = None,
    debug: Debug = False,
) -> None:
    """Scores lesions found in volumes, as boxes or masks.

    The score is the sensitivity at false positives per scan.
    """

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.io.output import claim_file
        from volattn.report.report import claim_report
        from volattn.report.scores import detection_table
        from volattn.scoring.detection import PRESETS, score_detections
        from volattn.scoring.score_files import KEYS, write_scores

        target = claim_file(out, inputs=(reference, prediction), replaces=KEYS)
        with claim_report(report):
            with shown() as progress:
                scores = score_detections(
                    reference,
                    prediction,
                    PRESETS[preset],
                    lesion=lesion,
                    predicted_lesion=predicted_lesion,
                    trust_grid=trust_grid,
                    seed=seed,
                    fail_fast=fail_fast,
                    progress=progress,
                )
            content = write_scores(target, scores.content)
            print(detection_table(content, f"Preset {preset}").text(), end="")
            if report is not None:
                from volattn.report.reports import build_report  # Needs a library for pictures.

                print(f"Report: {build_report(content).write(report)}")
            for note in content["notes"]:
                exits.say(note)
            exits.say_left_out(scores.left_out)
            if scores.unpaired:
                exits.say(f"no reference for {', '.join(scores.unpaired)}; not scored")
            return exits.report_failures(scores.faults, scores.cases)

    raise typer.Exit(exits.run(run, after_stop="nothing was written", debug=debug))
