"""`make gpu-check`: its page, what fails in it, and the whole of it on miniatures."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu
import gpu_page
import pytest

HEADER: dict[str, Any] = {
    "command": "python benchmarks/gpu.py --device cuda",
    "commit": "c0ffee",
    "versions": {"torch": "2.11.0"},
    "device": {"kind": "cuda", "name": "a GPU", "gib": 139.8},
}


def test_the_page_has_every_number_and_every_failure(tmp_path: Path) -> None:
    results = gpu.Results(tmp_path, HEADER)
    passed = {"test": "tests/a.py::test_b", "outcome": "passed", "seconds": 0.5}
    failed = {"test": "tests/a.py::test_c", "outcome": "failed", "seconds": 0.1, "error": "AssertionError: 2 != 3"}
    results.put("tests", "done", [passed, failed], 10.0)
    assert not results.met
    row = {"precision": "bf16", "slabs": "in memory", "seconds_a_step": 0.125, "slowest": 0.25, "steps": 6}
    results.put("steps", "running", [row], 0.0)
    results.put("steps", "stopped after 95 s", [row, {"precision": "fp16", "slabs": "in memory", "error": "OOM"}], 95.0)
    results.put("predictions", "skipped: the 8 minutes are used up", [], 0.0)
    page = (tmp_path / "README.md").read_text()
    assert page == gpu_page.page(json.loads((tmp_path / "results.json").read_text()))
    for words in (
        "# On a GPU\n",
        "name a GPU, gib 139.8",
        "Commit c0ffee",
        "1 passed, 1 failed, 0 skipped.",
        "- tests/a.py::test_c: failed, AssertionError: 2 != 3\n",
        "0.125    0.250",
        "- fp16, in memory: failed, OOM\n",
        "- This part: stopped after 95 s.",
        "- This part: skipped: the 8 minutes are used up.",
    ):
        assert words in page


def test_all_parts_have_a_title_and_columns() -> None:
    import gpu_parts

    names = {"tests", *gpu_parts.PARTS}
    assert names == {"inputs", *gpu.LIMITS} == gpu_page.TITLES.keys()


def test_a_piece_of_work_that_fails_is_a_row_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_parts

    def fail() -> dict[str, Any]:
        raise ValueError("too small\nby far")

    rows = (gpu_parts.Work({"batch": 1}, fail), gpu_parts.Work({"batch": 2}, lambda: {"loss": float("inf")}))
    monkeypatch.setitem(gpu_parts.PARTS, "steps", lambda setting: iter(rows))
    options = argparse.Namespace(part="steps", work=tmp_path, seconds=60.0, device="cpu", size="toy", seed=0)
    assert gpu.run_part(options) == 0
    options.seconds = -1.0
    assert gpu.run_part(options) == 0
    assert [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()] == [
        {"batch": 1, "error": "ValueError: too small by far"},
        {"batch": 2, "loss": "inf"},
        {"batch": 1, "skipped": "no time was left"},
        {"batch": 2, "skipped": "no time was left"},
    ]


def test_a_part_that_crashes_or_hangs_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "part.py"
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    options = argparse.Namespace(device="cpu", size="toy", seed=0)
    results = gpu.Results(tmp_path / "out", HEADER)
    for name, code, outcome in (
        ("steps", "raise SystemExit('device-side assert')", "failed: device-side assert"),
        ("attention", "import time; time.sleep(60)", "stopped after 1 s"),
    ):
        script.write_text(code)
        gpu.Part(name, options, tmp_path, 0.5).follow(results)
        assert results.content["parts"][name]["outcome"] == outcome
    assert not results.met


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_command_on_miniatures(tmp_path: Path) -> None:
    command = [sys.executable, gpu.__file__, "--size", "toy", "--device", "cpu", "--minutes", "14"]
    done = subprocess.run([*command, "-o", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert list(parts) == ["tests", "inputs", "steps", "predictions", "attention", "learning"]
    assert all(part["rows"] for part in parts.values())
    assert len(parts["predictions"]["rows"]) == 5
