"""`volattn check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volattn.cli import exits

NAME = "check"


def command(
    dataset: Annotated[Path, typer.Argument(help="A LiTS folder, an MSD task, or an nnU-Net raw data set.")],
    force: Annotated[bool, typer.Option("--force", help="Takes values that cannot be HU of a CT.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Shows tracebacks.")] = False,
) -> None:
    """Lists every fault of a data set in one pass, with what to do about it."""
    raise typer.Exit(exits.run(lambda: _check(dataset, force), debug=debug))


def _check(path: Path, force: bool) -> int:
    from volattn.cli.progress import shown
    from volattn.datasets.check import check_dataset
    from volattn.datasets.open import open_dataset

    dataset = open_dataset(path)
    with shown() as progress:
        findings = check_dataset(dataset, force, progress)
    for finding in findings:
        print(f"{finding.severity}: {finding.file}: {finding.message}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{dataset.name}: {len(dataset.cases)} cases, {errors} errors, {len(findings) - errors} notes")
    return exits.SOME_FAILED if errors else exits.GOOD
