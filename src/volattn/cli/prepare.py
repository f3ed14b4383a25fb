"""`volattn prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits

NAME = "prepare"


def command(
    dataset: Annotated[Path, typer.Argument(help="A LiTS folder, an MSD task, or an nnU-Net raw data set.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the store.")],
    recipe: Annotated[str, typer.Option(help="Recipe whose plan is followed: a name or a .yaml file.")] = "lits",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 works in this one.")] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Shows tracebacks.")] = False,
) -> None:
    """Prepares a data set for training; run again after a kill, it goes on where it was."""
    raise typer.Exit(exits.run(lambda: _prepare(dataset, out, recipe, workers), debug=debug))


def _prepare(path: Path, out: Path, recipe: str, workers: int) -> int:
    from volattn.cli.progress import shown
    from volattn.datasets.open import open_dataset
    from volattn.preprocessing.prepare import estimate, prepare_dataset
    from volattn.training.recipe import load_recipe

    plan = load_recipe(recipe).plan
    dataset = open_dataset(path)
    expected = estimate(dataset, plan, workers)
    print(
        f"{dataset.name}: {expected.cases} cases, about {expected.disk_bytes / 2**20:.0f} MiB "
        f"and {max(1, round(expected.seconds / 60))} min"
    )
    with shown() as progress:
        outcome = prepare_dataset(dataset, plan, out, workers=workers, progress=progress)
    print(f"{out}: {len(outcome.prepared)} cases prepared, {len(outcome.kept)} stood from before")
    return exits.report_failures(outcome.failed, len(outcome.failed) + len(outcome.store.names))
