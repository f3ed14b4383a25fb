"""`volattn evaluate deeplesion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from volattn.cli import exits
from volattn.cli.options import Debug, ReportFolder

NAME = "deeplesion"


def command(
    reference: Annotated[Path, typer.Option(help="DeepLesion's DL_info.csv.")],
    prediction: Annotated[
        Path, typer.Option(help="CSV with File_name, x1, y1, x2, y2, score; boxes as DL_info has them.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The scores, a .json file.")],
    split: Annotated[Literal["test", "val", "train", "all"], typer.Option(help="The part that is scored.")] = "test",
    keep_noisy: Annotated[
        bool, typer.Option("--keep-noisy", help="Counts the lesions that are marked Possibly_noisy.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stops at the first bad row.")] = False,
    report: ReportFolder = None,
    debug: Debug = False,
) -> None:
    """Scores boxes on DeepLesion's key slices.

    Scores are the sensitivity at false positives per image, and AP50.
    """

    def run() -> int:
        from volattn.io.output import claim_file
        from volattn.report.report import claim_report
        from volattn.report.scores import detection_table
        from volattn.scoring.deeplesion import score_deeplesion
        from volattn.scoring.score_files import KEYS, write_scores

        target = claim_file(out, inputs=(reference, prediction), replaces=KEYS)
        with claim_report(report):
            scores = score_deeplesion(
                reference, prediction, split=split, keep_noisy=keep_noisy, seed=seed, fail_fast=fail_fast
            )
            content = write_scores(target, scores.content)
            print(detection_table(content, f"DeepLesion, split {split}").text(), end="")
            if report is not None:
                from volattn.report.reports import build_report  # Needs a library for pictures.

                print(f"Report: {build_report(content).write(report)}")
            return exits.report_failures(scores.faults, scores.images)

    raise typer.Exit(exits.run(run, after_stop="nothing was written", debug=debug))
