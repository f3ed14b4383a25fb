"""How help is laid out: verbs in groups, whole summaries, plain words for types."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

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
