"""Where output goes is claimed before any work: nothing that is read or that others made is ever replaced."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from volattn.io.files import write_json, write_text
from volattn.io.output import LOCK, check_replaceable, claim_file, claim_folder, made_here, sweep
from volattn.io.readers import write_labels
from volattn.provenance import versions
from volattn.report.pages import Page
from volattn.report.style import png_of
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

HOLD = """
import sys
from volattn.io.output import claim_folder
with claim_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that keeps the folder until it is killed or its input ends."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK}


class TestFolders:
    def test_another_process_is_refused_until_the_first_is_killed(self, tmp_path: Path) -> None:
        other = hold(tmp_path / "store")
        with pytest.raises(ValueError, match="store: another process"), claim_folder(tmp_path / "store"):
            pass
        other.kill()
        other.communicate()
        with claim_folder(tmp_path / "store"):
            (tmp_path / "store" / "kept").touch()
        assert content(tmp_path / "store") == {"kept"}

    def test_who_waits_gets_it_when_it_is_free(self, tmp_path: Path) -> None:
        other = hold(tmp_path / "store")
        ending = threading.Timer(0.3, other.kill)
        ending.start()
        with claim_folder(tmp_path / "store", wait=60):
            assert other.wait(60) != 0
        other.communicate()

    def test_who_waits_holds_the_folder_that_the_other_left_empty_and_removed(self, tmp_path: Path) -> None:
        other = hold(tmp_path / "store")
        assert other.stdin is not None
        ending = threading.Timer(0.3, other.stdin.close)
        ending.start()
        with claim_folder(tmp_path / "store", wait=60):
            assert other.wait(60) == 0
            with pytest.raises(ValueError, match="store: another process"), claim_folder(tmp_path / "store"):
                pass
            (tmp_path / "store" / "kept").touch()
        assert content(tmp_path / "store") == {"kept"}
        ending.join()

    def test_work_is_continued_with_the_same_settings_only(self, tmp_path: Path) -> None:
        def claim(resume: bool = True, **changes: object) -> None:
            settings = {"seed": 3, "plan": {"size": 512, "step": 1.5}} | changes
            with claim_folder(tmp_path, marker="job.json", what="store", settings=settings, resume=resume):
                pass

        claim(resume=False)
        claim()
        with pytest.raises(ValueError, match="already holds a store; continue it with --resume, or give another"):
            claim(resume=False)
        with pytest.raises(ValueError, match=r"another seed \(3, now 4\), plan.size \(512, now 1024\); give"):
            claim(seed=4, plan={"size": 1024, "step": 1.5})
        assert json.loads((tmp_path / "job.json").read_text())["seed"] == 3

    def test_nothing_is_left_of_a_folder_that_was_not_filled(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), claim_folder(tmp_path / "store"):
            raise RuntimeError
        assert not list(tmp_path.iterdir())
        with claim_folder(tmp_path / "store"):
            (tmp_path / "store" / LOCK).unlink()
            (tmp_path / "store").rmdir()
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("made", ["file", "pipe", "dangling link"])
    def test_what_is_no_folder_is_refused(self, tmp_path: Path, made: str) -> None:
        place = tmp_path / "out"
        if made == "file":
            place.touch()
        elif made == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to("nowhere")
        with pytest.raises(ValueError, match="out: is a file; give a folder"), claim_folder(place):
            pass

    def test_below_a_file_there_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="file is a file"), claim_folder(tmp_path / "file" / "a" / "b"):
            pass

    @pytest.mark.parametrize("there", ["thesis.tex", "resume", ".part-mine", ".lock"])
    def test_a_folder_with_other_files_is_refused_and_left_alone(self, tmp_path: Path, there: str) -> None:
        (tmp_path / there).mkdir() if there == "resume" else (tmp_path / there).write_text("mine")
        with (
            pytest.raises(ValueError, match=f"is not empty and holds no run .*{there} is there"),
            claim_folder(tmp_path, marker="manifest.json", what="run"),
        ):
            pass
        assert content(tmp_path) == {there}

    def test_what_kills_left_is_removed_and_nothing_else(self, tmp_path: Path) -> None:
        ours, theirs = ".part-0123456789ab-model.safetensors", ".part-model"
        (tmp_path / "out" / "below").mkdir(parents=True)
        for name in (ours, theirs, f"below/{ours}"):
            (tmp_path / "out" / name).touch()
        with claim_folder(tmp_path / "out"):
            assert content(tmp_path / "out") == {theirs, "below"}
            sweep(tmp_path / "out", below=True)
        assert content(tmp_path / "out" / "below") == set()

    def test_a_link_out_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "manifest.json").touch()
        (tmp_path / "run" / "resume").symlink_to(tmp_path)
        with (
            pytest.raises(ValueError, match="resume: is a link that leads out"),
            claim_folder(tmp_path / "run", marker="manifest.json", what="run"),
        ):
            pass

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        for place in (tmp_path, tmp_path / "new"):
            with pytest.raises(ValueError, match="cannot be written"), claim_folder(place):
                pass


class TestFiles:
    @pytest.mark.parametrize("way", ["itself", "through a link", "as a hard link", "by another path"])
    def test_an_input_is_never_written(self, tmp_path: Path, way: str) -> None:
        given, out = tmp_path / "a.json", tmp_path / "b.json"
        given.write_text("{}")
        if way == "through a link":
            out.symlink_to(given)
        elif way == "as a hard link":
            out.hardlink_to(given)
        else:
            out = given if way == "itself" else tmp_path / "x" / ".." / "a.json"
            (tmp_path / "x").mkdir()
        with pytest.raises(ValueError, match="is read by this command"):
            claim_file(out, inputs=[None, given])

    @pytest.mark.parametrize(
        ("there", "allowed"),
        [
            (None, True),
            ({"kind": "lits", "cases": [], "versions": versions()}, True),
            ({"lesions": [], "versions": versions()}, False),
            ({"kind": "lits", "cases": []}, False),
            ("volume", False),
        ],
    )
    def test_in_a_folder_of_inputs_only_scores_are_replaced(
        self, tmp_path: Path, there: dict | str | None, allowed: bool
    ) -> None:
        out = tmp_path / "sub" / "scores.json"
        out.parent.mkdir()
        if there is not None:
            out.write_text(json.dumps(there))
        if allowed:
            assert claim_file(out, inputs=[tmp_path], replaces=("kind", "cases")) == out
        else:
            with pytest.raises(ValueError, match="which this command reads"):
                claim_file(out, inputs=[tmp_path], replaces=("kind", "cases"))

    def test_a_folder_a_socket_and_a_place_below_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"is a folder; .*scores\.json"):
            claim_file(tmp_path)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(tmp_path / "s"))
            with pytest.raises(ValueError, match="is a socket"):
                claim_file(tmp_path / "s")
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="file is a file"):
            claim_file(tmp_path / "file" / "scores.json")

    def test_devices_and_pipes_are_written_into(self, tmp_path: Path) -> None:
        write_text(claim_file("/dev/null"), "gone")
        assert Path("/dev/null").is_char_device()
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        assert claim_file(pipe) == pipe
        with pytest.raises(OSError, match="No such device"):  # Nobody reads: said, not waited for.
            write_text(pipe, "lost")
        with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            for _ in range(1000):
                try:
                    write_text(pipe, "read\n")
                    break
                except OSError:
                    threading.Event().wait(0.01)
            assert reader.stdout.read() == "read\n"
        assert pipe.is_fifo()

    def test_what_a_kill_left_of_the_file_is_removed_and_nothing_else(self, tmp_path: Path) -> None:
        names = {".part-0123456789ab-[s].json", ".part-0123456789ab-t.json", ".part-mine-[s].json"}
        for name in names:
            (tmp_path / name).touch()
        claim_file(tmp_path / "[s].json")
        assert content(tmp_path) == names - {".part-0123456789ab-[s].json"}

    def test_a_link_that_the_user_names_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "link.json").symlink_to("real.json")
        write_json(claim_file(tmp_path / "link.json"), {})
        assert (tmp_path / "link.json").is_symlink()
        assert (tmp_path / "real.json").is_file()

    def test_a_full_disk_names_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space") as caught:
            write_text(tmp_path / "scores.json", "")
        assert caught.value.filename == str(tmp_path / "scores.json")


class TestOwnership:
    @pytest.fixture
    def ours(self, tmp_path: Path) -> list[Path]:
        """A file of each kind as this program writes it."""
        folder = tmp_path / "ours"
        volume = Volume(np.zeros((2, 3, 4), np.int16), Geometry.aligned((2, 3, 4), (1, 1, 1)))
        for name in ("a.nii", "b.nii.gz"):
            write_labels(folder / name, volume.array, volume)
        (folder / "c.png").write_bytes(png_of(Figure()))
        Page("d").write(folder / "d.html")
        write_json(folder / "e.json", {"versions": versions()})
        (folder / "c.json").write_text("{")  # half a disk block after a crash of the machine, beside its picture
        return sorted(folder.iterdir())

    def test_files_of_this_program_are_replaced(self, ours: list[Path]) -> None:
        assert [path.name for path in ours if not made_here(path)] == []
        check_replaceable([*ours, ours[0].with_name("new.nii")])

    def test_files_of_others_are_not(self, ours: list[Path], tmp_path: Path) -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        for path in ours:
            (theirs / path.name).write_bytes(b"{}" if path.suffix == ".json" else b"\x1f\x8b")
        Image.new("L", (2, 2)).save(theirs / "c.png")
        (theirs / "link.nii").symlink_to(ours[0])
        for path in theirs.iterdir():
            with pytest.raises(ValueError, match="was not written by volattn and would be replaced"):
                check_replaceable([path])
        (theirs / "f.png").mkdir()
        with pytest.raises(ValueError, match="is a folder where a file is to be written"):
            check_replaceable([theirs / "f.png"])
