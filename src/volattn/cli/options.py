"""Values of options: several behind one, as `-i a b c` or `--splits a,b`, and labels.

Options that several verbs share.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer


def spread(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """Repeats an option before each of its values, up to the next option.

    Args:
        arguments: Of the command line.
        options: The options that take several values, e.g. `-i` and `--input`.
    """
    result: list[str] = []
    repeated: str | None = None
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            name = argument.partition("=")[0]
            repeated = name if name in options else None
            result.append(argument)
        else:
            # The first value follows its option already.
            if repeated is not None and result[-1] != repeated:
                result.append(repeated)
            result.append(argument)
    return result


def parted(text: str | None) -> tuple[str, ...]:
    """Values that commas part; none of nothing."""
    return tuple(part for part in (part.strip() for part in (text or "").split(",")) if part)


def organ_label(option: str, given: str | None, lesion: int) -> int | None:
    """The label of an organ, None for masks of lesions only: 1 by default, and none where that is the lesions'.

    Args:
        option: What it was given with, for the error.
        given: The label, `none`, or nothing.
        lesion: The label of lesions.

    Raises:
        ValueError: It is neither a whole number nor `none`.
    """
    if given is None:
        return None if lesion == 1 else 1
    if given in ("none", "0"):
        return None
    if not given.isdecimal():
        raise ValueError(f"{option} {given}: is no label; give a whole number, or none for lesions only")
    return int(given)


DataSet = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A LiTS, MSD, nnU-Net raw or DeepLesion folder; the layout is found.")
]
KeepNoisy = Annotated[bool, typer.Option("--keep-noisy", help="Takes lesions that DeepLesion marks Possibly_noisy.")]
Splits = Annotated[
    str | None, typer.Option(metavar="PART,...", help="Parts of the data set's own split: train, val, test.")
]
Force = Annotated[bool, typer.Option("--force", help="Takes values that cannot be HU of a CT.")]
TrustGrid = Annotated[
    bool, typer.Option("--trust-grid", help="Takes voxels as they lie where shapes agree and headers do not.")
]
ReportFolder = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Folder for pictures of the scores and a page that holds them."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Shows the traceback behind an error.")]
