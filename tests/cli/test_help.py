"""Help is quick, whole, and in plain words; `--version --report` gives no user away."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from commands import volattn
from typer.core import TyperCommand, TyperGroup

from volattn import __version__
from volattn.cli.main import app

HEAVY = (
    "torch",
    "torchvision",
    "accelerate",
    "scipy",
    "nibabel",
    "numpy",
    "blosc2",
    "matplotlib",
    "pandas",
    "pyvista",
    "vtkmodules",
)
SCRIPT = f"""
import sys
from volattn.cli.main import main
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit:
        pass
    print("loaded:", *(name for name in {HEAVY} if name in sys.modules))
"""


def test_help_loads_nothing_heavy_but_a_verb_that_works_does() -> None:
    verbs = [name.removeprefix("volattn").strip() for name in COMMANDS]
    words = [*(f"{verb} --help" for verb in verbs), "check no-such-folder"]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=True)
    *helped, worked = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert helped == ["loaded:"] * len(verbs)
    assert done.stdout.count("Usage: volattn") == len(verbs)
    assert "numpy" in worked


def commands(command: object, name: str = "volattn") -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """(name, command) of volattn, its groups and its verbs."""
    assert isinstance(command, (TyperCommand, TyperGroup))
    yield name, command
    if isinstance(command, TyperGroup):
        for below, one in command.commands.items():
            yield from commands(one, f"{name} {below}")


COMMANDS = dict(commands(typer.main.get_command(app)))


def page(name: str) -> str:
    command = COMMANDS[name]
    return command.get_help(command.context_class(command, info_name=name))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_whole_sentences_and_plain_words(name: str) -> None:
    assert COMMANDS[name].help
    assert "list[" not in page(name)
    for parameter in COMMANDS[name].params:
        text = getattr(parameter, "help", None) or ""
        assert text.endswith("."), parameter.name
        # "Of the bootstrap." leaves out what it is that the option gives.
        assert not re.match("(Of|That|Those|The same|How many)\\b", text), text


@pytest.mark.parametrize("name", [name for name, one in COMMANDS.items() if isinstance(one, TyperGroup)])
def test_each_verb_is_one_line_with_its_whole_summary(name: str) -> None:
    group = COMMANDS[name]
    assert isinstance(group, TyperGroup)
    lines = page(name).splitlines()
    for verb, command in group.commands.items():
        summary = (command.help or "").split("\n")[0].rstrip(".")
        assert any(re.fullmatch(rf"  {verb} +{re.escape(summary)}\.?", line) for line in lines), verb


def test_verbs_are_in_groups() -> None:
    shown = page("volattn")
    titles = re.findall(r"^(\S.*):$", shown, re.MULTILINE)
    assert titles == ["Options", "Data", "Train and predict", "Score", "Other"]


def test_python_m_volattn_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "volattn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"volattn {__version__}\n"


def test_a_report_says_versions_and_device_but_no_path_and_no_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "jane-doe-home" / "ct-of-john-smith"
    folder.mkdir(parents=True)
    person = {"HOME": str(folder.parent), "USER": "jane.doe", "LOGNAME": "jane.doe", "HOSTNAME": "ward-7"}
    done = subprocess.run(
        [sys.executable, "-m", "volattn", "--version", "--report"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | person,
    )
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["volattn"].startswith(__version__)
    assert said["python"].endswith(platform.python_version())
    assert {"torch", "torchvision", "numpy", "nibabel", "system", "threads", "command"} <= said.keys()
    assert any(key.startswith("cuda") for key in said)
    assert not re.search(r"(^|[\s=(:])([/~\\]|[A-Za-z]:[/\\])", done.stdout)
    for secret in ("jane", "john", "ward-7", sys.prefix, str(Path(__file__).parents[2])):
        assert secret not in done.stdout
    assert platform.node() not in re.split(r"[\s,:()]+", done.stdout)
    assert volattn("--report", "--version") == 0
    assert capsys.readouterr().out.splitlines()[:-1] == done.stdout.splitlines()[:-1]
