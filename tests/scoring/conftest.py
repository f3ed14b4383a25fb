"""Shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from volattn.scoring import statistics


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """Bootstraps are quick in modules that do not depend on how many samples they draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "RESAMPLES", 50)
        yield
