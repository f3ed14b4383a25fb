"""Bags, slab tables and the input frame."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.slabs.images import bag_centres, image_slices, input_scale, input_shape, slab_table, to_input

odd = st.integers(0, 6).map(lambda half: 2 * half + 1)


@st.composite
def slices_of_a_volume(draw: st.DrawFn) -> tuple[int, int]:
    depth = draw(st.integers(1, 60))
    return draw(st.integers(0, depth - 1)), depth


@given(slices_of_a_volume(), odd)
def test_bag_is_its_definition(place, n):
    z, depth = place
    expected = [min(max(z + 3 * k, 0), depth - 1) for k in range(-(n - 1) // 2, (n - 1) // 2 + 1)]
    assert bag_centres(z, depth, n).tolist() == expected


def test_bag_keeps_multiplicity_at_the_ends():
    assert bag_centres(1, 12, 9).tolist() == [0, 0, 0, 0, 1, 4, 7, 10, 11]
    assert bag_centres(9, 11, 5).tolist() == [3, 6, 9, 10, 10]
    assert bag_centres(0, 1, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("n", [-1, 0, 2, 8])
def test_even_bag_is_refused(n):
    with pytest.raises(ValueError, match=f"odd number of images, found {n}"):
        bag_centres(4, 10, n)


def test_image_is_edge_padded():
    assert image_slices(0, 5).tolist() == [0, 0, 1]
    assert image_slices(4, 5).tolist() == [3, 4, 4]
    assert image_slices([[2, 0]], 5, 5).tolist() == [[[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]]
    assert image_slices(3, 5, 1).tolist() == [3]
    with pytest.raises(ValueError, match="odd number of slices, found 2"):
        image_slices(3, 5, 2)


def test_bag_of_nine_covers_27_slices_once():
    covered = image_slices(bag_centres(40, 80, 9), 80).ravel()
    assert sorted(covered.tolist()) == list(range(27, 54))


@given(slices_of_a_volume(), odd, st.data())
def test_slab_shares_what_bags_would_repeat(place, n, data):
    _, depth = place
    targets = sorted(data.draw(st.sets(st.integers(0, depth - 1), min_size=1, max_size=8)))
    table = slab_table(targets, depth, n)
    images = table.centres  # An image's centre stands for the image.
    assert (np.diff(images) > 0).all()
    for target, bag, at in zip(targets, table.bags, table.target_at, strict=True):
        assert images[bag].tolist() == bag_centres(target, depth, n).tolist()
        assert images[at] == target
    assert set(images) == set(images[table.bags].ravel()) | set(targets)


@given(slices_of_a_volume(), odd, st.integers(1, 8))
def test_neighbours_need_few_images(place, n, m):
    z, depth = place
    targets = list(range(z, depth, 3))[:m]
    assert len(slab_table(targets, depth, n).centres) <= len(targets) + n - 1


@pytest.mark.parametrize(("shape", "size"), [((20, 30), 60), ((31, 17), 64), ((40, 60), 20), ((50, 33), 37)])
def test_input_has_no_half_pixel_shift(shape, size):
    """A ramp stays the same ramp over the field of view, edge to edge, at any scale."""
    axes = [(np.arange(n) + 0.5) / n for n in shape]
    ramps = np.stack(np.meshgrid(*axes, indexing="ij"))
    images = to_input(torch.from_numpy(ramps)[None], (0.0, 1.0), size)[0].numpy()
    h, w = input_shape(*shape, size)
    assert max(h, w) == size
    inner = slice(2, -2)
    rows, columns = ((np.arange(n) + 0.5) / n for n in (h, w))
    expected = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    np.testing.assert_allclose(images[:, :h, :w][:, inner, inner], expected[:, inner, inner], atol=3e-3)
    assert (images[:, h:] == 0).all()
    assert (images[:, :, w:] == 0).all()


def test_input_is_the_window_in_unit_range():
    hu = torch.tensor([-32768, -200, -199, 50, 300, 301, 32767], dtype=torch.int16).expand(1, 3, 7, 7)
    images = to_input(hu, (-200, 300), 7)
    assert images.dtype == torch.float32
    expected = torch.tensor([0, 0, 0.002, 0.5, 1, 1, 1])
    torch.testing.assert_close(images, expected.expand(1, 3, 7, 7))
    wanted = (hu.numpy().clip(-200, 300).astype(np.float32) + np.float32(200)) / np.float32(500)
    assert torch.equal(images, torch.from_numpy(wanted))
    assert to_input(hu.double(), (-200, 300), 7).dtype == torch.float64


def test_input_leaves_its_source_alone():
    hu = torch.full((1, 3, 4, 4), 400.0)
    to_input(hu, (-200, 300), 8)
    assert (hu == 400).all()


def test_input_is_antialiased_where_it_shrinks():
    lines = torch.zeros(1, 1, 64, 64)
    lines[..., ::4] = 1  # Bilinear sampling would fall between them.
    image = to_input(lines, (0, 1), 16)
    assert (image[..., 1:-1] - 0.25).abs().max() < 0.05


@settings(max_examples=50)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 1024))
def test_input_shape_fits(h, w, size):
    rows, columns = input_shape(h, w, size)
    assert max(rows, columns) == size
    scale = input_scale(h, w, size)
    assert abs(rows - max(1, h * scale)) <= 0.5 + 1e-9
    assert abs(columns - max(1, w * scale)) <= 0.5 + 1e-9
