"""Reads files made wrong, thousands a minute: a right answer or one line, within 5 s and 1 GiB, whatever they are.

    python tests/robustness/fuzz_readers.py --reader all --mutations 10000 --seed 0 --log fuzz.json

Files that led to anything else are kept, and each can be made again from its reader, the seed and its number.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from mutations import mutate
from readers import CHARACTERS, READERS, wrong_line

sys.path.append(str(Path(__file__).parents[1]))
SECONDS, BYTES = 5.0, 2**30
_RENEWED = 2000
"""Calls after which the reading process is replaced, so that what it once held is not counted for ever."""


@dataclass
class Tally:
    """What became of a reader's calls.

    Attributes:
        outcomes: How often which.
        slowest: Seconds of the longest call.
        most_bytes: That a call added to the process.
        failures: Number of the call -> what was wrong with its outcome.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    most_bytes: int = 0
    failures: dict[int, str] = field(default_factory=dict)


def fuzz(names: Sequence[str], mutations: int, seed: int, kept: Path | None = None) -> dict[str, Tally]:
    """Calls each reader so many times.

    Args:
        names: Of `READERS`.
        mutations: Calls of each.
        seed: Decides the changes.
        kept: Folder for the files that led to failures.
    """
    tallies = {name: Tally() for name in names}
    work = [(name, number) for name in names for number in range(mutations)]
    while work:
        with _reading(seed) as (process, pipe):
            for _ in range(min(_RENEWED, len(work))):
                name, number = work.pop(0)
                if not _call(process, pipe, name, number, tallies[name]):
                    break
        for name, tally in tallies.items():
            for number in tally.failures if kept else ():
                _keep(kept / f"{name}-{seed}-{number}", name, seed, number)  # type: ignore[operator]
    return tallies


@contextlib.contextmanager
def _reading(seed: int) -> Iterator[tuple[Any, Connection]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, seed), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        ours.close()
        process.join(1)
        process.kill()
        process.join()


def _call(process: Any, pipe: Connection, name: str, number: int, tally: Tally) -> bool:
    """Whether the process is still of use."""
    pipe.send((name, number))
    try:
        pipe.recv()  # Its files are made.
        if not pipe.poll(2 * SECONDS):
            tally.outcomes["hang"] += 1
            tally.failures[number] = f"no answer within {2 * SECONDS:g} s"
            return False
        outcome, fault, seconds, grown = pipe.recv()
    except (EOFError, ConnectionError):
        process.join()
        tally.outcomes["crash"] += 1
        tally.failures[number] = f"the process ended with {process.exitcode}"
        return False
    tally.slowest, tally.most_bytes = max(tally.slowest, seconds), max(tally.most_bytes, grown)
    if seconds > SECONDS:
        outcome, fault = "slow", f"took {seconds:.1f} s"
    elif grown > BYTES:
        outcome, fault = "memory", f"took {grown / 2**20:.0f} MiB"
    tally.outcomes[outcome] += 1
    if fault:
        tally.failures[number] = fault
    return True


def _serve(pipe: Connection, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    made: dict[str, tuple[list[Path], dict[Path, str]]] = {}
    with tempfile.TemporaryDirectory() as root, contextlib.suppress(EOFError):
        while True:
            name, number = pipe.recv()
            if name not in made:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
                folder = Path(root) / name
                folder.mkdir()
                files = READERS[name].make(folder)
                made[name] = files, {path: _hash(READERS[name].read(path)) for path in files}
                size = _status("VmSize") + BYTES
                resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
            files, right = made[name]
            path, before, content, summed = change(name, files, seed, number)
            path.write_bytes(content)
            pipe.send(None)
            pipe.send(_attempt(READERS[name].read, path, right[path] if summed else None))
            path.write_bytes(before)


def change(name: str, files: list[Path], seed: int, number: int) -> tuple[Path, bytes, bytes, bool]:
    """What a call changes: a file, its content before and after, and whether a reader must see it."""
    chance = random.Random(f"{name} {seed} {number}")
    path = chance.choice(files)
    before = path.read_bytes()
    content, summed = mutate(path, before, chance)
    return path, before, content, summed


def _attempt(read: Callable[[Path], object], path: Path, right: str | None) -> tuple[str, str | None, float, int]:
    Path("/proc/self/clear_refs").write_text("5")  # The peak of memory starts anew.
    began, held = time.monotonic(), _status("VmRSS")
    outcome: str
    fault: str | None = None
    try:
        answer = _hash(read(path))
        outcome = "answer"
        if right is not None and answer != right:
            outcome, fault = "wrong answer", "another answer, where checksums tell"
    except (ValueError, OSError) as error:
        fault = wrong_line(error, str(path.parent))
        outcome = "no line" if fault else "line"
    except BaseException as error:
        outcome, fault = type(error).__name__, f"{type(error).__name__}: {str(error)[:300]}"
    return outcome, fault, time.monotonic() - began, _status("VmHWM") - held


def _hash(answer: object) -> str:
    digest = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, np.ndarray):
            digest.update(value.tobytes())
        elif isinstance(value, list | tuple):
            for one in value:
                add(one)
        else:
            digest.update(repr(value).encode("utf-8", "surrogatepass"))

    add(answer)
    return digest.hexdigest()


def _status(key: str) -> int:
    """Bytes, from the kernel."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{key}:")[1].split()[0])


def _keep(folder: Path, name: str, seed: int, number: int) -> None:
    """The files of a call, as they were when it was made."""
    if not folder.exists():
        folder.mkdir(parents=True)
        path, _, content, _ = change(name, READERS[name].make(folder), seed, number)
        path.write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if no outcome was other than a right answer or one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", default="all", choices=["all", *READERS])
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, help="folder for files that led to a failure")
    parser.add_argument("--log", type=Path, help="a .json file")
    options = parser.parse_args(arguments)
    kept = options.kept or Path(tempfile.mkdtemp(prefix="fuzz-"))
    log: dict[str, Any] = {}
    for name in READERS if options.reader == "all" else (options.reader,):
        began = time.monotonic()
        tally = fuzz([name], options.mutations, options.seed, kept)[name]
        log[name] = {
            "mutations": options.mutations,
            "outcomes": dict(sorted(tally.outcomes.items())),
            "slowest_seconds": round(tally.slowest, 3),
            "most_mib": round(tally.most_bytes / 2**20, 1),
            "failures": len(tally.failures),
        }
        print(f"{name}: {json.dumps(log[name])} in {time.monotonic() - began:.0f} s", flush=True)
        for number, fault in list(tally.failures.items())[:20]:
            print(f"  {name} seed {options.seed} number {number}: {fault}", flush=True)
    if options.log is not None:
        from volattn.provenance import commit, versions

        words = ["python", "tests/robustness/fuzz_readers.py", *(arguments or sys.argv[1:])]
        content = {
            "command": " ".join(words),
            "seed": options.seed,
            "limits": {"seconds": SECONDS, "mib": BYTES // 2**20, "characters": CHARACTERS},
            "readers": log,
            "versions": versions(),
            "commit": commit(),
        }
        options.log.write_text(json.dumps(content, indent=2) + "\n")
    failures = sum(one["failures"] for one in log.values())
    print(f"{failures} failures; their files are in {kept}" if failures else "no failures")
    if not failures and not options.kept:
        shutil.rmtree(kept)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
