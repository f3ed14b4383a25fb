"""The command `volattn`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from volattn import __version__
from volattn.cli import (
    check,
    compare,
    demo,
    evaluate,
    info,
    phantom,
    predict,
    prepare,
    render,
    study,
    train,
)
from volattn.cli.values import spread

app = typer.Typer(
    name="volattn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (demo, check, prepare, train, predict, compare, render, phantom, info, study):
    app.command(verb.NAME)(verb.command)
app.add_typer(evaluate.app, name=evaluate.NAME)


def _version(asked: bool) -> None:
    if asked:
        print(f"volattn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Prints the version.")
    ] = False,
) -> None:
    """Finds and outlines lesions in 3D CT with volumetric attention. Not a medical device."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; ends in `SystemExit` with the exit code.

    Args:
        arguments: Of the command line, those of this process by default.
    """
    words = sys.argv[1:] if arguments is None else arguments
    app(args=spread(words, {"-i", "--input", "-l", "--labels", "--name", "--view"}), prog_name="volattn")


if __name__ == "__main__":
    main()
