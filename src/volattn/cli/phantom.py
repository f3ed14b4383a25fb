"""`volattn phantom`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from volattn.cli import exits
from volattn.cli.options import Workers

NAME = "phantom"


@exits.verb()
def command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the cohort.")],
    kind: Annotated[
        Literal["lits", "deeplesion"],
        typer.Option(help="Layout: label maps as in LiTS, or boxes on key slices as in DeepLesion."),
    ] = "lits",
    cases: Annotated[int, typer.Option(min=1, help="Number of cases.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same one makes the same bytes.")] = 0,
    size: Annotated[int, typer.Option(min=64, max=1024, help="Rows and columns of a slice.")] = 512,
    workers: Workers = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Keeps finished cases, and makes missing or damaged ones again.")
    ] = False,
) -> None:
    """Makes synthetic abdominal CT with liver lesions."""
    from volattn.cli.options import parse_workers
    from volattn.cli.progress import shown
    from volattn.io.names import count_of
    from volattn.phantoms.write import write_phantoms
    from volattn.workers import choose_workers

    processes = choose_workers(parse_workers(workers), cases)
    with shown() as progress:
        write_phantoms(out, cases, seed, size=size, kind=kind, workers=processes, progress=progress, resume=resume)
    print(f"{out}: {count_of(cases, 'case')}")
