"""`volattn phantom`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Debug

NAME = "phantom"


class Kind(StrEnum):
    """Layouts that phantoms can be written in."""

    LITS = "lits"
    DEEPLESION = "deeplesion"


def command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the cohort.")],
    kind: Annotated[
        Kind, typer.Option(help="Layout: label maps as in LiTS, or boxes on key slices as in DeepLesion.")
    ] = Kind.LITS,
    cases: Annotated[int, typer.Option(min=1, help="Number of cases.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same one makes the same bytes.")] = 0,
    size: Annotated[int, typer.Option(min=64, max=1024, help="Rows and columns of a slice.")] = 512,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 works in this one.")] = 0,
    debug: Debug = False,
) -> None:
    """Makes synthetic abdominal CT with liver lesions.

    It is written in the layout of LiTS or DeepLesion.
    """

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.io.names import count_of
        from volattn.phantoms.write import write_phantoms

        with shown() as progress:
            write_phantoms(out, cases, seed, size=size, kind=kind.value, workers=workers, progress=progress)
        print(f"{out}: {count_of(cases, 'case')}")
        return exits.GOOD

    raise typer.Exit(exits.run(run, debug=debug))
