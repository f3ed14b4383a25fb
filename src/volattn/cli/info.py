"""`volattn info`."""

from __future__ import annotations

from typing import Annotated

import typer

from volattn.cli import exits

NAME = "info"


@exits.verb(after_stop="nothing was changed")
def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Architectures and recipes; all by default.")
    ] = None,
) -> None:
    """Lists architectures and recipes.

    Each with what it costs, and with what it is or the row of the paper that it makes.
    """
    from volattn.studies.model_table import model_table

    print("\n".join(table.text() for table in model_table(names or ())), end="")
