"""`volattn train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Debug, Splits

NAME = "train"


def command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name that `volattn info` lists, or a .yaml file.")],
    data: Annotated[Path, typer.Option("--data", help="Store that `volattn prepare` wrote.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Run folder.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Changes a value of the recipe.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Goes on with the run that is in the folder.")] = False,
    fold: Annotated[str | None, typer.Option(metavar="K/N", help="Cross-validation fold, e.g. 1/5.")] = None,
    splits: Splits = None,
    weights: Annotated[
        str | None, typer.Option(help="none, imagenet, coco, demo, a weights file or a run folder.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read ahead; 0 reads in this one.")] = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also writes TensorBoard files.")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leaves a GPU alone.")] = False,
    debug: Debug = False,
) -> None:
    """Trains a model from a prepared data set.

    On several GPUs: `torchrun --nproc-per-node=N -m volattn train ...`.
    """

    def run() -> int:
        from accelerate import PartialState

        from volattn.cli.options import parted
        from volattn.cli.progress import shown
        from volattn.training.recipe import load_recipe
        from volattn.training.run import train

        chosen = load_recipe(recipe).updated(settings or [])
        with shown() as progress:
            result = train(
                chosen,
                data,
                out,
                resume=resume,
                fold=fold,
                splits=parted(splits),
                weights=weights,
                workers=workers,
                tensorboard=tensorboard,
                cpu=cpu,
                progress=progress,
                announce=print,
            )
        if PartialState().is_main_process:  # Under torchrun every process comes here.
            print(f"{result.path}: the best weights are those of step {result.best_step}; {result.validation.text}")
        return exits.GOOD

    raise typer.Exit(exits.run(run, after_stop=exits.RESUME, debug=debug))
