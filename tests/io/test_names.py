"""Names of cases lead nowhere but to their own files, and can be written and shown anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volattn.io.names import NAME_BYTES, check_name, one_line, printable
from volattn.io.readers import is_volume_name, volume_name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "empty"),
        (".hidden", "dot"),
        ("..", "dot"),
        ("../../../victim", "separator"),
        ("/abs/victim", "separator"),
        ("a/b", "separator"),
        ("imagesTr/..", "separator"),
        ("C:\\victim", "separator"),
        ("two\nlines", "printed"),
        ("\x1b[2J", "printed"),
        ("null\0", "printed"),
        ("\ud800", "printed"),
        ("end ", "space"),
        (" begin", "space"),
        ("CON", "Windows"),
        ("nul.x", "Windows"),
        ("é" * 101, "200 bytes"),
    ],
)
def test_what_is_no_name(name: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        check_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["volume-44", "Müller-肝", "a b", "a..b", "%2F", "x" * 200, "console", "a:b*c?"])
def test_what_is_a_name(name: str) -> None:
    assert check_name(name) == name


@given(st.one_of(st.text(max_size=250), st.binary(max_size=250).map(os.fsdecode)))
def test_any_name_stays_in_its_folder_and_can_be_written(text: str) -> None:
    try:
        name = check_name(printable(text))
    except ValueError:
        return
    folder = Path("/out")
    assert (folder / f"{name}.json").parent == folder
    assert os.path.normpath(folder / name) == str(folder / name)
    assert 0 < len(name.encode()) <= NAME_BYTES
    assert one_line(name) == name


@given(st.binary(min_size=1, max_size=200).filter(lambda raw: not {0, 0x2F} & set(raw)))
def test_bytes_that_are_no_utf8_are_named(raw: bytes) -> None:
    name = volume_name(Path(os.fsdecode(raw + b".nii.gz")))
    name.encode()
    assert printable(name) == name
    if all(byte < 0x80 for byte in raw):
        assert name == raw.decode() or raw.lower().endswith((b".nii", b".gz"))


def test_a_name_in_latin_1() -> None:
    assert volume_name(Path(os.fsdecode(b"in/M\xfcller.nii.gz"))) == "M%FCller"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII", ".NII.GZ", ".Nii.gz", ".nii.GZ"])
def test_endings_in_any_case(ending: str) -> None:
    assert is_volume_name(Path(f"a/b{ending}"))
    assert volume_name(f"a/b{ending}") == "b"


@pytest.mark.parametrize("name", [".b.nii", "b.nii.bz2", "b.gz", "nii", ".nii", "b.img"])
def test_what_is_not_named_as_nifti(name: str) -> None:
    assert not is_volume_name(Path(name))
