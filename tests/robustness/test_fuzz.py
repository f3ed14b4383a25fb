"""Whatever a file holds, its reader gives a right answer or one line: a small, fixed share of `fuzz_readers.py`."""

from __future__ import annotations

import sys

import pytest
from fuzz_readers import READERS, fuzz

MUTATIONS = 5


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's proc")
def test_a_wrong_file_is_a_right_answer_or_one_line() -> None:
    tallies = fuzz(list(READERS), MUTATIONS, seed=0)
    assert {name: tally.failures for name, tally in tallies.items() if tally.failures} == {}
    for name, tally in tallies.items():
        assert tally.outcomes["line"] > 0, name
        assert tally.outcomes.total() == MUTATIONS
