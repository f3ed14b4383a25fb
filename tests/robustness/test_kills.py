"""A share of `kills.py` for every change: a few kills of every verb; the command kills at every operation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

VERBS = ("phantom", "prepare", "train", "predict", "evaluate", "study")


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_the_same_bytes_after_a_kill(verb: str) -> None:
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, str(script), "--verb", verb, "--points", "2", "--seed", "1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'kills': " in done.stdout
    assert "'kills': 0" not in done.stdout
