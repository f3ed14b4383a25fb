"""`volattn evaluate`: a verb for each way of scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from volattn.cli import exits
from volattn.cli.options import ReportFolder, TrustGrid, Verb, VerbGroup, parse_organ

NAME = "evaluate"
app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Scores predictions of any program as the challenges do.",
)
Out = Annotated[Path, typer.Option("-o", "--out", help="The scores, a .json file.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stops at the first case or row that cannot be scored.")]


def _evaluate(
    reference: Path, prediction: Path, out: Path, report: Path | None, *, organ: str | None = None, **options: Any
) -> int:
    """Scores, writes the scores and the report, and prints tables, notes and failed cases; for options see `api`."""
    from volattn import api
    from volattn.cli.progress import shown
    from volattn.io.names import count_of
    from volattn.report.report import build_report, claim_report
    from volattn.report.tables import score_tables

    with claim_report(report):
        with shown() as progress:
            found = api.evaluate(reference, prediction, out, organ=parse_organ(organ), progress=progress, **options)
        if found.scores is not None:
            print("\n".join(table.text() for table in score_tables(found.scores)))
            print(f"{out}: {found.cases - len(found.failed)} of {count_of(found.cases, 'case')} scored")
            if report is not None:
                print(f"Report: {build_report(found.scores).write(report)}")
        for note in found.notes:
            exits.say(note)
        return exits.report_failures(found.failed, found.cases)


@app.command("lits", cls=Verb)
@exits.verb(after_stop="nothing was written")
def lits(
    reference: Annotated[Path, typer.Option(help="Folder of reference label maps, or one of them.")],
    prediction: Annotated[Path, typer.Option(help="Folder of predicted label maps, or one of them.")],
    out: Out,
    strict: Annotated[
        bool, typer.Option("--strict", help="Counts lesions as the challenge's scorer, its faults included.")
    ] = False,
    organ: Annotated[
        str | None, typer.Option(help="Label of the organ, or none for masks of lesions only; 1 unless --lesion is.")
    ] = None,
    lesion: Annotated[
        int | None, typer.Option(help="Label of lesions; what a dataset.json says, or 2, by default.")
    ] = None,
    trust_grid: TrustGrid = False,
    seed: Seed = 0,
    fail_fast: FailFast = False,
    report: ReportFolder = None,
) -> int:
    """Scores organ and lesion masks as the LiTS challenge does."""
    return _evaluate(kind="lits", **locals())


@app.command("deeplesion", cls=Verb)
@exits.verb(after_stop="nothing was written")
def deeplesion(
    reference: Annotated[Path, typer.Option(help="DeepLesion's DL_info.csv.")],
    prediction: Annotated[
        Path, typer.Option(help="CSV with File_name, x1, y1, x2, y2, score; boxes as DL_info has them.")
    ],
    out: Out,
    subset: Annotated[Literal["test", "val", "train", "all"], typer.Option(help="The subset that is scored.")] = "test",
    keep_noisy: Annotated[
        bool, typer.Option("--keep-noisy", help="Counts the lesions that are marked Possibly_noisy.")
    ] = False,
    seed: Seed = 0,
    fail_fast: FailFast = False,
    report: ReportFolder = None,
) -> int:
    """Scores boxes on DeepLesion's key slices: FROC and AP50."""
    return _evaluate(kind="deeplesion", **locals())


@app.command("detection", cls=Verb)
@exits.verb(after_stop="nothing was written")
def detection(
    reference: Annotated[Path, typer.Option(help="Folder of reference masks, a number per lesion.")],
    prediction: Annotated[Path, typer.Option(help="Folder of predict's or nnDetection's results, or of masks.")],
    out: Out,
    preset: Annotated[Literal["nndet", "luna16", "strict"], typer.Option(help="How detections are matched.")] = "nndet",
    lesion: Annotated[
        int | None, typer.Option(min=1, help="Value of lesions in reference masks of classes; found where it can be.")
    ] = None,
    predicted_lesion: Annotated[
        int | None, typer.Option(min=1, help="Value of lesions in predicted masks; found where it can be.")
    ] = None,
    trust_grid: TrustGrid = False,
    seed: Seed = 0,
    fail_fast: FailFast = False,
    report: ReportFolder = None,
) -> int:
    """Scores lesions found in volumes, as boxes or masks: FROC."""
    return _evaluate(kind="detection", **locals())
