"""`volattn phantom`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Debug

NAME = "phantom"


def command(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for volume-N.nii.gz and segmentation-N.nii.gz.")
    ],
    cases: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same bytes.")] = 0,
    size: Annotated[int, typer.Option(min=64, max=1024, help="Rows and columns of a slice.")] = 512,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 works in this one.")] = 0,
    debug: Debug = False,
) -> None:
    """Makes synthetic abdominal CT with liver lesions, in the layout of LiTS."""

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.datasets.phantom.write import write_phantoms

        with shown() as progress:
            write_phantoms(out, cases, seed, size=size, workers=workers, progress=progress)
        print(f"{out}: {cases} cases")
        return exits.GOOD

    raise typer.Exit(exits.run(run, debug=debug))
