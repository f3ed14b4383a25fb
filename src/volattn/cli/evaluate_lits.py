"""`volattn evaluate lits`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Debug, ReportFolder, TrustGrid, organ_label

NAME = "lits"


def command(
    reference: Annotated[Path, typer.Option(help="Folder of reference label maps, or one of them.")],
    prediction: Annotated[Path, typer.Option(help="Folder of predicted label maps, or one of them.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSON file for the scores.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Counts lesions as the challenge's scorer, its faults included.")
    ] = False,
    liver: Annotated[
        str | None, typer.Option(help="Label of the liver, or none for masks of lesions only; 1 unless --lesion is.")
    ] = None,
    lesion: Annotated[
        int | None, typer.Option(help="Label of lesions; what a dataset.json says, or 2, by default.")
    ] = None,
    trust_grid: TrustGrid = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stops at the first case that cannot be scored.")
    ] = False,
    report: ReportFolder = None,
    debug: Debug = False,
) -> None:
    """Scores liver and lesion masks as the LiTS challenge does.

    Lesions are also scored one by one.
    """

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.io.names import count_of
        from volattn.io.output import claim_file
        from volattn.report.report import claim_report
        from volattn.report.scores import lits_tables
        from volattn.scoring.lits import lits_scheme
        from volattn.scoring.lits_folders import score_lits_folders
        from volattn.scoring.score_files import KEYS, write_scores

        scheme = None
        if liver is not None or lesion is not None:
            label = 2 if lesion is None else lesion
            scheme = lits_scheme(organ_label("--liver", liver, label), label)
        target = claim_file(out, inputs=(reference, prediction), replaces=KEYS)
        with claim_report(report):
            with shown() as progress:
                found = score_lits_folders(
                    reference,
                    prediction,
                    scheme,
                    strict=strict,
                    trust_grid=trust_grid,
                    seed=seed,
                    fail_fast=fail_fast,
                    progress=progress,
                )
            if found.scores is not None:
                content = write_scores(target, found.content)
                print("\n".join(table.text() for table in lits_tables(content)))
                print(f"{out}: {len(found.scores.cases)} of {count_of(found.total, 'case')} scored")
                if report is not None:
                    from volattn.report.reports import build_report  # Needs a library for pictures.

                    print(f"Report: {build_report(content).write(report)}")
            for note in found.notes:
                exits.say(note)
            exits.say_left_out(found.left_out)
            return exits.report_failures(found.failed, found.total)

    raise typer.Exit(exits.run(run, after_stop="nothing was written", debug=debug))
