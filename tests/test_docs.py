"""The documentation names what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperGroup

from volattn.cli.main import app
from volattn.training.recipe import Recipe, shipped

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if "results" not in path.parts)]
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, link


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_every_verb_and_option_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    for name, verb in command.commands.items():
        found = re.search(rf"^## volattn {name} .*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert found, name
        for parameter in verb.params:
            for option in parameter.opts:
                if option.startswith("--") and option not in ("--help", "--debug"):
                    assert option in found[0], f"{name} {option}"
        for option in re.findall(r"`(--[a-z0-9-]+)", found[0]):
            assert any(option in parameter.opts for parameter in verb.params), f"{name} {option}"


def test_every_recipe_key_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    for recipe in shipped():
        assert f"`{recipe}`" in page
    sections = re.split(r"^#+ ", page, flags=re.MULTILINE)
    for parent, key in keys(Recipe):
        texts = [text for text in sections if not parent or text.split("\n")[0] == parent]
        assert any(f"`{key}`" in text or f"`{parent}.{key}`" in text for text in texts), f"{parent}.{key}"


def keys(cls: type[BaseModel], parent: str = "") -> Iterator[tuple[str, str]]:
    """(section, key) of every value."""
    for name, field in cls.model_fields.items():
        below = [part for part in _parts(field.annotation) if issubclass(part, BaseModel)]
        if below:
            yield from keys(below[0], f"{parent}.{name}" if parent else name)
        else:
            yield parent, name


def _parts(annotation: object) -> list[type]:
    if get_origin(annotation) in (Union, UnionType):
        return [part for part in get_args(annotation) if isinstance(part, type)]
    return [annotation] if isinstance(annotation, type) else []
