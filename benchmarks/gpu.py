"""Everything that only a GPU can show, in one command: tests, a training step, predictions, attention, a training.

    python benchmarks/gpu.py -o docs/results/gpu            (or: make gpu-check)

Each part runs in a process of its own, so that none takes another with it, and what it finds is in `results.json` and
`README.md` at once. A part that fails is a line; parts for which no time is left are skipped. Weights are new ones.

A machine without a network needs PyTorch, torchvision, accelerate and pytest; `make gpu-wheels` on another fetches the
rest for Python 3.12 into wheels/. Then, in the copy of the repository there:

    python3 -m pip install -q --no-index --no-deps --target /tmp/site wheels/*.whl
    PYTHONPATH=/tmp/site:src python3 benchmarks/gpu.py -o out --commit "the commit of the copy"

`--size toy --device cpu` runs the same in a minute anywhere, on miniatures; it measures nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gpu_page

from volattn.io.files import append_line, read_json_lines, write_json, write_text
from volattn.provenance import commit, versions
from volattn.workers import available_cores

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"tests": 150.0, "steps": 75.0, "predictions": 170.0, "attention": 40.0, "learning": 120.0}
"""Seconds for each part at most, in the order of their worth; a part that is done earlier leaves its time to others."""
INPUTS = 240.0
GRACE = 20.0
"""Seconds after which a part is killed that does not end in time by itself."""
WITHOUT_INPUTS = ("tests", "attention")
TESTS = (
    "tests/models/test_devices.py",
    "tests/models/test_volumetric_attention.py",
    "tests/models/test_precision.py",
    "tests/training/test_run_devices.py",
    "tests/inference/test_predict_devices.py",
    "tests/slabs/test_slab.py",
)
TRIED = "cpu and ((as_on_the_cpu and mask_rcnn) or (attention_and_its and mean))"
"""Of the tests, on a CPU."""

Row = dict[str, Any]


class Results:
    """`results.json` and its page, written anew with everything that is found.

    Args:
        header: What is known from the start.
    """

    def __init__(self, out: Path, header: Row) -> None:
        self.out = out
        self.content: Row = {**header, "seconds": 0.0, "parts": {}}
        self.began = time.monotonic()

    def put(self, name: str, outcome: str, rows: list[Row], seconds: float) -> None:
        """What is known of a part now."""
        part = {"outcome": outcome, "seconds": seconds, "rows": rows}
        if self.content["parts"].get(name) == part:
            return
        self.content["parts"][name] = part
        self.content["seconds"] = time.monotonic() - self.began
        write_json(self.out / "results.json", self.content)
        write_text(self.out / "README.md", gpu_page.page(self.content))

    @property
    def met(self) -> bool:
        """Whether all was done, without a failure."""
        parts = self.content["parts"].values()
        return all(part["outcome"] == "done" and not any("error" in row for row in part["rows"]) for part in parts)


class Part:
    """A part in a process of its own."""

    def __init__(self, name: str, options: argparse.Namespace, work: Path, seconds: float) -> None:
        self.name, self.work, self.seconds, self.began = name, work, seconds, time.monotonic()
        command = [sys.executable, __file__, "--part", name, "--work", str(work), "--seconds", str(seconds)]
        command += ["--device", options.device, "--size", options.size, "--seed", str(options.seed)]
        with (work / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
            )

    def follow(self, results: Results) -> None:
        """Records what it finds until it ends, or is killed because its time is over."""
        while self.process.poll() is None:
            if time.monotonic() - self.began > self.seconds + GRACE:
                self.kill()
                self._record(results, f"stopped after {self.seconds + GRACE:.0f} s")
                return
            self._record(results, "running")
            time.sleep(0.2)
        code = self.process.returncode
        self._record(results, "done" if code == 0 else f"failed: {self._last_words() or f'exit code {code}'}")

    def kill(self) -> None:
        """Ends it, and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _record(self, results: Results, outcome: str) -> None:
        rows = self.work / f"{self.name}.jsonl"
        # While it runs only new rows are worth a write, not the time that passes.
        seconds = 0.0 if outcome == "running" else round(time.monotonic() - self.began, 1)
        results.put(self.name, outcome, read_json_lines(rows) if rows.is_file() else [], seconds)

    def _last_words(self) -> str:
        lines = (self.work / f"{self.name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return short(lines[-1]) if lines else ""


def run_all(options: argparse.Namespace, work: Path) -> Results:
    """All parts, the inputs of the later ones made beside the tests."""
    began = time.monotonic()
    until = began + 60 * options.minutes
    inputs = Part("inputs", options, work, min(INPUTS, 60 * options.minutes))
    try:
        results = Results(options.out, header(options))
        ready = False
        for name, limit in LIMITS.items():
            if not ready and name not in WITHOUT_INPUTS:
                inputs.follow(results)
                ready = True
                if results.content["parts"]["inputs"]["outcome"] != "done":
                    print(f"inputs: {results.content['parts']['inputs']['outcome']}", flush=True)
            # A busy processor may take long for miniatures.
            seconds = min(limit if options.size == "full" else math.inf, until - time.monotonic())
            if seconds < 5:
                results.put(name, f"skipped: the {options.minutes:g} minutes are used up", [], 0.0)
                continue
            part = Part(name, options, work, seconds)
            try:
                part.follow(results)
            finally:
                part.kill()
            done = results.content["parts"][name]
            print(f"{name}: {done['outcome']}, {done['seconds']:.0f} s", flush=True)
    finally:
        inputs.kill()
    return results


def header(options: argparse.Namespace) -> Row:
    """Commit, versions, device, seed and command."""
    command = (
        f"python benchmarks/gpu.py --device {options.device} --size {options.size} "
        f"--minutes {options.minutes:g} --seed {options.seed}"
    )
    return {
        "command": command,
        "commit": options.commit or commit(),
        "versions": versions(),
        "device": describe_device(options.device),
        "seed": options.seed,
        "size": options.size,
        "minutes": options.minutes,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe_device(name: str) -> Row:
    """What it is, and what PyTorch lets it do."""
    import torch

    found: Row = {"kind": name.partition(":")[0], "machine": platform.machine(), "cores": available_cores()}
    if found["kind"] == "cpu":
        return found
    about = torch.cuda.get_device_properties(name)
    return found | {
        "name": about.name,
        "gib": round(about.total_memory / 2**30, 1),
        "capability": f"{about.major}.{about.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
    }


def run_part(options: argparse.Namespace) -> int:
    """The process of a part: a row for each piece of its work."""
    until = time.monotonic() + options.seconds
    rows = options.work / f"{options.part}.jsonl"
    rows.touch()
    if options.part == "tests":
        return run_tests(options.device, until, rows)
    import gpu_parts

    setting = gpu_parts.Setting(options.device, gpu_parts.SIZES[options.size], options.seed, options.work, until)
    for keys, measure in gpu_parts.PARTS[options.part](setting):
        found: Row
        if time.monotonic() > until:
            found = {"skipped": "no time was left"}
        else:
            try:
                setting.forget_memory()
                found = measure()
            except Exception as error:
                found = {"error": failure(error)}
                print(f"{keys}: {found['error']}", flush=True)
        append_line(rows, json.dumps(written({**keys, **found}), allow_nan=False))
    return 0


def run_tests(device: str, until: float, rows: Path) -> int:
    """The tests; a row for each as soon as it is done."""
    import pytest

    class Recorder:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.outcome != "passed":
                row: Row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
                if report.outcome == "failed":
                    row["error"] = short(str(report.longrepr).strip().splitlines()[-1])
                    crash = getattr(report.longrepr, "reprcrash", None)
                    if crash is not None:
                        row["error"] = short(crash.message)
                append_line(rows, json.dumps(written(row)))

        def pytest_runtest_setup(self, item: pytest.Item) -> None:
            if time.monotonic() > until:
                item.session.shouldstop = "no time was left"
                pytest.skip("no time was left")

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                words = short(str(report.longrepr).strip().splitlines()[-1])
                append_line(rows, json.dumps({"test": report.nodeid, "outcome": "failed", "error": words}))

    chosen = ["-k", TRIED, "-m", "not cuda"] if device == "cpu" else ["-m", "cuda"]
    arguments = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--tb=short", *chosen, *TESTS]
    code = pytest.main(arguments, plugins=[Recorder()])
    return 0 if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED) else int(code)


def short(text: str) -> str:
    """The start of a text, in one line."""
    return " ".join(text.split())[:300]


def failure(error: Exception) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {short(str(error))}"


def written(row: Row) -> Row:
    """A row as JSON takes it: what is not finite as text, numpy's numbers as Python's."""
    found = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
    return {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}


def main() -> int:
    """Measures, writes; 1 if anything failed or was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="(default: %(default)s)")
    parser.add_argument("--size", choices=("toy", "full"), default="full", help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of phantoms and weights (default: %(default)s)")
    parser.add_argument("--commit", help="where git does not know it")
    parser.add_argument("-o", "--out", type=Path, help="folder for results.json and README.md")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        return run_part(options)
    if options.out is None:
        parser.error("give a folder for the results: -o docs/results/gpu")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # The parts must not outlive it.
    with tempfile.TemporaryDirectory(prefix="volattn-gpu-") as work:
        results = run_all(options, Path(work))
        for log in sorted(Path(work).glob("*.log")):
            print(f"--- {log.stem}\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    print(gpu_page.page(results.content))
    return 0 if results.met else 1


if __name__ == "__main__":
    sys.exit(main())
