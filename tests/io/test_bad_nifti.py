"""Bad input: one line that names the file and the way out, and little memory spent on finding out."""

from __future__ import annotations

import gzip
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nifti_files import SHAPE, oriented, patch, save

from volattn.io.readers import nifti_voxels, read_header, read_labels, read_volume

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
        ((1024, 1024, 1025), "no CT volume"),
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


def test_bombs_are_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header promises far less than the stream holds, or far more than a CT's stream gives."""
    monkeypatch.setattr(nifti_voxels, "_BOMB_BYTES", 8 * MIB)
    hidden = zipped(blank(tmp_path / "hidden.nii", (16, 16, 16), payload=32 * MIB))
    honest = zipped(blank(tmp_path / "honest.nii", (256, 256, 128), payload=16 * MIB), level=1)
    refusal(read_volume, hidden)  # What is imported on the way is not the bomb's.
    tracemalloc.start()
    try:
        assert "more than the 8192 bytes" in refusal(read_volume, hidden)
        assert "more than the 8192 bytes" in refusal(read_labels, hidden)
        peak = tracemalloc.get_traced_memory()[1]
        assert "inflate to 0.0 GiB, which no CT's do" in refusal(read_volume, honest)
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


def test_pipes_and_devices_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "zero.nii.gz").symlink_to("/dev/zero")
    for read in (read_header, read_volume, read_labels):
        assert "is a pipe" in refusal(read, tmp_path / "pipe.nii.gz")
        assert "is a device" in refusal(read, tmp_path / "zero.nii.gz")


@pytest.mark.parametrize("spacing", [1e6, 1e10, 0.01, 60.0])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (0, 1), (0, 0)])
def test_spacings_that_no_ct_has(spacing: float, sform: int, qform: int, tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, spacing, 1.0])
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.int16), affine, sform=sform, qform=qform)
    patch(path, 88, np.array([spacing], "<f4"))
    assert "which is from 0.05 to 50 mm" in refusal(read_header, path)


def test_a_unit_that_the_numbers_are_not_in_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.int16), np.diag([0.8, 0.8, 2, 1]), xyzt_units=1)
    message = refusal(read_header, path)
    assert "800 x 800 x 2000 mm" in message
    assert "in units of 1000 mm" in message


@pytest.mark.parametrize(
    ("dtype", "value", "slope", "intercept"),
    [
        (np.int16, 1000, 1e30, 0.0),
        (np.int16, 1000, 3e38, 3e38),
        (np.int16, 1000, 1.5, -3e38),
        (np.int64, 2**62, 1.0, 0.0),
        (np.uint64, 2**64 - 1, 1.0, -1024.0),
        (np.float64, 1e300, 1.0, 0.0),
        (np.float64, 1e300, 1e30, 1.0),
    ],
)
def test_numbers_that_nothing_can_hold(
    dtype: type, value: float, slope: float, intercept: float, tmp_path: Path
) -> None:
    """As an image they are float32 or refused, as labels they are refused; never an OverflowError."""
    array = np.zeros(SHAPE, dtype)
    array[1, 2, 3] = value
    path = save(tmp_path / "a.nii", array, np.eye(4))
    patch(path, 112, np.array([slope, intercept], "<f4"))
    expected = float(value) * float(np.float32(slope)) + float(np.float32(intercept))
    if abs(expected) < float(np.finfo(np.float32).max):
        assert read_volume(path).array[3, 2, 1] == np.float32(expected)
    else:
        assert "1 of its 120 voxels are NaN, infinite or beyond 32 bits" in refusal(read_volume, path)
    refusal(read_labels, path)


@pytest.mark.parametrize(
    ("dtype", "value", "bytes_a_voxel"), [(np.int16, 2, 1), (np.float64, 2, 1), (np.int64, 0, 1), (np.int32, -1, 2)]
)
def test_labels_take_the_memory_of_their_small_type(
    dtype: type, value: int, bytes_a_voxel: int, tmp_path: Path
) -> None:
    shape = (200, 200, 100)
    array = np.full(shape, value, dtype)
    path = save(tmp_path / "a.nii.gz", array, np.eye(4))
    refusal(read_labels, path.with_name("none.nii"))
    tracemalloc.start()
    try:
        labels = read_labels(path).array
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert labels.min() == labels.max() == value
    # The first block of labels that need the larger type is held in both.
    assert peak <= (bytes_a_voxel + (bytes_a_voxel > 1)) * labels.size + 24 * MIB
