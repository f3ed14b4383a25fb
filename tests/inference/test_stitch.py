"""From slices to volumes: what went into the network comes back where it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from volattn.inference.stitch import ORGAN_SCORE, Stitcher, class_boxes, find_objects, number_lesions, paste, score_maps
from volattn.inference.stream import SliceDetections, SliceProbabilities
from volattn.preprocessing.prepared import ZWeights, z_weights
from volattn.slabs.images import input_shape, resize
from volattn.structures.lesions import label_components

CELLS = 28


def detections(*rows: tuple[int, float, tuple[float, ...], np.ndarray]) -> SliceDetections:
    """Rows of (label, score, box, mask)."""
    labels, scores, boxes, masks = zip(*rows, strict=True) if rows else ((), (), (), ())
    return SliceDetections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
        masks=np.array(masks, np.float16).reshape(-1, CELLS, CELLS),
        weights={},
    )


FULL = np.ones((CELLS, CELLS))


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def drawn_as_in_training(mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The box of a mask and its reference for the mask head, as torchvision draws it."""
    moved = resize(torch.from_numpy(mask.astype(np.float32))[None, None], size)[0, 0].numpy() >= 0.5
    rows, columns = np.nonzero(moved)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
    cells = roi_align(
        torch.from_numpy(moved.astype(np.float32))[None, None], torch.tensor([[0, *box]]), (CELLS, CELLS), 1.0
    )
    return box, cells[0, 0].numpy()


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


@pytest.mark.parametrize(("size", "radius", "least"), [(80, 3, 0.95), (160, 3, 0.999), (60, 12, 0.97), (120, 20, 0.98)])
def test_a_perfect_mask_head_gives_back_the_mask(size: int, radius: float, least: float) -> None:
    """Through the input and through the reference mask of training, without a shift in any direction."""
    shape = (80, 64)
    for centre in itertools.product((24.3, 33.0, 40.6), (22.0, 30.5)):
        mask = disc(shape, centre, radius)
        box, cells = drawn_as_in_training(mask, size)
        rows, columns, values = paste(cells, box, shape, input_shape(*shape, size))
        back = np.zeros(shape, bool)
        back[rows, columns] = values >= 0.5
        assert dice(mask, back) >= least
        np.testing.assert_allclose(
            np.argwhere(back).mean(axis=0), np.argwhere(mask).mean(axis=0), atol=0.5 * 80 / size * 0.6
        )


@given(start=st.floats(0, 50), side=st.floats(0.1, 60), scale=st.sampled_from([0.5, 1.0, 2.0]), flip=st.booleans())
@settings(max_examples=50)
def test_a_full_mask_covers_the_pixels_with_centres_in_its_box(
    start: float, side: float, scale: float, flip: bool
) -> None:
    shape = (40, 60)
    filled = (round(40 * scale), round(60 * scale))
    box = np.array([start, start / 2, start + side, start / 2 + side], np.float32)
    rows, columns, values = paste(FULL, box, shape, filled)
    covered = np.zeros(shape, np.float32)
    covered[rows, columns] = values
    centres = [(np.arange(length) + 0.5) * scale for length in shape]
    x0, y0, x1, y1 = (float(bound) for bound in box)
    wanted = ((centres[0] >= y0) & (centres[0] < y1))[:, None] & ((centres[1] >= x0) & (centres[1] < x1))
    np.testing.assert_allclose(covered, wanted, atol=1e-6)


def test_a_box_outside_the_slice_is_nothing() -> None:
    """The input is square: below and beside the slice there is padding that a detector may box."""
    _, _, values = paste(FULL, np.array([10, 90, 20, 100], np.float32), (40, 60), (68, 100))
    assert values.size == 0
    stitcher = whole_stitcher((1, 40, 60), classes=2, filled=(68, 100))
    inside = (1, 0.9, (0.0, 0.0, 30.0, 30.0), FULL)
    stitcher.add(0, detections(inside, (1, 0.9, (10.0, 90.0, 20.0, 100.0), FULL)))
    assert np.count_nonzero(stitcher.finish().labels) > 0


def whole_stitcher(
    shape: tuple[int, int, int],
    classes: int = 2,
    threshold: float = 0.5,
    back: ZWeights | None = None,
    filled: tuple[int, int] | None = None,
) -> Stitcher:
    return Stitcher(shape, back or z_weights(shape[0], 1.5, 1.5), filled or shape[1:], classes, threshold)


def organ(score: float = 0.9) -> tuple[int, float, tuple[float, ...], np.ndarray]:
    return (1, score, (0.0, 0.0, 30.0, 20.0), FULL)


def lesion(x: float, score: float, side: float = 4) -> tuple[int, float, tuple[float, ...], np.ndarray]:
    return (2, score, (x, 5.0, x + side, 5.0 + side), FULL)


SHAPE = (4, 20, 40)


def test_a_single_organ_is_its_largest_part_with_the_lesions_in_it() -> None:
    stray = (1, 0.9, (32.0, 0.0, 40.0, 20.0), FULL)
    found = {}
    for single in (False, True):
        stitcher = Stitcher(SHAPE, z_weights(4, 1.5, 1.5), SHAPE[1:], 2, 0.5, single_organ=single)
        for z in (1, 2):
            stitcher.add(z, detections(organ(), stray, lesion(5, 0.9), lesion(34, 0.99)))
        found[single] = stitcher.finish()
    wanted = found[False].labels.copy()
    assert (wanted[1:3, 5:9, 34:38] == 2).all()
    wanted[:, :, 31:] = 0
    np.testing.assert_array_equal(found[True].labels, wanted)
    assert [best.score for best in found[True].best] == [pytest.approx(0.9)]
    assert len(found[False].best) == 2


def test_labels_thresholds_and_the_organ() -> None:
    stitcher = whole_stitcher(SHAPE, threshold=0.5)
    stitcher.add(1, detections(organ(), lesion(5, 0.5), lesion(15, 0.49), lesion(34, 0.99)))
    stitcher.add(2, detections(organ(ORGAN_SCORE - 0.01), lesion(5, 0.9)))
    found = stitcher.finish()
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[1, :, :30] = 1
    wanted[1, 5:9, 5:9] = 2  # at the threshold; below it, outside the organ and without an organ there is none
    np.testing.assert_array_equal(found.labels, wanted)
    assert found.labels.dtype == np.uint8
    assert [best.score for best in found.best] == [0.5]


def test_lesions_alone_need_no_organ() -> None:
    stitcher = whole_stitcher(SHAPE, classes=1)
    stitcher.add(0, detections((1, 0.8, (3.0, 3.0, 6.0, 6.0), FULL)))
    found = stitcher.finish()
    assert set(np.unique(found.labels)) == {0, 2}
    assert np.count_nonzero(found.labels) == 9


def test_a_lesion_has_the_highest_score_of_its_slices() -> None:
    stitcher = whole_stitcher(SHAPE)
    stitcher.add(0, detections(organ(), lesion(5, 0.6), lesion(20, 0.95)))
    stitcher.add(1, detections(organ(), lesion(6, 0.8), lesion(6, 0.7, side=8), lesion(25, 0.55)))
    stitcher.add(2, detections(organ(), lesion(7, 0.7)))
    found = stitcher.finish()
    assert [(round(best.score, 6), best.z) for best in found.best] == [(0.8, 1), (0.95, 0), (0.55, 1)]
    for number, x in ((1, 5), (2, 20)):
        assert found.lesions[0, 6, x] == number
    assert found.lesions[2, 6, 8] == 1


def test_between_two_slices_probabilities_are_interpolated_then_cut() -> None:
    """0.9 in one prepared slice and nothing in the next is lesion up to 4/9 of the way."""
    share = np.linspace(0, 0.9, 10)
    back = ZWeights(np.zeros(10, np.int64), np.where(share > 0, 1, 0), share)
    stitcher = whole_stitcher((10, 20, 40), back=back)
    stitcher.add(0, detections(organ(), (2, 0.9, (5.0, 5.0, 9.0, 9.0), FULL * 0.9)))
    stitcher.add(1, detections(organ()))
    found = stitcher.finish()
    assert [bool((plane == 2).any()) for plane in found.labels] == [0.9 * (1 - part) >= 0.5 for part in share]
    assert (found.labels[:, 0, 0] == 1).all()


@given(seed=st.integers(0, 10**6), depth=st.integers(1, 9), spacing=st.sampled_from([0.8, 1.5, 2.5, 5.0]))
@settings(max_examples=25)
def test_order_changes_no_bit_and_every_lesion_has_a_best_detection(seed: int, depth: int, spacing: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (depth, 20, 40)
    back = z_weights(depth, spacing, 1.5)
    slices = []
    for _ in range(int(back.upper.max()) + 1):
        rows = [organ()]
        for _ in range(rng.integers(0, 4)):
            mask = rng.uniform(0, 1, (CELLS, CELLS))
            x, y = rng.uniform(0, 25), rng.uniform(0, 12)
            rows.append((2, rng.uniform(0.3, 1), (x, y, x + rng.uniform(1, 9), y + rng.uniform(1, 7)), mask))
        slices.append(detections(*rows))

    found = []
    for order in (np.arange(len(slices)), rng.permutation(len(slices))):
        stitcher = whole_stitcher(shape, back=back)
        for z in order:
            stitcher.add(int(z), slices[z])
        found.append(stitcher.finish())
    first, second = found
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.lesions, second.lesions)
    assert [(best.score, best.z) for best in first.best] == [(best.score, best.z) for best in second.best]
    assert len(first.best) == first.lesions.max(initial=0)


def test_sums_do_not_overflow_at_probability_one() -> None:
    shares = np.linspace(0, 0.999, 101)
    back = ZWeights(np.zeros(101, np.int64), np.where(shares > 0, 1, 0), shares)
    stitcher = whole_stitcher((101, 20, 40), back=back)
    stitcher.add(0, detections(organ()))
    stitcher.add(1, detections(organ()))
    assert (stitcher.finish().labels[:, 0, 0] == 1).all()


@given(seed=st.integers(0, 10**6), share=st.floats(0, 0.3))
@settings(max_examples=20)
def test_lesions_are_numbered_as_in_the_whole_volume(seed: int, share: float) -> None:
    labels = np.where(np.random.default_rng(seed).random((5, 7, 9)) < share, 2, 1).astype(np.uint8)
    wanted, count = label_components(labels == 2)
    lesions, found = number_lesions(labels)
    assert found == count
    np.testing.assert_array_equal(lesions, wanted)


@given(seed=st.integers(0, 10**6), share=st.floats(0, 0.4), least=st.floats(0, 5))
@settings(max_examples=30)
def test_specks_are_no_lesions(seed: int, share: float, least: float) -> None:
    labels = np.where(np.random.default_rng(seed).random((5, 7, 9)) < share, 2, 1).astype(np.uint8)
    every, count = label_components(labels == 2)
    kept = [number for number in range(1, count + 1) if np.count_nonzero(every == number) >= least]
    lesions, found = number_lesions(labels, least, 1)
    assert found == len(kept)
    for number, one in enumerate(kept, start=1):
        np.testing.assert_array_equal(lesions == number, every == one)
    np.testing.assert_array_equal(labels == 2, lesions > 0)
    assert set(np.unique(labels)) <= {1, 2}


@pytest.mark.parametrize(("finer", "thinner", "kept"), [(1, 1, True), (2, 1, True), (2, 2, False), (4, 1, False)])
def test_a_lesion_is_no_smaller_than_a_voxel_that_the_network_saw(finer: int, thinner: int, kept: bool) -> None:
    """A lesion of four pixels in one slice of an input that is finer than what the network saw."""
    depth = 2 * thinner
    other = np.minimum(np.arange(depth), 1)
    back = ZWeights(np.zeros(depth, np.int64), other, other.astype(float))
    stitcher = whole_stitcher((depth, 20, 40), back=back, filled=(20 // finer, 40 // finer))
    box = tuple(place / finer for place in (8.0, 8.0, 10.0, 10.0))
    stitcher.add(0, detections((1, 0.9, (0.0, 0.0, 40 / finer, 20 / finer), FULL), (2, 0.9, box, FULL)))
    found = stitcher.finish()
    assert len(found.best) == int(kept)
    assert np.count_nonzero(found.labels[0] == 2) == 4 * kept
    assert found.labels[0, 8, 8] == 1 + kept


def test_many_lesions_need_more_than_16_bits() -> None:
    labels = np.zeros((3, 400, 400), np.uint8)
    labels[::2, ::2, ::2] = 2
    lesions, count = number_lesions(labels)
    assert count == 2 * 200 * 200
    assert lesions.max() == count


def test_score_maps_hold_the_highest_covering_score() -> None:
    found = detections(organ(0.7), lesion(5, 0.3), lesion(7, 0.6), (2, 0.9, (20.0, 5.0, 24.0, 9.0), FULL * 0.4))
    maps = score_maps(found, (20, 40), 40, 2)
    assert maps.shape == (2, 20, 40)
    assert maps[0, 0, 0] == np.float32(0.7)
    assert maps[1, 6].tolist()[4:12] == pytest.approx([0, 0.3, 0.3, 0.6, 0.6, 0.6, 0.6, 0])
    assert maps[1, :, 20:].max() == 0


def probabilities(organ: np.ndarray, lesion: np.ndarray) -> SliceProbabilities:
    return SliceProbabilities(np.stack([np.maximum(organ, lesion), lesion]).astype(np.float32), {})


@pytest.mark.parametrize(("size", "least"), [(40, 0.9), (80, 1.0), (160, 0.999), (200, 0.99)])
def test_a_segmenters_pixels_come_back_where_they_were(size: int, least: float) -> None:
    shape = (80, 64)
    organ, lesion = disc(shape, (40.6, 30.5), 20), disc(shape, (36.0, 24.0), 4)
    moved = resize(torch.from_numpy(np.stack([organ, lesion]).astype(np.float32))[None], size)[0]
    padded = torch.nn.functional.pad(moved, (0, size - moved.shape[2], 0, size - moved.shape[1]))
    found = SliceProbabilities(padded.numpy(), {})
    maps = score_maps(found, shape, size, classes=2)
    for mask, back in zip((organ, lesion), maps >= 0.5, strict=True):
        assert dice(mask, back) >= least
        if size >= 80:
            np.testing.assert_allclose(np.argwhere(back).mean(axis=0), np.argwhere(mask).mean(axis=0), atol=0.03)
    stitcher = whole_stitcher((1, *shape), filled=input_shape(*shape, size))
    stitcher.add(0, found)
    stitched = stitcher.finish()
    np.testing.assert_array_equal(stitched.labels[0], np.where(maps[0] >= 0.5, 1 + (maps[1] >= 0.5), 0))
    assert [one.score for one in stitched.best] == class_boxes(found, 2)[1].tolist()


def test_a_segmenters_weak_lesions_are_cut_out() -> None:
    """By the highest probability of what hangs together on a slice; weak parts of a strong lesion stay."""
    lesion = np.zeros((20, 40))
    lesion[5:9, 5:9], lesion[5:9, 20:24], lesion[6, 6] = 0.6, 0.7, 0.95
    stitcher = whole_stitcher((2, 20, 40), threshold=0.9)
    stitcher.add(0, probabilities(np.ones((20, 40)), lesion))
    stitched = stitcher.finish()
    wanted = np.zeros((2, 20, 40), np.uint8)
    wanted[0] = 1
    wanted[0, 5:9, 5:9] = 2
    np.testing.assert_array_equal(stitched.labels, wanted)
    assert [(best.score, best.z) for best in stitched.best] == [(pytest.approx(0.95), 0)]


@given(seed=st.integers(0, 10**6), depth=st.integers(1, 6), size=st.sampled_from([20, 40, 80]))
@settings(max_examples=25)
def test_every_segmented_lesion_has_a_score_of_the_threshold_or_more(seed: int, depth: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    filled = input_shape(20, 40, size)
    stitcher = whole_stitcher((depth, 20, 40), threshold=0.8, back=z_weights(depth, 2.5, 1.5), filled=filled)
    for z in rng.permutation(int(z_weights(depth, 2.5, 1.5).upper.max()) + 1):
        coarse = resize(torch.from_numpy(rng.random((1, 1, 5, 5)).astype(np.float32)), size)[0, 0].numpy()
        stitcher.add(int(z), probabilities(np.ones((size, size)), coarse))
    found = stitcher.finish()
    assert len(found.best) == found.lesions.max(initial=0)
    assert all(best.score >= np.float32(0.8) for best in found.best)


def test_objects_of_a_slice_hang_together_by_edges() -> None:
    plane = np.array([[0.6, 0.4, 0.7], [0.9, 0.3, 0.4], [0.8, 0.8, 0.2]], np.float32)
    numbers, scores = find_objects(plane)
    assert numbers.tolist() == [[1, 0, 2], [1, 0, 0], [1, 1, 0]]
    assert scores.tolist() == [np.float32(0.9), np.float32(0.7)]
    boxes, again = class_boxes(SliceProbabilities(plane[None], {}), 1)
    assert boxes.tolist() == [[0, 0, 2, 3], [2, 0, 3, 1]]
    assert again.tolist() == scores.tolist()
    assert find_objects(np.zeros((3, 3), np.float32))[1].shape == (0,)
