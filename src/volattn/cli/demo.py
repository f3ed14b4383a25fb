"""`volattn demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits

NAME = "demo"


@exits.verb()
def command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything that the demo makes.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantoms.")] = 7,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make phantoms.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Goes on with the demo that is in the folder.")] = False,
) -> int:
    """Finds lesions in synthetic CTs, with and without context.

    It writes a page with the results, OUT/index.html.
    """
    from volattn.cli.progress import shown
    from volattn.studies.demo import DemoConfig, run_demo

    with shown() as progress:
        result = run_demo(
            out, config=DemoConfig(seed=seed), workers=workers, resume=resume, progress=progress, announce=print
        )
    print(result.text)
    return exits.SOME_FAILED if result.failed else exits.GOOD
