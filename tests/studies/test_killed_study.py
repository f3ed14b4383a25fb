"""A study that is killed with all its runs, and resumed, gives the table of an uninterrupted one."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from small_studies import CASES, mask_recipe, small_study
from training.small_runs import write_store

from volattn.studies.definition import Overrides, load_study
from volattn.studies.executor import Executor
from volattn.studies.run import run_study

MEASURED = 3
"""Last columns: minutes and memory."""


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    """Starts the study, or goes on with it."""
    command = [sys.executable, "-m", "volattn", "study", str(data / "small.yaml"), "--resume"]
    command += ["--data", str(data / "store"), "--recipe", str(data / "recipe.yaml"), "-o", str(out)]
    return subprocess.Popen(
        [*command, "--jobs", "2", "--device", "cpu"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def lines(out: Path) -> int:
    """Steps of training so far, over all runs."""
    return sum(path.read_text().count("\n") for path in out.glob("runs/*/*/train/metrics.jsonl"))


def scores(out: Path) -> list[list[str]]:
    """The table without what was measured with a clock."""
    with (out / "table.csv").open() as file:
        return [row[:-MEASURED] for row in csv.reader(file)]


def text(out: Path, name: str) -> str:
    """A file of the table without what was measured with a clock, and without the commit: the tree may be worked on."""
    found = (out / name).read_text()
    found = re.sub(r'"(train_minutes|test_minutes|peak_mib)": ([\d.]+|null)', "", found)
    found = re.sub(r'(?s)"commits": \[.*?\]', "", re.sub(r"Commit [\w, -]+\.", "", found))
    return re.sub(r"(?s)## Cost.*?\n\n(.*?)\n\n", "", found)


@pytest.mark.slow
def test_a_study_killed_twice_gives_the_table_of_an_uninterrupted_one(tmp_path: Path) -> None:
    write_store(tmp_path / "store", cases=CASES + 2, depth=8)
    (tmp_path / "recipe.yaml").write_text(mask_recipe(steps=6).text())
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_study().model_dump(mode="json")))
    torch.set_num_threads(1)
    whole = run_study(
        *load_study(tmp_path / "small.yaml"),
        [tmp_path / "store"],
        tmp_path / "whole",
        Executor(0, device="cpu"),
        overrides=Overrides(recipe=str(tmp_path / "recipe.yaml")),
        source=str(tmp_path / "small.yaml"),
    )
    assert not whole.failed
    assert not whole.unfinished

    chance = random.Random(5)
    out = tmp_path / "killed"
    least = 0
    for _ in range(2):
        least = chance.randint(least + 1, least + 6)
        with start(tmp_path, out) as process:
            deadline = time.monotonic() + 120
            while lines(out) < least and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was finished before it could be killed"
        assert "unfinished" in (out / "table.md").read_text()
    with start(tmp_path, out) as process:
        _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    assert not list(out.glob("runs/*/*/failed.json")), "a run's process broke down after its result"
    assert scores(out) == scores(tmp_path / "whole")
    assert text(out, "table.md") == text(tmp_path / "whole", "table.md")
    assert text(out, "table.json") == text(tmp_path / "whole", "table.json")
    assert all(row["cost"]["peak_mib"] > 50 for row in json.loads((out / "table.json").read_text())["rows"])
