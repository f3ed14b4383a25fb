"""`volattn info`."""

from __future__ import annotations

from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Debug

NAME = "info"


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Architectures and recipes; all by default."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Lists the detectors and the recipes: what they cost, and the row of the paper's tables they stand for."""

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.studies.survey import survey

        with shown() as progress:
            tables = survey(names or (), progress)
        print("\n".join(table.text() for table in tables), end="")
        return exits.GOOD

    raise typer.Exit(exits.run(run, after_stop="nothing was changed", debug=debug))
