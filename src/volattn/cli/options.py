"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataSet = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET", help="A LiTS, MSD, nnU-Net raw or DeepLesion folder; the layout is found."
    ),
]
KeepNoisy = Annotated[
    bool, typer.Option("--keep-noisy", help="Takes lesions that DeepLesion marks Possibly_noisy.")
]
Splits = Annotated[
    str | None,
    typer.Option(metavar="PART,...", help="Parts of the data set's own split: train, val, test."),
]
Force = Annotated[bool, typer.Option("--force", help="Takes values that cannot be HU of a CT.")]
TrustGrid = Annotated[
    bool,
    typer.Option("--trust-grid", help="Takes voxels as they lie where shapes agree and headers do not."),
]
ReportFolder = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="DIR", help="Folder for pictures of the scores and a page that holds them."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Shows the traceback behind an error.")]
