"""Every folder is walked in one way: nothing is passed over in silence, and nothing is taken twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.datasets.check import check_dataset
from volattn.datasets.issues import count_left_out, faults_among
from volattn.datasets.listing import as_file, list_volumes
from volattn.datasets.open import open_dataset

WriteCase = Callable[..., tuple[Path, Path]]


def touch(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_links_are_followed_and_loops_visited_once(tmp_path: Path) -> None:
    disk, root = tmp_path / "disk", tmp_path / "root"
    touch(disk / "batch" / "a.nii")
    touch(root / "own" / "b.NII.GZ")
    (root / "linked").symlink_to(disk / "batch")
    (root / "again").symlink_to(disk / "batch")
    (root / "own" / "up").symlink_to(root)
    (disk / "batch" / "self").symlink_to(".")
    listing = list_volumes(root, below=True)
    assert sorted(path.name for path in listing.files) == ["a.nii", "b.NII.GZ"]
    assert listing.left_out == ()


def test_a_folder_of_a_files_name_is_that_file(tmp_path: Path) -> None:
    inner = touch(tmp_path / "volume-0.nii" / "volume-0.nii")
    (tmp_path / "volume-1.nii").mkdir()
    assert list_volumes(tmp_path).files == list_volumes(tmp_path, below=True).files == (inner,)
    assert as_file(tmp_path / "volume-0.nii") == inner
    assert as_file(tmp_path / "volume-1.nii") == tmp_path / "volume-1.nii"
    for below in (False, True):
        assert list(faults_among(list_volumes(tmp_path, below=below).left_out)) == ["volume-1.nii"]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.mha", "c.NRRD", "d.hdr", "d.img", ".hidden.mha", "notes.txt", "e.png"):
        touch(tmp_path / name)
    touch(tmp_path / "IM0001", bytes(128) + b"DICM")
    touch(tmp_path / "below" / "f.nii")
    listing = list_volumes(tmp_path)
    assert [path.name for path in listing.files] == ["a.nii.gz"]
    assert count_left_out(listing.left_out) == (
        "left out: 1 file in DICOM format (IM0001); 4 files in a format that is not read (b.mha, c.NRRD, d.hdr, ...); "
        "1 folder with volumes of its own (below)"
    )
    assert count_left_out(()) is None


def test_what_cannot_be_taken_is_a_fault(tmp_path: Path) -> None:
    touch(tmp_path / "good.nii")
    (tmp_path / "batch").symlink_to(tmp_path / "unplugged")
    (tmp_path / "me").symlink_to(tmp_path / "me")
    touch(tmp_path / "two\nlines.nii")
    touch(tmp_path / f"{'x' * 210}.nii")
    listing = list_volumes(tmp_path)
    assert [path.name for path in listing.files] == ["good.nii"]
    faults = faults_among(listing.left_out)
    assert len(faults) == 4
    assert all(line.isprintable() and ";" in line for line in faults.values())


@settings(max_examples=50)
@given(raw=st.binary(min_size=1, max_size=60).filter(lambda raw: not {0, 0x2F} & set(raw)))
def test_any_file_name_is_a_case_or_a_line(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + raw + b".nii"))
    path.write_bytes(b"")
    listing = list_volumes(folder)
    faults = faults_among(listing.left_out)
    hidden = raw.startswith(b".")
    assert len(listing.files) + len(faults) == (0 if hidden else 1)
    assert all(len(line.splitlines()) == 1 for line in faults.values())
    assert all(file.exists() for file in listing.files)


def test_a_batch_on_another_disk(tmp_path: Path, write_lits_case: WriteCase) -> None:
    write_lits_case(1, tmp_path / "disk" / "batch")
    write_lits_case(2, tmp_path / "lits" / "here")
    (tmp_path / "lits" / "linked").symlink_to(tmp_path / "disk" / "batch")
    (tmp_path / "lits" / "unplugged").symlink_to(tmp_path / "no")
    dataset = open_dataset(tmp_path / "lits")
    assert [case.name for case in dataset.cases] == ["volume-1", "volume-2"]
    (issue,) = check_dataset(dataset)
    assert issue.severity == "error"
    assert "unplugged: is a link to" in str(issue)


def test_kaggles_archive(tmp_path: Path, write_lits_case: WriteCase) -> None:
    for path in write_lits_case(0, tmp_path / "set", suffix=".nii"):
        inner = path.rename(path.with_name("moved"))
        path.mkdir()
        inner.rename(path / path.name)
    dataset = open_dataset(tmp_path / "set")
    assert [case.name for case in dataset.cases] == ["volume-0"]
    assert check_dataset(dataset) == []
