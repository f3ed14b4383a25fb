"""`volattn prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Auxiliary, DataSet, Force, KeepNoisy, OrganOnly, Subset, TrustGrid, Workers

NAME = "prepare"


@exits.verb()
def command(
    dataset: DataSet,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the store.")],
    recipe: Annotated[str, typer.Option(help="Recipe whose plan is followed: a name or a .yaml file.")] = "lits",
    workers: Workers = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Keeps finished cases, and rebuilds missing or damaged ones.")
    ] = False,
    subset: Subset = None,
    organ_only: OrganOnly = False,
    auxiliary: Auxiliary = None,
    keep_noisy: KeepNoisy = False,
    force: Force = False,
    trust_grid: TrustGrid = False,
) -> int:
    """Prepares a data set for training."""
    from volattn import api
    from volattn.cli.options import parse_workers, split_commas
    from volattn.cli.progress import shown
    from volattn.io.names import count_of

    with shown() as progress:
        outcome = api.prepare(
            dataset,
            out,
            recipe=recipe,
            subset=split_commas(subset),
            resume=resume,
            workers=parse_workers(workers),
            organ_only=organ_only,
            auxiliary=split_commas(auxiliary),
            keep_noisy=keep_noisy,
            force=force,
            trust_grid=trust_grid,
            announce=print,
            progress=progress,
        )
    for note in outcome.notes:
        exits.say(note)
    kept = f", {len(outcome.kept)} kept" if resume else ""
    print(f"{out}: {count_of(len(outcome.prepared), 'case')} prepared{kept}")
    return exits.report_failures(outcome.failed, len(outcome.failed) + len(outcome.store.names))
