"""Images and maps move together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.slabs.augment import Augmentation, AugmentConfig, move_images, move_maps
from volattn.slabs.images import input_shape, to_input

WINDOW = (-200.0, 300.0)
NOTHING = AugmentConfig(flip=0, rotate=0, zoom=(1, 1), hu_gain=0, hu_shift=0)

moves = st.builds(Augmentation, flip=st.booleans(), angle=st.floats(-180, 180), zoom=st.floats(0.7, 1.4))
frames = st.sampled_from([((48, 48), 48), ((40, 48), 48), ((48, 31), 96), ((30, 40), 64), ((96, 80), 48)])


def scene(shape: tuple[int, int]) -> np.ndarray:
    """A bright L in the middle that no flip or turn maps to itself."""
    h, w = shape
    marked = np.zeros(shape, np.int32)
    marked[h // 3 : h - h // 3, w // 3 : w // 2] = 1
    marked[h // 2 : h - h // 3, w // 3 : w - w // 3] = 1
    return marked


def hu(marked: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(marked > 0, 300, -200).astype(np.int16))[None, None]


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(-300, 400, shape).astype(np.int16))


def centre(weights: np.ndarray) -> np.ndarray:
    return np.stack([(grid * weights).sum() / weights.sum() for grid in np.indices(weights.shape)])


@settings(max_examples=60)
@given(moves, frames)
def test_mask_stays_on_its_object(augmentation, frame):
    shape, size = frame
    marked = scene(shape)
    image = move_images(hu(marked), augmentation, WINDOW, size)[0, 0].numpy()
    mask = move_maps(marked[None], augmentation, size)[0]
    assert image.shape == mask.shape == (size, size)
    assert mask.sum() > 20
    # Nearest and bilinear agree but for a few pixels that the outline halves, as many on each side of it.
    bright = image > 0.5
    assert (bright != (mask > 0)).sum() <= 0.06 * mask.sum()
    assert np.abs(centre(bright) - centre(mask)).max() < 0.15


@pytest.mark.parametrize("size", [20, 40, 50, 60, 80, 90])
@pytest.mark.parametrize("axis", [0, 1])
def test_mask_has_no_half_pixel_shift(size, axis):
    """An edge of the mask lies where the enlarged image crosses half of the step, to the pixel."""
    marked = np.zeros((20, 20), np.int32)
    marked[5:11] = 1
    marked = marked if axis == 0 else marked.T.copy()
    image = move_images(hu(marked), Augmentation(), WINDOW, size)[0, 0].numpy()
    mask = move_maps(marked[None], Augmentation(), size)[0]
    certain = np.abs(image - 0.5) > 1e-3  # At odd scales a pixel's centre lies on the edge itself.
    assert certain.mean() > 0.9
    assert ((image > 0.5) == (mask > 0))[certain].all()
    assert mask.sum() == pytest.approx(marked.sum() * (size / 20) ** 2, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "size"), [((24, 20), 24), ((20, 24), 48), ((48, 40), 24), ((48, 40), 17), ((17, 23), 60)]
)
def test_both_ways_into_the_input_agree(shape, size):
    """A move by next to nothing, which samples, gives what `to_input` gives."""
    slices = noise(2, 3, *shape)
    moved = move_images(slices, Augmentation(angle=1e-7), WINDOW, size)
    expected = to_input(slices, WINDOW, size)
    h, w = input_shape(*shape, size)
    torch.testing.assert_close(moved[..., :h, :w], expected[..., :h, :w], atol=2e-4, rtol=0)
    assert torch.equal(moved[..., h:, :], expected[..., h:, :])
    assert torch.equal(moved[..., w:], expected[..., w:])


def test_nothing_drawn_is_prediction():
    slices = noise(2, 3, 20, 30)
    drawn = Augmentation.draw(NOTHING, 1, 2, 3)
    assert drawn == Augmentation()
    assert torch.equal(move_images(slices, drawn, WINDOW, 40), to_input(slices, WINDOW, 40))


@pytest.mark.parametrize(
    ("augmentation", "plain"),
    [
        (Augmentation(flip=True), lambda image: image.flip(-1)),
        (Augmentation(angle=90), lambda image: image.rot90(-1, (-2, -1))),  # clockwise
        (Augmentation(angle=-90, flip=True), lambda image: image.flip(-1).rot90(1, (-2, -1))),
        (Augmentation(angle=180), lambda image: image.flip(-1).flip(-2)),
        (Augmentation(zoom=3), lambda image: to_input(image[..., 8:16, 8:16], (0, 1), 24)),
    ],
)
def test_moves_are_what_they_are_called(augmentation, plain):
    image = torch.rand(1, 3, 24, 24)
    moved = move_images(image, augmentation, (0, 1), 24)
    inner = (..., slice(2, -2), slice(2, -2))  # An enlarged crop does not know what was around it.
    torch.testing.assert_close(moved[inner], plain(image)[inner], atol=1e-4, rtol=0)
    if augmentation.zoom == 1:
        maps = torch.randint(0, 9, (2, 24, 24), dtype=torch.int32)
        assert torch.equal(torch.from_numpy(move_maps(maps.numpy(), augmentation, 24)), plain(maps))


@settings(max_examples=10)
@given(moves, frames)
def test_all_images_of_a_slab_move_alike(augmentation, frame):
    shape, size = frame
    slices = noise(3, 3, *shape)
    together = move_images(slices, augmentation, WINDOW, size)
    alone = torch.cat([move_images(image[None], augmentation, WINDOW, size) for image in slices])
    assert torch.equal(together, alone)
    assert together.min() >= 0
    assert together.max() <= 1


@given(st.floats(0.8, 1.2), st.floats(-30, 30), st.booleans())
def test_jitter_changes_hu(gain, shift, flip):
    slices = torch.linspace(-400, 500, 64).reshape(1, 1, 8, 8)
    changed = move_images(slices, Augmentation(flip=flip, gain=gain, shift=shift), WINDOW, 8)
    expected = ((gain * slices + shift + 200) / 500).clamp(0, 1)
    torch.testing.assert_close(changed, expected.flip(-1) if flip else expected, atol=1e-5, rtol=0)


def test_draws_depend_on_seed_epoch_and_index_only():
    config = AugmentConfig()
    draws = [Augmentation.draw(config, *key) for key in np.ndindex(3, 3, 40)]
    assert draws == [Augmentation.draw(config, *key) for key in np.ndindex(3, 3, 40)]
    assert len(set(draws)) == len(draws)
    without_turn = config.updated(["rotate=0"])
    assert [draw.zoom for draw in draws[:9]] == [
        Augmentation.draw(without_turn, *key).zoom for key in list(np.ndindex(3, 3, 40))[:9]
    ]


def test_draws_fill_their_bounds():
    config = AugmentConfig(flip=0.3, rotate=20, zoom=(0.5, 2), hu_gain=0.1, hu_shift=30)
    draws = [Augmentation.draw(config, 0, 0, index) for index in range(2000)]
    assert np.mean([draw.flip for draw in draws]) == pytest.approx(0.3, abs=0.05)
    for values, low, high in (
        ([draw.angle for draw in draws], -20, 20),
        ([np.log2(draw.zoom) for draw in draws], -1, 1),
        ([draw.gain for draw in draws], 0.9, 1.1),
        ([draw.shift for draw in draws], -30, 30),
    ):
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.04 * (high - low))


@pytest.mark.parametrize("zoom", [(0, 1), (1.2, 0.8), (-1, 1)])
def test_impossible_zoom_is_refused(zoom):
    with pytest.raises(ValueError, match=r"recipe.yaml: .*zoom"):
        AugmentConfig.parse({"zoom": zoom}, "recipe.yaml")
