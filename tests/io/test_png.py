"""Slices as 16-bit PNG: what Pillow and imageio read, and that nothing damaged passes."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from volattn.io.readers.png import read_slice, write_slice

pixels = st.integers(-32768, 32767)


def noise(shape: tuple[int, int] = (9, 13), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.int16)


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: st.tuples(st.just(shape), pixels)))
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, given_) -> None:
    shape, value = given_
    path = tmp_path_factory.mktemp("png") / "001.png"
    hu = noise(shape)
    hu[0, 0] = value
    write_slice(path, hu)
    back = read_slice(path)
    assert back.dtype == np.int16
    np.testing.assert_array_equal(back, hu)


def test_the_file_is_a_png_of_16_bits_with_0_hu_at_32768(tmp_path: Path) -> None:
    write_slice(tmp_path / "a.png", np.array([[0, -1024, 3071]], np.int16))
    content = (tmp_path / "a.png").read_bytes()
    width, height, bits, colour = struct.unpack(">IIBB", content[16:26])
    assert (width, height, bits, colour) == (3, 1, 16, 0)
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).tolist() == [[32768, 31744, 35839]]


def test_the_same_slice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_slice(tmp_path / name, noise())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_cut_anywhere_it_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    write_slice(whole, noise((4, 5)))
    content = whole.read_bytes()
    cut = tmp_path / "cut.png"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.png: .*; copy it again") as caught:
            read_slice(cut)
        assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_changed_byte_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("png") / "001.png"
    write_slice(path, noise((4, 5)))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"001\.png: .*; copy it again"):
        read_slice(path)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("L", (4, 3)), "has 8 bits where HU need one channel of 16 bits"),
        (Image.new("RGB", (4, 3)), "has colours"),
        (Image.new("1", (4, 3)), "has 1 bit"),
        (Image.new("P", (4, 3)), "has a palette"),
    ],
)
def test_other_kinds_of_png_are_refused(image: Image.Image, reason: str, tmp_path: Path) -> None:
    image.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a\.png: {reason}.*; take the original"):
        read_slice(tmp_path / "a.png")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.png: does not exist"):
        read_slice(tmp_path / "no.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png: is empty"):
        read_slice(tmp_path / "empty.png")
    Image.new("L", (4, 3)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "jpeg.png")
    with pytest.raises(ValueError, match=r"jpeg\.png: is not a PNG"):
        read_slice(tmp_path / "jpeg.png")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    write_slice(tmp_path / "a.png", noise())
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 2**17, 2**17)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"a\.png: .*larger than a CT slice"):
        read_slice(tmp_path / "a.png")


def test_a_size_is_judged_before_it_is_decoded(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4097, 8192), np.uint16)).save(tmp_path / "a.png")
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.png: is larger than a CT slice"):
        read_slice(tmp_path / "a.png")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10 * 2**20


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: is a pipe"):
        read_slice(tmp_path / "a.png")
