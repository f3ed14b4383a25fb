"""Commands, given as in a shell."""

from __future__ import annotations

import pytest

from volattn.cli.main import main


def volattn(*words: object) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code
