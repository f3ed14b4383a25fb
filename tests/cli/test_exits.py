"""Exit codes, and one line for what a user did wrong."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from volattn.cli import exits


def raising(error: BaseException) -> int:
    def command() -> int:
        raise error

    return exits.run(command)


def test_a_command_gives_its_own_code() -> None:
    assert exits.run(lambda: None) == exits.GOOD == 0
    assert exits.run(lambda: exits.SOME_FAILED) == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.nii: is empty;\n give a CT"), "volattn: a.nii: is empty; give a CT"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.nii"), "a.nii: No such file"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room on the disk"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(error) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert line in said


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits.run(lambda: int("no number"), debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exits.run(lambda: 1 // 0)


def test_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    assert exits.run(command, after_stop=exits.RESUME) == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--resume" in said


@pytest.mark.parametrize(("failed", "total", "code"), [(0, 3, 0), (1, 3, 1), (3, 3, 2), (1, 1, 2)])
def test_failed_cases_are_listed(failed: int, total: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    reasons = {f"case-{number}": f"{Path(f'case-{number}.nii')}: is empty" for number in range(failed)}
    assert exits.report_failures(reasons, total) == code
    said = capsys.readouterr().err
    for reason in reasons.values():
        assert reason in said
    assert said.count("\n") == (failed if total == 1 or not failed else failed + 1)
