"""Options that several verbs share, how their values are read, and how help is laid out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup


def split_commas(text: str | None) -> tuple[str, ...]:
    """The values of `a,b`."""
    return tuple(part for part in (part.strip() for part in (text or "").split(",")) if part)


def parse_workers(text: str) -> int | Literal["auto"]:
    """The value of `--workers`.

    Raises:
        ValueError: It is neither a whole number nor `auto`.
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ValueError(f"--workers {text}: give a whole number, or auto")
    return int(text)


def parse_organ(text: str | None) -> int | Literal["none"] | None:
    """The value of `--organ`.

    Raises:
        ValueError: It is neither a whole number nor `none`.
    """
    if text is None or text == "none":
        return "none" if text else None
    if not text.isdecimal():
        raise ValueError(f"--organ {text}: is no label; give a whole number, or none for masks of lesions only")
    return int(text)


def organ_label(text: str | None, lesion: int) -> int | None:
    """The label of the organ, None for masks of lesions only."""
    from volattn.scoring.lits import organ_label

    return organ_label(parse_organ(text), lesion)


DataSet = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A LiTS, MSD, nnU-Net raw or DeepLesion folder; the layout is found.")
]
OrganOnly = Annotated[
    bool, typer.Option("--organ-only", help="Takes labels of organs alone, to train on painted lesions.")
]
Auxiliary = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Labels that are neither organ nor lesion; learned, and not reported."),
]
KeepNoisy = Annotated[bool, typer.Option("--keep-noisy", help="Takes lesions that DeepLesion marks Possibly_noisy.")]
Subset = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Subsets of the data set's own split: train, val, test.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="The device: auto, cpu, cuda, cuda:1, ...")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Precision on a GPU; bf16 and fp16 are mixed.")
]
Workers = Annotated[str, typer.Option(metavar="N|auto", help="Processes; 0 works in this one.")]
Force = Annotated[bool, typer.Option("--force", help="Takes values that cannot be HU of a CT.")]
TrustGrid = Annotated[
    bool, typer.Option("--trust-grid", help="Takes voxels as they lie where shapes agree and headers do not.")
]
ReportFolder = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Folder for pictures of the scores and a page that holds them."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Shows the traceback behind an error.")]

_TYPE = re.compile(r"(?:\.\.\.)? <(list\[)?(int range|int|float range|float|str|Path|path)\]?>(?:\.\.\.)?")
_PLAIN = {"int": "number", "float": "number", "str": "text", "path": "path"}
_CHOICES = re.compile(r"<list\[(.+?)\]>")


class Verb(TyperCommand):
    """A verb; an option's type is `<number>` or `<path>...`, not `<int range>` or `<list[Path]>`."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parses the command line; a wrong value is refused in this program's words, not in pydantic's."""
        try:
            return super().make_context(*args, **options)
        except typer.BadParameter as error:
            from pydantic import ValidationError

            from volattn.config import describe

            if isinstance(error.__cause__, ValidationError):
                error.message = describe(error.__cause__.errors()[0] | {"loc": ()}).rstrip(".")
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Lists arguments and options."""
        write = formatter.write_dl
        formatter.write_dl = lambda rows: write([(_plain_types(name), text) for name, text in rows])
        super().format_options(ctx, formatter)


def _plain_types(name: str) -> str:
    return _CHOICES.sub(r"<\1>...", _TYPE.sub(_plain, name))


def _plain(found: re.Match[str]) -> str:
    plain = _PLAIN[found[2].split()[0].lower()]
    return f" <{plain}>{'...' if found[1] or '...' in found[0] else ''}"


class VerbGroup(TyperGroup):
    """Verbs below the title of their group (`rich_help_panel`), each with the whole first sentence of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Lists the verbs."""
        groups: dict[str, list[tuple[str, str]]] = {}
        longest = max(map(len, self.commands))
        for name, verb in self.commands.items():
            group = verb.rich_help_panel if isinstance(verb, (TyperCommand, TyperGroup)) else None
            summary = verb.get_short_help_str(limit=1000)
            groups.setdefault(group or "Commands", []).append((name.ljust(longest), summary))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)
