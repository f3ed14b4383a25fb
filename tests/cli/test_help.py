"""Help is quick: it loads none of the libraries that take seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
try:
    main(sys.argv[1:])
finally:
    print("loaded:", *(name for name in {HEAVY} if name in sys.modules))
"""


@pytest.mark.parametrize(
    "verb",
    [
        "",
        *("check", "prepare", "phantom", "train", "predict", "demo", "compare", "render", "info"),
        *("evaluate", "evaluate lits", "evaluate deeplesion", "evaluate detection"),
    ],
)
def test_help_loads_nothing_heavy(verb: str) -> None:
    words = [*verb.split(), "--help"]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=True)
    assert "Usage: volattn" in done.stdout
    assert "--help" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_a_verb_that_works_would_be_noticed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "check", "no-such-folder"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "numpy" in done.stdout.splitlines()[-1]


def test_every_verb_is_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "volattn", "--help"], capture_output=True, text=True, check=True
    )
    for verb in (
        "check",
        "prepare",
        "phantom",
        "train",
        "predict",
        "evaluate",
        "compare",
        "render",
        "demo",
        "info",
    ):
        assert f"\n  {verb} " in done.stdout
