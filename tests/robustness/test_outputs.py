"""Every `-o` of every verb: what must not be written is refused in one line, before any work, and stays as it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training.small_runs import small_recipe, write_store

from volattn.cli.main import main
from volattn.io.output import LOCK, claim_folder
from volattn.scoring.score_files import write_scores

FOLDERS = ("prepare", "train", "study", "phantom", "demo", "predict", "report")
OWN = FOLDERS[:5]
"""Those that want a folder of their own."""


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command is refused with."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == 2, said
    assert "Traceback" not in said.err
    lines = [line for line in said.err.splitlines() if line.startswith("volattn: ")]
    assert len(lines) == 1, said.err
    return lines[0]


@pytest.fixture
def commands(tmp_path: Path, write_lits_case: Callable[..., tuple[Path, Path]]) -> Callable[[str, Path], list[str]]:
    """The words of a verb that writes into a folder."""
    image, labels = write_lits_case(0)
    write_store(tmp_path / "store", cases=3, depth=6)
    (tmp_path / "small.yaml").write_text(small_recipe().text())

    def words(verb: str, out: Path) -> list[str]:
        scored = ["--reference", str(labels), "--prediction", str(labels)]
        return {
            "prepare": ["prepare", str(image.parent), "-o", str(out)],
            "train": ["train", str(tmp_path / "small.yaml"), "--data", str(tmp_path / "store"), "-o", str(out)],
            "study": ["study", "table-2d", "--data", str(tmp_path / "store"), "-o", str(out), "--jobs", "0"],
            "phantom": ["phantom", "-o", str(out), "--cases", "1", "--size", "64"],
            "demo": ["demo", "-o", str(out), "--workers", "0"],
            "predict": ["predict", "-m", "demo", "-i", str(image), "-o", str(out)],
            "report": ["evaluate", "lits", *scored, "-o", str(tmp_path / "s.json"), "--report", str(out)],
        }[verb]

    return words


@pytest.mark.parametrize("verb", FOLDERS)
@pytest.mark.parametrize("there", ["file", "pipe", "device", "below a file"])
def test_what_is_no_folder(
    verb: str, there: str, commands: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    if there == "pipe":
        os.mkfifo(out)
    elif there == "device":
        out = Path("/dev/null")
    else:
        out.write_text("mine")
        out = out if there == "file" else out / "below"
    assert str(out) in refused(commands(verb, out), capsys)
    assert Path("/dev/null").is_char_device()
    assert there in ("pipe", "device") or (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("verb", OWN)
@pytest.mark.parametrize("name", ["resume", "recipe.yaml", "cases", "thesis.tex"])
def test_a_folder_with_a_file_of_others(
    verb: str, name: str, commands: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("mine")
    place = tmp_path / "out" / name
    place.symlink_to(tmp_path / "elsewhere") if name in ("resume", "cases") else place.write_text("mine")
    assert f"{name} is there" in refused(commands(verb, tmp_path / "out"), capsys)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "elsewhere" / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("predict", "volume-0.json"),
        ("predict", "volume-0.png"),
        ("predict", "volume-0.nii.gz"),
        ("report", "index.html"),
    ],
)
def test_a_file_of_others_in_a_shared_folder(
    verb: str, name: str, commands: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    assert "was not written by volattn" in refused(commands(verb, tmp_path / "out"), capsys)
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.parametrize("verb", FOLDERS)
def test_another_run_in_the_folder(
    verb: str, commands: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claim_folder(tmp_path / "out"):
        assert "another process is writing to it" in refused(commands(verb, tmp_path / "out"), capsys)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="becomes another user")
def test_a_folder_of_another_user_is_refused_before_any_work(commands: Callable, tmp_path: Path) -> None:
    code = "import sys; from volattn.io.output import claim_folder\nwith claim_folder(sys.argv[1]): print('claimed')"
    (tmp_path / "results").mkdir(mode=0o755)
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(0o755)
    for out in (tmp_path / "results", tmp_path / "results" / "new"):
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code, str(out)],
            capture_output=True,
            text=True,
        )
        assert f"{out}: cannot be written (Permission denied)" in done.stderr


class TestFiles:
    def test_an_input_of_any_kind(
        self, tmp_path: Path, write_lits_case: Callable, capsys: pytest.CaptureFixture
    ) -> None:
        image, labels = write_lits_case(0)
        before = {path: path.read_bytes() for path in (image, labels)}
        scores = [tmp_path / "a.json", tmp_path / "b.json"]
        for path in scores:
            write_scores(path, {"kind": "lits", "settings": {}, "cases": []})
        table = tmp_path / "DL_info.csv"
        table.write_text("File_name\n")
        folder = str(labels.parent)
        for words in (
            ["evaluate", "lits", "--reference", folder, "--prediction", folder, "-o", str(labels)],
            ["evaluate", "lits", "--reference", str(labels), "--prediction", str(labels), "-o", str(labels)],
            ["evaluate", "detection", "--reference", folder, "--prediction", folder, "-o", str(image)],
            ["evaluate", "deeplesion", "--reference", str(table), "--prediction", str(table), "-o", str(table)],
            ["compare", *map(str, scores), "-o", str(scores[0])],
        ):
            assert "this command" in refused(words, capsys)
        target = tmp_path / "p.png"
        target.symlink_to(labels)
        assert "this command" in refused(["render", "-l", str(labels), "-o", str(target)], capsys)
        assert {path: path.read_bytes() for path in before} == before
        assert table.read_text() == "File_name\n"
        assert all(json.loads(path.read_text())["kind"] == "lits" for path in scores)

    def test_scores_go_into_a_device_and_into_the_folder_of_predictions(
        self, write_lits_case: Callable, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, labels = write_lits_case(0)
        scored = ["evaluate", "lits", "--reference", str(labels.parent), "--prediction", str(labels.parent), "-o"]
        for out in ("/dev/null", str(labels.parent / "scores.json"), str(labels.parent / "scores.json")):
            with pytest.raises(SystemExit) as ended:
                main([*scored, out])
            assert ended.value.code == 0, capsys.readouterr().err
        assert Path("/dev/null").is_char_device()


def test_phantoms_of_another_make_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def words(*changes: str) -> list[str]:
        return ["phantom", "-o", str(tmp_path / "out"), "--cases", "1", "--size", "64", "--seed", "1", *changes]

    with pytest.raises(SystemExit) as ended:
        main(words())
    assert ended.value.code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for changes in (("--seed", "2"), ("--size", "96"), ("--kind", "deeplesion")):
        assert f"phantom cohort of another {changes[0][2:]}" in refused(words(*changes, "--resume"), capsys)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert LOCK in before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_ends_at_once_with_its_workers(tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "volattn", "phantom", "-o", str(out), "--cases", "2000"]
    command += ["--size", "64", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob("*.nii.gz")) and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
        ).stdout.split()
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    assert "stopped; " in errors
    assert "Traceback" not in errors
    assert len(workers) >= 2
    deadline = time.monotonic() + 20
    while any(Path("/proc", pid).exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path("/proc", pid).exists()]
