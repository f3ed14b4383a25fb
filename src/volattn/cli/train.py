"""`volattn train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits
from volattn.cli.options import Device, Precision, Subset

NAME = "train"


@exits.verb()
def command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name that `volattn info` lists, or a .yaml file.")],
    data: Annotated[Path, typer.Option("--data", help="Store that `volattn prepare` wrote.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder; not needed with --dry-run.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Changes a value of the recipe.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Goes on with the run in the folder.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prints steps, memory and time, and ends; needs no weights.")
    ] = False,
    fold: Annotated[str | None, typer.Option(metavar="K/N", help="Cross-validation fold, e.g. 1/5.")] = None,
    subset: Subset = None,
    weights: Annotated[
        str | None, typer.Option(help="none, imagenet, coco, demo, a weights file or a run folder.")
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
    workers: Annotated[
        str, typer.Option(metavar="N|auto", help="Processes that read ahead; auto: 0 on a CPU, up to 4 for a GPU.")
    ] = "auto",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also writes TensorBoard files.")] = False,
) -> None:
    """Trains a model from a prepared data set.

    On several GPUs: `torchrun --nproc-per-node=N -m volattn train ...`.
    """
    from accelerate import PartialState

    from volattn import api
    from volattn.cli.options import parse_workers, split_commas
    from volattn.cli.progress import shown

    if out is None and not dry_run:
        raise ValueError("the run needs a folder; give -o FOLDER, or --dry-run for an estimate")
    with shown() as progress:
        result = api.train(
            recipe,
            data,
            out or Path(),
            settings=settings or (),
            weights=weights,
            resume=resume,
            fold=fold,
            subset=split_commas(subset),
            device=device,
            precision=precision,
            workers=parse_workers(workers),
            tensorboard=tensorboard,
            dry_run=dry_run,
            announce=print,
            progress=progress,
        )
    if PartialState().is_main_process and not dry_run:  # Under torchrun every process comes here.
        print(f"{result.path}: the best weights are those of step {result.best_step}; {result.validation.summary}")
