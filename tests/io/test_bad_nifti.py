"""Bad input: one line that names the file and the way out, and little memory spent on finding out."""

from __future__ import annotations

import gzip
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nifti_files import SHAPE, oriented, patch, save

from volattn.io.nifti import read_header, read_labels, read_volume

MIB = 2**20


def refusal(read: Callable, path: Path) -> str:
    """The message with which a file is refused; it names the file and is one line."""
    with pytest.raises(ValueError, match=r"\S; \S") as caught:  # a fault and a way out
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def blank(path: Path, dims: tuple[int, ...], dtype: int = 4, bits: int = 16, payload: int = 0) -> Path:
    """A `.nii` that claims a shape and a type and holds `payload` zero bytes."""
    header = np.zeros(352, np.uint8)
    header[:4] = np.array([348], "<i4").view(np.uint8)
    dim = np.ones(8, "<i2")
    dim[: len(dims) + 1] = (len(dims), *dims)
    header[40:56] = dim.view(np.uint8)
    header[70:74] = np.array([dtype, bits], "<i2").view(np.uint8)
    header[76:108] = np.ones(8, "<f4").view(np.uint8)
    header[108:112] = np.array([352], "<f4").view(np.uint8)
    header[344:348] = np.frombuffer(b"n+1\0", np.uint8)
    path.write_bytes(header.tobytes() + bytes(payload))
    return path


def zipped(path: Path, level: int = 9) -> Path:
    """The gzip of a file, beside it."""
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes(), level))
    return target


def test_missing(tmp_path: Path) -> None:
    assert "does not exist" in refusal(read_volume, tmp_path / "no.nii.gz")


def test_folder(tmp_path: Path) -> None:
    assert "is a folder" in refusal(read_volume, tmp_path)


@pytest.mark.parametrize("content", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_empty(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    assert "is empty" in refusal(read_volume, path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" * 100, b"ab", b"\x1f\x8bnot gzip at all"])
def test_no_nifti(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    refusal(read_volume, path)


def test_analyze_and_pairs(tmp_path: Path) -> None:
    path = blank(tmp_path / "a.nii", (4, 5, 6), payload=240)
    assert "Analyze" in refusal(read_volume, patch(path, 344, np.zeros(4, np.uint8)))
    assert "pair" in refusal(read_volume, patch(path, 344, np.frombuffer(b"ni1\0", np.uint8)))


@pytest.mark.parametrize("keep", [200, 400, 3000])
def test_truncated_plain(keep: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.random.default_rng(0).random((10, 10, 10)), np.eye(4))
    path.write_bytes(path.read_bytes()[:keep])
    assert "truncated" in refusal(read_header, path)
    assert "truncated" in refusal(read_volume, path)


@pytest.mark.parametrize("keep", [5, 15, 60, 0.3, 0.99, -8, -1])
def test_truncated_gzip(keep: float, tmp_path: Path) -> None:
    """Cut within the gzip header, the NIfTI header, the voxels, or the checksum behind them."""
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).random((10, 10, 10)), np.eye(4))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert "truncated" in refusal(read_volume, path)
    assert "truncated" in refusal(read_labels, path)


def test_a_flipped_byte_in_gzip_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).random((10, 10, 10)), np.eye(4))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    assert "damaged" in refusal(read_volume, path)


def test_a_gzip_that_holds_too_little(tmp_path: Path) -> None:
    path = zipped(blank(tmp_path / "a.nii", (10, 10, 10), payload=1999))
    assert "1999 of 2000 bytes" in refusal(read_volume, path)


def test_a_promise_that_the_file_cannot_keep_is_found_without_inflating(tmp_path: Path) -> None:
    path = zipped(blank(tmp_path / "a.nii", (1000, 1000, 1000)))
    assert "truncated" in refusal(read_header, path)


@pytest.mark.parametrize(
    ("dims", "reason"),
    [
        ((64, 64), "is 2D"),
        ((64, 64, 8, 2), "is 4D"),
        ((64, 64, 8, 1, 3), "is 5D"),
        ((64, 0, 8), "no voxels"),
        ((64, -3, 8), "no voxels"),
        ((32767, 32767, 32767), "no CT volume"),
        ((2000, 2000, 1000), "no CT volume"),
    ],
)
def test_shapes(dims: tuple[int, ...], reason: str, tmp_path: Path) -> None:
    path = blank(tmp_path / "a.nii", dims, payload=10 * MIB if max(dims) < 100 else 0)
    assert reason in refusal(read_header, path)
    assert reason in refusal(read_volume, zipped(path))


def test_trailing_single_axes_are_no_fault(tmp_path: Path) -> None:
    path = blank(tmp_path / "a.nii", (4, 5, 6, 1, 1), payload=240)
    assert read_header(path).shape == (6, 5, 4)


def test_a_header_of_nonsense_axes(tmp_path: Path) -> None:
    path = blank(tmp_path / "a.nii", (4, 5, 6), payload=240)
    assert "damaged" in refusal(read_header, patch(path, 40, np.array([99], "<i2")))


@pytest.mark.parametrize(("code", "bits"), [(128, 24), (32, 64), (1, 1), (777, 16)])
def test_types_that_are_no_cts(code: int, bits: int, tmp_path: Path) -> None:
    assert "type" in refusal(read_header, blank(tmp_path / "a.nii", (4, 5, 6), code, bits, payload=2000))


@pytest.mark.parametrize("offset", [math.nan, math.inf, -5.0, 1e9])
def test_voxels_at_an_absurd_place(offset: float, tmp_path: Path) -> None:
    path = blank(tmp_path / "a.nii", (4, 5, 6), payload=240)
    assert "damaged" in refusal(read_header, patch(path, 108, np.array([offset], "<f4")))


def test_scaling_that_is_no_number(tmp_path: Path) -> None:
    path = blank(tmp_path / "a.nii", (4, 5, 6), payload=240)
    assert "scaling" in refusal(read_header, patch(path, 112, np.array([2.0, math.nan], "<f4")))


def test_bombs_are_not_inflated(tmp_path: Path) -> None:
    """The header promises far less than the stream holds, or far more than a CT's stream gives."""
    hidden = zipped(blank(tmp_path / "hidden.nii", (16, 16, 16), payload=64 * MIB))
    honest = zipped(blank(tmp_path / "honest.nii", (512, 512, 640), payload=320 * MIB), level=1)
    refusal(read_volume, hidden)  # What is imported on the way is not the bomb's.
    tracemalloc.start()
    try:
        assert "more than the 8192 bytes" in refusal(read_volume, hidden)
        assert "more than the 8192 bytes" in refusal(read_labels, hidden)
        peak = tracemalloc.get_traced_memory()[1]
        assert "inflate to 0.3 GiB" in refusal(read_volume, honest)
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["sform", "qform"])
def test_affines_that_are_no_numbers(place: str, value: float, tmp_path: Path) -> None:
    forms = {"sform": 0, "qform": 0, place: 1}
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.int16), oriented("LPS", True), **forms)
    patch(path, 284 if place == "sform" else 268, np.array([value], "<f4"))
    assert "NaN" in refusal(read_volume, path)


def test_singular_affine(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.int16), np.eye(4), qform=0)
    assert "singular" in refusal(read_volume, patch(path, 280, np.zeros(4, "<f4")))


@pytest.mark.parametrize("value", [0.0, -0.8, math.nan])
@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (0, 0)])
def test_spacings(value: float, sform: int, qform: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.int16), np.eye(4), sform=sform, qform=qform)
    assert "spacing" in refusal(read_header, patch(path, 80, np.array([value], "<f4")))


@pytest.mark.parametrize(("count", "value"), [(120, math.nan), (1, math.nan), (2, -math.inf)])
def test_voxels_that_are_no_numbers(count: int, value: float, tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.float32)
    array.flat[:count] = value
    assert f"{count} of its 120 voxels" in refusal(read_volume, save(tmp_path / "a.nii.gz", array, np.eye(4)))


def test_labels_beyond_32_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.full(SHAPE, 2.0**40), np.eye(4))
    assert "32 bits" in refusal(read_labels, path)
