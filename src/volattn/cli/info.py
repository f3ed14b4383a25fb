"""`volattn info`."""

from __future__ import annotations

from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Debug

NAME = "info"


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Architectures and recipes; all by default.")
    ] = None,
    costs: Annotated[
        bool, typer.Option("--costs", help="Measures parameters, operations and memory: seconds a row.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Lists architectures and recipes.

    Each with what it is, or the row of the paper that it makes.
    """

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.studies.model_table import model_table

        with shown() as progress:
            tables, failed = model_table(names or (), costs=costs, progress=progress)
        print("\n".join(table.text() for table in tables), end="")
        return exits.report_failures(failed, sum(len(table.rows) for table in tables))

    raise typer.Exit(exits.run(run, after_stop="nothing was changed", debug=debug))
