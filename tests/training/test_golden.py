"""Golden losses: a change that moves what a network learns is seen in its first steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden import GOLDEN, first_losses


@pytest.mark.slow
def test_the_first_losses_of_tiny_are_what_they_were(tmp_path: Path) -> None:
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = first_losses(tmp_path)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-3), (
            f"step {number}; if the change is meant, run python tests/training/golden.py"
        )
