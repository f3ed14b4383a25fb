"""The documentation names what there is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup

from volattn import __version__
from volattn.cli.main import app
from volattn.models.registry import MODELS
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


def test_the_gates_of_a_ct_are_drawn_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_lits_case: Callable[..., tuple[Path, Path]]
) -> None:
    write_lits_case(0, shape=(8, 64, 64))[0].rename(tmp_path / "ct.nii.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    page = (ROOT / "docs" / "how-to" / "attention.md").read_text(encoding="utf-8")
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "register_forward_hook" in block
    )
    seen: dict[str, Any] = {}
    exec(code, seen)
    assert (tmp_path / "gates.png").stat().st_size > 0
    assert len(seen["gates"]) == len(seen["weights"]) > 1
    for name, weights in seen["weights"].items():
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        assert 0 < seen["gates"][name].min() <= seen["gates"][name].max() < 1


def test_the_readme_works_on_a_package_index() -> None:
    links = _LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert sum(_OWN.match(link) is not None for link in links) > 20
    assert [link for link in links if "://" not in link] == []


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert titles[0] == "[Unreleased]"
    assert titles[1].split("]")[0] == f"[{__version__}"
    assert titles[1].endswith(str(citation["date-released"]))
    for title in titles[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", title), title


def test_ci_and_templates_can_be_read() -> None:
    """A workflow calls targets that the Makefile has; templates ask for the report."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {run.split()[1] for run in runs if run.startswith("make ")} == {"docs", "test-all"} <= {*targets}
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {f"Programming Language :: Python :: {one}" for one in pythons} <= {*project["classifiers"]}
    (install,) = re.findall(r"PIP\) (.*mkdocstrings.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert re.findall(r'"([^"]+)"', install) == project["optional-dependencies"]["docs"]
    for template in ("bug.yml", "feature.yml"):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / template).read_text(encoding="utf-8"))
        (report,) = (part for part in form["body"] if part.get("id") == "report")
        assert report["attributes"]["label"] == "`volattn --version --report`"
        assert report["validations"]["required"]


def test_the_map_of_the_folders_is_short_and_whole() -> None:
    """Each folder and module of the package is in it, and the ten changes go into folders that are there."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    mapped, changes = (
        re.split(rf"## {title}.*\n", text)[1].split("\n## ")[0] for title in ("Where things are", "Ten changes")
    )
    assert len(mapped.splitlines()) <= 60
    rooms = {path.name for path in (ROOT / "src" / "volattn").iterdir() if not path.name.startswith("_")}
    assert {name for name in rooms if f"`{name}`" not in mapped} == {"py.typed", "weights"}
    rows = [line for line in changes.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    for row in rows:
        for place in re.findall(r"`([a-z_]+(?:/[a-z_]+)*)/\w+\.py`", row.split("|")[2]):
            assert (ROOT / "src" / "volattn" / place).is_dir(), row


def test_every_page_is_in_the_navigation() -> None:
    nav = str(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.parent != ROOT]
    assert len(pages) > 20
    assert [page for page in pages if page not in nav] == []


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
    models = [row for model in MODELS.values() for row in keys(model.config, "model")]
    for parent, key in dict.fromkeys([*keys(Recipe), *models]):
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
