"""Progress: what is done, and the time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from volattn.cli.progress import Bars, Lines, shown


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_has_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    for done in range(201):
        lines.report("train", done, 200)
        clock.now += 1.5
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 10
    assert said[0] == "train: 20 of 200, 4 min 30 s left"
    assert said[-1] == "train: 200 of 200"


def test_what_stood_before_does_not_make_it_look_fast(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    lines.report("train", 5000, 10000)
    clock.now += 7200
    lines.report("train", 6000, 10000)
    assert capsys.readouterr().err.splitlines()[-1] == "train: 6000 of 10000, 8 h 0 min left"


def test_the_second_validation_is_timed_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    for seconds in (1.0, 10.0):
        for done in range(3):
            lines.report("validate", done, 2)
            clock.now += seconds
    said = capsys.readouterr().err.splitlines()
    assert said == ["validate: 1 of 2, 1 s left", "validate: 2 of 2", "validate: 1 of 2, 10 s left", "validate: 2 of 2"]


def test_on_a_terminal_what_is_finished_becomes_a_line() -> None:
    screen = io.StringIO()
    bars = Bars(Console(file=screen, force_terminal=True, width=100))
    for done in range(4):
        bars.report("prepare", done, 3)
    bars.report("[train]", 1, 10)  # Not taken as markup.
    bars.close()
    assert "prepare: 3 in " in screen.getvalue()
    assert "[train]" in screen.getvalue()
    assert " 1/10" in screen.getvalue()


def test_without_a_report_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with shown():
        pass
    assert capsys.readouterr() == ("", "")
