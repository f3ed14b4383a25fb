"""Shared by the tests of this folder."""

from __future__ import annotations

import pytest

from volattn.scoring import statistics


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bootstraps are quick where a test does not depend on how many samples they draw."""
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
