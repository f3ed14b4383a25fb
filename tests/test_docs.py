"""The documentation names what there is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup

from volattn import __version__
from volattn.cli.main import app
from volattn.training.recipe import Recipe, shipped

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if "results" not in path.parts)])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# The README's links and picture work on a package index too, which knows no other file of the repository.
_OWN = re.compile(
    r"https://(?:github\.com/volattn/volattn/(?:blob|tree)|raw\.githubusercontent\.com/volattn/volattn)/main/"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        own = _OWN.match(link)
        if own is None and "://" in link:
            continue
        path, _, anchor = (link[own.end() :] if own else link).partition("#")
        target = (ROOT if own else page.parent) / path if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, link


def test_the_readme_works_on_a_package_index() -> None:
    links = _LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert sum(_OWN.match(link) is not None for link in links) > 20
    assert [link for link in links if "://" not in link] == []


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert titles[0] == "[Unreleased]"
    for title in titles[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", title), title


def test_ci_and_templates_can_be_read() -> None:
    """A workflow calls targets that the Makefile has; templates ask for the report."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {run.split()[1] for run in runs if run.startswith("make ")} == {"test"} <= {*targets}
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {f"Programming Language :: Python :: {one}" for one in pythons} <= {*project["classifiers"]}
    for template in ("bug.yml", "feature.yml"):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / template).read_text(encoding="utf-8"))
        (report,) = (part for part in form["body"] if part.get("id") == "report")
        assert report["attributes"]["label"] == "`volattn --version --report`"
        assert report["validations"]["required"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_every_verb_and_option_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    for name, verb in verbs(typer.main.get_command(app)):
        found = re.search(rf"^## volattn {name} .*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert found, name
        for parameter in verb.params:
            for option in parameter.opts:
                if option.startswith("--") and option not in ("--help", "--debug"):
                    assert option in found[0], f"{name} {option}"
        for option in re.findall(r"`(--[a-z0-9-]+)", found[0]):
            assert any(option in parameter.opts for parameter in verb.params), f"{name} {option}"


def verbs(group: object, before: str = "") -> Iterator[tuple[str, TyperCommand]]:
    """(name, verb) of every verb, those of a group as `group verb`."""
    assert isinstance(group, TyperGroup)
    for name, verb in group.commands.items():
        if isinstance(verb, TyperCommand):
            yield f"{before}{name}", verb
        else:
            yield from verbs(verb, f"{before}{name} ")


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
