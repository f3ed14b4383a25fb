"""Detection as it is meant, against the definition written down voxel by voxel; its corner cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from volattn.scoring.lesions import Counts, detect, detect_as_scorer, scorer_ids
from volattn.scoring.overlap import Contingency
from volattn.structures.lesions import label_components


def _line(*spans: tuple[int, int], length: int = 60) -> np.ndarray:
    """A mask of one row with voxels in half-open spans."""
    mask = np.zeros((1, 1, length), bool)
    for start, stop in spans:
        mask[0, 0, start:stop] = True
    return mask


def _rows(*rows: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Rows that do not touch."""
    mask = np.zeros((1, 2 * len(rows), 60), bool)
    for y, spans in enumerate(rows):
        mask[0, 2 * y] = _line(*spans)[0, 0]
    return mask


def _counts(reference: np.ndarray, prediction: np.ndarray, threshold: float) -> Counts:
    return detect(Contingency.of(reference, prediction), threshold).counts


def _strict(reference: np.ndarray, prediction: np.ndarray, threshold: float) -> int:
    table = Contingency.of(reference, prediction)
    ids = list(range(table.references + 1)), list(range(table.predictions + 1))
    return detect_as_scorer(table, *ids, threshold).counts.detected


def _blobs(seed: int, shape: tuple[int, int, int] = (5, 18, 16)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=shape), 0.9)
    return noise > np.quantile(noise, generator.uniform(0.6, 0.95))


def _by_definition(reference: np.ndarray, prediction: np.ndarray, threshold: float) -> Counts | None:
    """Counts by comparing whole masks; None where two overlaps are equal, which the definition leaves open."""
    wanted, wanted_count = ndimage.label(reference)
    found, found_count = ndimage.label(prediction)
    holders: dict[int, list[int]] = {}
    for g in range(1, wanted_count + 1):
        shared = [int(((wanted == g) & (found == p)).sum()) for p in range(1, found_count + 1)]
        if any(shared):
            if shared.count(max(shared)) > 1:
                return None
            holders.setdefault(shared.index(max(shared)), []).append(g)
    groups = list(holders.values())
    merged: list[list[int]] = [[] for _ in groups]
    for p in range(1, found_count + 1):
        shared = [int((np.isin(wanted, group) & (found == p)).sum()) for group in groups]
        if any(shared):
            if shared.count(max(shared)) > 1:
                return None
            merged[shared.index(max(shared))].append(p)
    detected = taking_part = 0
    for group, parts in zip(groups, merged, strict=True):
        one, other = np.isin(wanted, group), np.isin(found, parts)
        if parts and (one & other).sum() / (one | other).sum() > threshold:
            detected, taking_part = detected + len(group), taking_part + len(parts)
    return Counts(wanted_count, found_count, detected, taking_part)


@settings(deadline=None, max_examples=40)
@given(first=st.integers(0, 2**20), second=st.integers(0, 2**20), threshold=st.sampled_from([0.0, 0.2, 0.5]))
def test_the_definition(first: int, second: int, threshold: float) -> None:
    reference, prediction = _blobs(first), _blobs(second)
    reference |= prediction & _blobs(first + 1)
    expected = _by_definition(reference, prediction, threshold)
    assume(expected is not None)
    assert _counts(reference, prediction, threshold) == expected


def test_one_prediction_merges_the_references_it_touches() -> None:
    reference, prediction = _line((0, 4), (6, 10)), _line((0, 10))
    assert _counts(reference, prediction, 0.5) == Counts(2, 1, 2, 1)
    assert _strict(reference, prediction, 0.5) == 1, "the scorer counts the prediction"
    assert _counts(reference, _line((0, 20)), 0.5) == Counts(2, 1, 0, 0)
    assert _strict(reference, _line((0, 20)), 0.5) == 1 - 2, "a failed match costs what was merged into it"


def test_predictions_on_one_reference_are_merged() -> None:
    reference, prediction = _line((0, 10)), _line((0, 4), (5, 10))
    assert _counts(reference, prediction, 0.5) == Counts(1, 2, 1, 2)
    assert _counts(reference, _line((0, 2), (5, 7)), 0.5) == Counts(1, 2, 0, 0)


def test_a_reference_goes_to_the_prediction_that_overlaps_it_most() -> None:
    # Both predictions touch the second reference; it goes to the second, and the first keeps the first.
    reference = _rows(((0, 10),), ((4, 16),))
    prediction = reference.copy()
    prediction[0, 1, 5] = True  # joins the two rows
    prediction[0, 2, 8:10] = False  # and leaves the right part of the second by itself
    assert _counts(reference, prediction, 0.0) == Counts(2, 2, 2, 2)
    assert _counts(reference, prediction, 0.5) == Counts(2, 2, 1, 1)


def test_exactly_the_threshold_is_not_above_it() -> None:
    assert _counts(_line((0, 10)), _line((0, 5)), 0.5).detected == 0
    assert _counts(_line((0, 10)), _line((0, 6)), 0.5).detected == 1


def test_of_equal_overlaps_the_better_one_is_taken_whatever_its_place() -> None:
    # One reference, touched equally by a prediction that is all within it and by one that goes on elsewhere.
    reference, prediction = _line((20, 30), (36, 50)), _line((20, 23), (27, 48))
    for flipped in (slice(None), slice(None, None, -1)):
        masks = reference[..., flipped], prediction[..., flipped]
        assert _counts(*masks, 0.5) == Counts(2, 2, 1, 1)


def test_the_scorers_union_depends_on_ids() -> None:
    # The same lesion and prediction: as the first of its map its union is whole, as the second it is the reference.
    reference, prediction = _line((10, 20)), _line((0, 40))
    assert _strict(reference, prediction, 0.5) == 0
    before = _rows(((0, 1),), ((10, 20),)), _rows((), ((0, 40),))
    assert _strict(*before, 0.5) == 1
    assert _counts(*before, 0.5) == Counts(2, 1, 0, 0)


def test_an_id_that_is_0_in_8_bits_is_not_scored() -> None:
    mask = np.zeros((1, 2, 514), bool)
    mask[0, 0, 0:512:2] = True
    table = Contingency.of(mask, mask)
    ids = list(range(257))
    found = detect_as_scorer(table, ids, ids, 0.5)
    assert found.counts.detected == 256
    assert len(found.lesions) == 255


def test_the_scorer_crashes_without_a_reference() -> None:
    empty, mask = _line(), _line((0, 3))
    with pytest.raises(ValueError, match="crashes"):
        _strict(empty, mask, 0.5)
    assert _counts(empty, mask, 0.5) == Counts(0, 1, 0, 0)
    assert _counts(empty, empty, 0) == Counts()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**20), axes=st.permutations(range(3)))
def test_ids_are_those_of_scipys_labelling(seed: int, axes: list[int]) -> None:
    mask = _blobs(seed).transpose(axes)
    expected, count = ndimage.label(mask)
    labels, _ = label_components(mask[::-1].transpose(2, 0, 1))
    ids = np.array(scorer_ids(labels.transpose(1, 2, 0)[::-1], count))
    assert np.array_equal(ids[labels.transpose(1, 2, 0)[::-1]], expected)


def test_counts_add_up() -> None:
    total = Counts(4, 5, 2, 1) + Counts(4, 5, 4, 4)
    assert total == Counts(8, 10, 6, 5)
    assert total.as_json()["FN"] == 2
