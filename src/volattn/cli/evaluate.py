"""`volattn evaluate`: a verb for each way of scoring, each in a file of its own."""

from __future__ import annotations

import typer

from volattn.cli import evaluate_deeplesion, evaluate_detection, evaluate_lits
from volattn.cli.help import Verb, VerbGroup

NAME = "evaluate"
app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Scores predictions of any program as the challenges do.",
)
for scoring in (evaluate_lits, evaluate_deeplesion, evaluate_detection):
    app.command(scoring.NAME, cls=Verb)(scoring.command)
