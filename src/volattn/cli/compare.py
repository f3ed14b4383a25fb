"""`volattn compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import ReportFolder

NAME = "compare"


@exits.verb(after_stop="nothing was written")
def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="File of scores that `volattn evaluate` wrote.")],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="File of scores of the same cases, from another program or run.")
    ],
    common: Annotated[
        bool, typer.Option("--common", help="Compares the cases that both have, and leaves out the others.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The comparison, a .json file.")] = None,
    report: ReportFolder = None,
) -> None:
    """Says which differences between two evaluations are significant."""
    from volattn.io.files import write_json
    from volattn.io.output import claim_file
    from volattn.provenance import commit, versions
    from volattn.report.report import claim_report, comparison_report
    from volattn.report.tables import comparison_table
    from volattn.scoring.comparison import compare
    from volattn.scoring.score_files import read_scores

    target = None if out is None else claim_file(out, inputs=(a, b))
    with claim_report(report):
        first, second = read_scores(a), read_scores(b)
        try:
            comparison = compare(first, second, common=common, seed=seed)
        except ValueError as error:
            raise ValueError(f"{a} and {b}: {error}") from None
        content = {"a": a.name, "b": b.name, **comparison.as_json(), "versions": versions(), "commit": commit()}
        if target is not None:
            write_json(target, content)
        print(comparison_table(content).text(), end="")
        if report is not None:
            print(f"Report: {comparison_report(content).write(report)}")
