"""`volattn study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Device, split_commas

NAME = "study"


@exits.verb()
def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="table-1, table-2a to table-2f, table-3, table-4, context, scale, unet, or a .yaml file.",
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option("--data", help="Store that `volattn prepare` wrote; table-2c takes one for each scale."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for runs, scores and the table.")],
    seeds: Annotated[str, typer.Option(metavar="SEED,...", help="Each row is trained once for each seed.")] = "0",
    jobs: Annotated[int, typer.Option(min=0, help="Runs at a time, each in a process; 0 works in this one.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Goes on with the study in the folder, or adds seeds to it.")
    ] = False,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe that all rows change, e.g. tiny for phantoms; else the paper's.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights that all rows start from: a run folder, coco, imagenet, none, ...")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[ROW:]KEY=VALUE", help="Changes a value of all recipes, or of one row's."),
    ] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="Seed of the split of the cases, the same for all rows.")] = 0,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients that is held out.")] = 0.25,
    validation: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the others that chooses epoch and threshold.")
    ] = 0.2,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Trains on a Ray cluster; or local.")] = None,
    device: Device = "auto",
) -> int:
    """Runs one of the paper's tables.

    Every row has the same data, split and budget, and is trained for several seeds.
    """
    import os

    from volattn.cli.progress import shown
    from volattn.io.names import count_of
    from volattn.studies.definition import Overrides, load_study
    from volattn.studies.executor import Executor, ProcessShard
    from volattn.studies.run import run_study
    from volattn.studies.stores import SplitConfig

    title, study = load_study(name)
    shard = ProcessShard.of(os.environ)
    with shown() as progress:
        outcome = run_study(
            title,
            study,
            data,
            out,
            Executor(jobs, shard, ray=ray, device=device),
            seeds=parse_seeds(split_commas(seeds)),
            overrides=Overrides(recipe=recipe, weights=weights, settings=tuple(settings or ())),
            split=SplitConfig(seed=split_seed, test=test, validation=validation),
            resume=resume,
            source=name,
            progress=progress,
        )
    if shard.rank == 0:
        print(outcome.table.read_text(encoding="utf-8"), end="")
    if outcome.unfinished:
        exits.say(f"{len(outcome.unfinished)} of {count_of(outcome.runs, 'run')} left to other processes")
    return exits.report_failures(outcome.failed, outcome.runs)


def parse_seeds(words: tuple[str, ...]) -> tuple[int, ...]:
    """Seeds from their digits, each once.

    Raises:
        ValueError: One is no whole number of at least 0, or there is none.
    """
    if not words or not all(word.isdecimal() for word in words):
        raise ValueError(f"--seeds {','.join(words)}: write whole numbers, e.g. 0,1,2")
    return tuple(dict.fromkeys(map(int, words)))
