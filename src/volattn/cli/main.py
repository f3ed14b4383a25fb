"""The command `volattn`."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from volattn import __version__
from volattn.cli import check, compare, demo, evaluate, info, phantom, predict, prepare, render, study, train
from volattn.cli.options import Verb, VerbGroup
from volattn.io.names import printable

app = typer.Typer(
    name="volattn",
    cls=VerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_GROUPS = {
    "Data": (check, prepare, phantom),
    "Train and predict": (train, predict, study),
    "Score": (evaluate, compare),
    "Other": (demo, info, render),
}
for group, verbs in _GROUPS.items():
    for verb in verbs:
        if verb is evaluate:
            app.add_typer(verb.app, name=verb.NAME, rich_help_panel=group)
        else:
            app.command(verb.NAME, cls=Verb, rich_help_panel=group)(verb.command)


def _version(context: typer.Context, asked: bool) -> None:
    if context.params.get("report"):
        from volattn.cli.report import report

        print(report())
        raise typer.Exit
    if asked:
        print(f"volattn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, help="Prints the version.")] = False,
    # Eager, so that --version sees it, whatever their order.
    report: Annotated[
        bool,
        typer.Option("--report", is_eager=True, help="Prints versions and device for a bug report, no paths or names."),
    ] = False,
) -> None:
    """Finds and outlines lesions in 3D CT with volumetric attention. Not a medical device."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command, with the arguments of this process by default; ends in `SystemExit`."""
    if arguments is None and sys.getfilesystemencoding() != "utf-8":
        # File names and output are UTF-8, whatever the locale.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    _print_any_name()
    app(args=None if arguments is None else list(arguments), prog_name="volattn")


def _print_any_name() -> None:
    """Escapes what the terminal or the font cannot show, instead of failing."""
    codecs.register_error("volattn", _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="volattn")
    warnings.filterwarnings("ignore", message="Glyph .* missing")


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = printable(error.object[error.start : error.end])
    return text.encode("ascii", "backslashreplace").decode(), error.end
