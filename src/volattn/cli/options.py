"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataSet = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A LiTS, MSD or nnU-Net raw folder; the layout is found.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Shows the traceback behind an error.")]
