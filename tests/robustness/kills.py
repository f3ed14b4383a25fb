"""Kills a command before each of its file operations, gives it again, and compares every byte with an unkilled run.

python tests/robustness/kills.py --verb VERB|all [--points N|all] [--seed S] [-o kills.json]

The command runs in a fork of this process that counts its file operations (opening to write, renaming, removing, making
folders) and sends itself SIGKILL before the one that was chosen, or a moment after it, while it may be writing.
"""

# ruff: noqa: E402  (a script of the tests: their folders come first)
from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS), str(_TESTS / "studies")]

import numpy as np
import torch
import yaml
from small_studies import mask_recipe, small_study
from training.small_runs import small_recipe, write_store

import volattn.inference.results
import volattn.report.report
import volattn.studies.run
import volattn.training.run  # noqa: F401  (imported once, before the forks)
from volattn.cli.main import main
from volattn.io.files import write_json
from volattn.io.output import LOCK
from volattn.io.readers import write_labels, write_volume
from volattn.preprocessing.plan import Plan
from volattn.provenance import commit, versions
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink")
_CLOCK = ("seconds", "train_seconds", "test_seconds", "train_minutes", "test_minutes", "peak_bytes", "peak_mib")
"""Measured with a clock or of the process: they differ from run to run."""
_OF_THE_RUN = ("sessions", "commit", "commits", "command")


@dataclass(frozen=True)
class Verb:
    """A command that writes.

    Attributes:
        words: Of the command line; OUT stands for the place that is written to.
        again: What is added when it is given again.
    """

    words: tuple[str, ...]
    again: tuple[str, ...] = ()


def make_inputs(folder: Path) -> dict[str, Verb]:
    """Writes what the commands read, and gives the commands."""
    shape = (10, 64, 64)
    for number in range(2):
        generator = np.random.default_rng(number)
        labels = np.zeros(shape, np.uint8)
        labels[2:8, 16:48, 16:48] = 1
        labels[4:6, 24:32, 24:36] = 2
        hu = np.select([labels == 2, labels == 1], [20, 120], -700) + generator.normal(0, 9, shape)
        volume = Volume(hu.round().astype(np.int16), Geometry.aligned(shape, (2.0, 1.5, 1.5)))
        write_volume(folder / "cts" / f"volume-{number}.nii.gz", volume)
        for place in ("lits", "references", "predictions"):
            name = f"segmentation-{number}.nii.gz"
            write_labels(folder / place / name, np.roll(labels, place == "predictions", axis=2), volume)
        write_volume(folder / "lits" / f"volume-{number}.nii.gz", volume)
    small_plan = small_recipe(plan=Plan(z_spacing=2.0, size=64))
    (folder / "prepare.yaml").write_text(small_plan.text())
    settings = ["schedule.length=3", "schedule.warmup=1", "validation.every=2", "save_every=1"]
    (folder / "train.yaml").write_text(small_recipe().updated(settings).text())
    (folder / "row.yaml").write_text(mask_recipe(steps=2).text())
    (folder / "study.yaml").write_text(yaml.safe_dump(small_study().model_dump(mode="json")))
    write_store(folder / "store", cases=5, depth=8)
    call(
        (
            "train",
            str(folder / "train.yaml"),
            "--data",
            str(folder / "store"),
            "-o",
            str(folder / "run"),
            "--device",
            "cpu",
        )
    )
    place = {path.name: str(path) for path in folder.iterdir()}
    resume = ("--resume",)
    scored = ("--reference", place["references"], "--prediction", place["predictions"])
    return {
        "phantom": Verb(
            ("phantom", "-o", "OUT", "--cases", "2", "--size", "64", "--seed", "3", "--workers", "0"), resume
        ),
        "prepare": Verb(
            ("prepare", place["lits"], "-o", "OUT", "--recipe", place["prepare.yaml"], "--workers", "0"), resume
        ),
        "train": Verb(("train", place["train.yaml"], "--data", place["store"], "-o", "OUT", "--device", "cpu"), resume),
        "predict": Verb(
            ("predict", "-m", place["run"], "-i", place["cts"], "-o", "OUT", "--threshold", "0.05", "--device", "cpu"),
            resume,
        ),
        "evaluate": Verb(("evaluate", "lits", *scored, "-o", "OUT/scores.json", "--report", "OUT/report")),
        "study": Verb(
            ("study", place["study.yaml"], "--data", place["store"], "-o", "OUT", "--recipe", place["row.yaml"])
            + ("--jobs", "0", "--device", "cpu"),
            resume,
        ),
    }


def call(words: tuple[str, ...], before: Callable[[], None] = lambda: None, log: Path | None = None) -> int:
    """Runs a command in a fork of this process.

    Args:
        words: Of the command line.
        before: Called in the fork first.
        log: Takes what the command prints.

    Returns:
        Its exit code, -9 if it was killed.
    """
    child = os.fork()
    if child == 0:
        output = os.open("/dev/null" if log is None else log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        before()
        code = 70
        try:
            main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def count_operations(out: Path, report: Path, kill_at: int | None = None, delay: float | None = None) -> None:
    """Counts this process's file operations at or below a place; ends it by SIGKILL at one of them.

    Args:
        out: The place.
        report: Takes the count when the process ends by itself.
        kill_at: The operation, from 0; None kills nothing.
        delay: Seconds from the operation to the kill; None kills before it.
    """
    done = 0
    inside = os.fspath(out)

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & _WRITES:
                return
        elif event not in _EVENTS:
            return
        if not any(isinstance(one, str | os.PathLike) and os.fspath(one).startswith(inside) for one in arguments[:2]):
            return
        if done == kill_at:
            if delay is None:
                kill()
            threading.Timer(delay or 0.0, kill).start()
        done += 1
        with_count = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(with_count, str(done).encode())
        os.close(with_count)

    sys.addaudithook(hook)


def content(folder: Path) -> dict[str, Any]:
    """Every file of a place, without what a clock says; no half-written file is among them."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name.startswith(LOCK) or path.name in ("peak.json", "table.md", "table.csv"):
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_timeless(json.loads(line)) for line in lines]
        else:
            found[name] = path.read_bytes()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in (*_CLOCK, *_OF_THE_RUN)}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def try_verb(name: str, verb: Verb, work: Path, points: int | None, chance: random.Random) -> dict[str, Any]:
    """Kills a command at some or all of its operations, before each and in the middle of it.

    Raises:
        AssertionError: A command did not go on, or came to other bytes.
    """
    report, log = work / "operations", work / "log.txt"

    def words(out: Path, again: bool = False) -> tuple[str, ...]:
        return tuple(word.replace("OUT", str(out)) for word in (*verb.words, *(verb.again if again else ())))

    whole = work / f"{name}-whole"
    code = call(words(whole), lambda: count_operations(whole, report), log)
    assert code == 0, log.read_text()
    expected, total = content(whole), int(report.read_text())
    places = list(range(total)) if points is None else sorted(chance.sample(range(total), min(points, total)))
    kills = missed = 0
    for place in places:
        for delay in (None, chance.uniform(0, 0.02)):
            if points is not None and delay is not None and place % 2:
                continue
            out = work / f"{name}-killed"
            shutil.rmtree(out, ignore_errors=True)
            code = call(words(out), lambda at=place, wait=delay, to=out: count_operations(to, report, at, wait))
            kills, missed = kills + (code == -signal.SIGKILL), missed + (code == 0)
            assert code in (0, -signal.SIGKILL), f"{name}: ended with {code} before it was killed at {place}"
            assert delay is not None or code == -signal.SIGKILL, f"{name}: operation {place} was not reached"
            where = f"{name}: after a kill at operation {place} of {total}"
            if code != 0:
                code = call(words(out, again=True), log=log)
            assert code == 0, f"{where}: {log.read_text()}"
            found = content(out)
            assert found.keys() == expected.keys(), f"{where}: {found.keys() ^ expected.keys()}"
            for file, bytes_ in expected.items():
                assert found[file] == bytes_, f"{where}: {file} differs"
    return {"operations": total, "kills": kills, "ended_before_the_kill": missed}


def run(verbs: list[str], points: int | None, seed: int, work: Path) -> dict[str, Any]:
    """Tries some of the commands; all without names."""
    torch.set_num_threads(1)
    inputs = work / "inputs"
    inputs.mkdir()
    made = make_inputs(inputs)
    results = {}
    for name in verbs or list(made):
        began = time.monotonic()
        results[name] = try_verb(name, made[name], work, points, random.Random(f"{seed}-{name}"))
        print(f"{name}: {results[name]}, {time.monotonic() - began:.0f} s", flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--verb", action="append", default=[], help="phantom, prepare, train, ...; all by default")
    parser.add_argument("--points", default="4", help="operations to kill at, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="volattn-kills-") as folder:
        found = run(given.verb, None if given.points == "all" else int(given.points), given.seed, Path(folder))
    if given.out is not None:
        words = f"python tests/robustness/kills.py --points {given.points} --seed {given.seed}"
        write_json(given.out, {"command": words, "verbs": found, "versions": versions(), "commit": commit()})
