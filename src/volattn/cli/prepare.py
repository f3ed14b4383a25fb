"""`volattn prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import DataSet, Debug, Force, KeepNoisy, Splits, TrustGrid

NAME = "prepare"


def command(
    dataset: DataSet,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the store.")],
    recipe: Annotated[str, typer.Option(help="Recipe whose plan is followed: a name or a .yaml file.")] = "lits",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 works in this one.")] = 0,
    splits: Splits = None,
    keep_noisy: KeepNoisy = False,
    force: Force = False,
    trust_grid: TrustGrid = False,
    debug: Debug = False,
) -> None:
    """Prepares a data set for training.

    Run again after a kill, it goes on where it was.
    """

    def run() -> int:
        from volattn.cli.options import parted
        from volattn.cli.progress import shown
        from volattn.datasets.open import open_dataset
        from volattn.io.names import count_of
        from volattn.preprocessing.prepare import estimate, prepare_dataset
        from volattn.training.recipe import load_recipe

        plan = load_recipe(recipe).plan
        opened = open_dataset(dataset, keep_noisy=keep_noisy).only(parted(splits))
        for finding in opened.found:
            if finding.severity == "note":
                print(finding)
        expected = estimate(opened, plan, workers)
        print(
            f"{opened.name}: {count_of(expected.cases, 'case')}, about {expected.disk_bytes / 2**20:.0f} MiB "
            f"and {max(1, round(expected.seconds / 60))} min"
        )
        with shown() as progress:
            outcome = prepare_dataset(
                opened, plan, out, workers=workers, progress=progress, force=force, trust_grid=trust_grid
            )
        for note in outcome.notes:
            exits.say(note)
        print(f"{out}: {count_of(len(outcome.prepared), 'case')} prepared, {len(outcome.kept)} stood from before")
        unreadable = {
            finding.case or finding.file.name: f"{finding.file}: {finding.message}"
            for finding in opened.found
            if finding.severity == "error"
        }
        exits.say_left_out(opened.left_out)
        failed = unreadable | outcome.failed
        return exits.report_failures(failed, len(failed) + len(outcome.store.names))

    raise typer.Exit(exits.run(run, debug=debug))
