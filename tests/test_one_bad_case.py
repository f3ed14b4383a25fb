"""What went wrong is one line, and one bad case never costs the others, whatever a library raises."""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from volattn.cli.main import main
from volattn.faults import explain

RAISED = [
    ValueError("bad"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    OverflowError("int too large to convert"),
    ZeroDivisionError("division by zero"),
    RuntimeError("a library\ngave up"),
    EOFError(),
    zlib.error("incorrect header check"),
    struct.error("unpack requires 4 bytes"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError("damaged"),
    MemoryError(),
    KeyError("shape"),
    AssertionError(),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_one_line_names_the_file_and_a_way_out(error: Exception) -> None:
    said = explain(error, "ct/volume-3.nii")
    assert said.startswith("ct/volume-3.nii: ")
    assert "\n" not in said
    assert isinstance(error, ValueError) or ";" in said
    assert ("please report it" in said) == isinstance(error, KeyError | AssertionError)


def test_a_fault_that_names_its_own_file_is_not_named_twice() -> None:
    assert explain(ValueError("a.nii: is empty; copy it"), "b.nii") == "a.nii: is empty; copy it"
    assert explain(OSError(errno.ENOSPC, "No space left on device", "out/a.json"), "b.nii") == (
        "out/a.json: No space left on device; make room on the disk and give the same command again"
    )


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        *(("check", error) for error in RAISED),
        *((verb, error) for verb in ("prepare", "predict", "evaluate") for error in (RAISED[3], RAISED[8], RAISED[-1])),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
@pytest.mark.usefixtures("no_picture")
def test_one_bad_case_costs_only_itself(
    verb: str,
    error: Exception,
    tmp_path: Path,
    write_lits_case: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(3):
        image, _ = write_lits_case(number)
    folder, out = str(image.parent), str(tmp_path / "out")
    place = {
        "check": "volattn.datasets.check.check_case",
        "prepare": "volattn.preprocessing.prepare.prepare_source",
        "predict": "volattn.inference.predict.read_volume",
        "evaluate": "volattn.scoring.lits_folders.score_lits_files",
    }[verb]
    words = {
        "check": ["check", folder],
        "prepare": ["prepare", folder, "-o", out, "--recipe", "tiny"],
        "predict": ["predict", "-m", "demo", "-i", folder, "-o", out],
        "evaluate": ["evaluate", "lits", "--reference", folder, "--prediction", folder, "-o", f"{out}/s.json"],
    }[verb]
    module, _, name = place.rpartition(".")
    whole = getattr(__import__(module, fromlist=[name]), name)

    def fail_one(*given: Any, **options: Any) -> Any:
        if any("volume-1" in str(one) or "segmentation-1" in str(one) for one in given):
            _raise(error)
        return whole(*given, **options)

    monkeypatch.setattr(place, fail_one)
    if verb == "predict":
        monkeypatch.setattr("volattn.inference.predict.stream", lambda *_, **__: iter(()))  # finds nothing
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == 1, said
    assert "Traceback" not in said.err
    told = said.out if verb == "check" else said.err
    lines = [line for line in told.splitlines() if not line.startswith("volattn: left out: ")]
    assert sum("volume-1" in line or "segmentation-1" in line for line in lines) == 1, told
    if verb == "prepare":
        assert json.loads((tmp_path / "out" / "store.json").read_text())["cases"] == ["volume-0", "volume-2"]
    if verb == "predict":
        written = {path.name.partition(".")[0] for path in (tmp_path / "out").glob("volume*")}
        assert {name.removesuffix("_lesions") for name in written} == {"volume-0", "volume-2"}


def _raise(error: Exception) -> NoReturn:
    raise error
