"""How help is laid out: verbs in groups, whole summaries, plain words for types."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

_LIST = re.compile(r"(\.\.\.)? <list\[(.+?)\]>")


class Verb(TyperCommand):
    """A verb; a parameter with several values is `<path>...`, not `<list[Path]>`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Lists arguments and options."""
        write = formatter.write_dl
        formatter.write_dl = lambda rows: write(
            [(_LIST.sub(lambda found: f" <{found[2].lower()}>...", name), text) for name, text in rows]
        )
        super().format_options(ctx, formatter)


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
