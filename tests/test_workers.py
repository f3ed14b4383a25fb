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

from volattn.workers import available_cores, map_items


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_every_item_has_its_result(workers: int) -> None:
    assert dict(map_items(jobs.double, range(4), workers)) == {0: 0, 1: 2, 2: 4, 3: 6}


def test_an_item_that_kills_its_process_costs_only_itself() -> None:
    found = dict(map_items(jobs.die_if_negative, [1, -1, 2, 3, -2, 4], 2, name=lambda item: f"item {item}"))
    for item in (-1, -2):
        assert str(found.pop(item)).startswith(f"item {item}: its process was killed")
    assert found == {1: 2, 2: 4, 3: 6, 4: 8}


def test_what_was_lost_by_chance_is_tried_again(tmp_path: Path) -> None:
    items = [tmp_path / name for name in ("once-a", "b", "c")]
    assert dict(map_items(jobs.die_once, items, 2)) == {item: item.name for item in items}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_takes_the_place_of_its_result(workers: int) -> None:
    found = dict(map_items(jobs.fail_if_odd, [1, 2, 3], workers))
    assert isinstance(found[1], OSError)
    assert found[1].filename == "1.nii"
    assert found[2] == 2
    kind = jobs.StubbornError if workers == 1 else RuntimeError  # what cannot be pickled is described
    assert isinstance(found[3], kind)
    assert "3" in str(found[3])


def test_workers_share_the_threads() -> None:
    cores = available_cores()
    ((_, threads),) = {pair for pair in map_items(jobs.threads, [0, 1], 2) if pair[0] == 0}
    assert threads == os.environ.get("OMP_NUM_THREADS", str(max(1, cores // 2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_progress_reaches_the_caller_and_fresh_items_their_own_process(workers: int) -> None:
    seen: list[tuple[str, int, int]] = []
    found = map_items(
        jobs.describe,
        range(3),
        workers,
        fresh=True,
        environments=[{"SLOT": "a"}, {"SLOT": "b"}],
        progress=lambda *message: seen.append(message),
    )
    processes, slots = zip(*(result for _, result in found), strict=True)
    assert sorted(seen) == [(f"item {number}", number, 3) for number in range(3)]
    assert len({*processes, os.getpid()}) == (4 if workers else 1)
    assert {*slots} == ({"a", "b"} if workers else {"none"})


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
