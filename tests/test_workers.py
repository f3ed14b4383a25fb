"""Processes may be killed at any time: nothing hangs, nothing is lost, nothing lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest

from volattn.workers import WorkerDied, each


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_every_item_has_its_result(workers: int) -> None:
    assert dict(each(jobs.double, range(4), workers)) == {0: 0, 1: 2, 2: 4, 3: 6}


def test_an_item_that_kills_its_process_costs_only_itself() -> None:
    found = dict(each(jobs.die_if_negative, [1, -1, 2, 3, -2, 4], 2))
    assert found == {1: 2, 2: 4, 3: 6, 4: 8, -1: WorkerDied(), -2: WorkerDied()}


def test_what_was_lost_by_chance_is_tried_again(tmp_path: Path) -> None:
    items = [tmp_path / name for name in ("once-a", "b", "c")]
    assert dict(each(jobs.die_once, items, 2)) == {item: item.name for item in items}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_is_not_swallowed(workers: int) -> None:
    with pytest.raises(KeyError):
        list(each(jobs.fail, [1, 2, 3], workers))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent(tmp_path: Path, end: signal.Signals) -> None:
    beats = [tmp_path / "a", tmp_path / "b"]
    parent = subprocess.Popen([sys.executable, jobs.__file__, str(tmp_path)])
    try:
        wait_until(lambda: all(path.exists() for path in beats))
    finally:
        os.kill(parent.pid, end)
        parent.wait()

    def silent() -> bool:
        before = [path.stat().st_size for path in beats]
        time.sleep(0.5)
        return [path.stat().st_size for path in beats] == before

    wait_until(silent)


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
