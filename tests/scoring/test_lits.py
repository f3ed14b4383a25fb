"""The challenge's own scores: the official pairs, and the scorer written down voxel by voxel."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import challenge_scorer
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from volattn.scoring import overlap
from volattn.scoring.lits import LitsCase, lits_scheme, score_lits, score_lits_files
from volattn.scoring.lits_folders import lits_content, pool_lits
from volattn.scoring.overlap import LabelPair
from volattn.scoring.score_files import read_scores, write_scores
from volattn.structures.geometry import Geometry, Turn
from volattn.structures.volume import Volume

SPACING = (2.5, 0.8, 0.7)
SCHEME = lits_scheme()
DETECTION = {"lesion_detection", "counts"}

pytestmark = pytest.mark.usefixtures("few_resamples")


def _case(reference: np.ndarray, prediction: np.ndarray, *, strict: bool = False, turn: Turn | None = None) -> LitsCase:
    """Scores label maps in canonical axes, or in those that a turn made of them."""
    shape = reference.shape if turn is None else turn.undo(reference).shape
    geometry = Geometry.aligned(shape, SPACING)
    if turn is not None:
        geometry = geometry.turned(turn)
    pair = LabelPair.of(
        Volume(reference, geometry), Volume(prediction, geometry), (SCHEME, SCHEME), ("reference", "prediction")
    )
    return score_lits("a", pair, pair.geometry.spacing, strict=strict)


def _scores(cases: Sequence[tuple[np.ndarray, np.ndarray]], *, strict: bool = False) -> dict[str, Any]:
    return pool_lits([_case(*case, strict=strict) for case in cases])


def _by_scorer(cases: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    turned = [(reference.T, prediction.T, SPACING[::-1]) for reference, prediction in cases]
    return challenge_scorer.score(turned)


def _assert_shared(scores: dict[str, Any], expected: dict[str, Any], *, but: Set[str] = frozenset()) -> None:
    for section in expected.keys() - but:
        for key, value in expected[section].items():
            found = scores[section][key]
            if isinstance(value, dict):
                found = {name: found[name] for name in value}
            assert found == pytest.approx(value, abs=1e-6, rel=1e-9), f"{section} {key}"


def _maps(seed: int, shape: tuple[int, int, int] = (7, 20, 22)) -> tuple[np.ndarray, np.ndarray]:
    """A liver with lesions, some touching; a prediction that moves, drops, joins and invents some of them."""
    generator = np.random.default_rng(seed)
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for labels in (reference, prediction):
        low = generator.integers(0, 4, 3)
        labels[tuple(slice(a, b - c) for a, b, c in zip(low, shape, generator.integers(0, 4, 3), strict=True))] = 1
    for _ in range(generator.integers(1, 9)):
        low = generator.integers(0, np.subtract(shape, 3))
        size = generator.integers(1, 6, 3)
        reference[_box(low, size, shape)] = 2
        for _ in range(generator.integers(0, 3)):
            prediction[_box(low + generator.integers(-1, 2, 3), size + generator.integers(-1, 3, 3), shape)] = 2
    for _ in range(generator.integers(0, 4)):
        prediction[_box(generator.integers(0, np.subtract(shape, 2)), generator.integers(1, 4, 3), shape)] = 2
    return reference, prediction


def _box(low: np.ndarray, size: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    low = np.clip(low, 0, None)
    return tuple(slice(int(a), int(min(a + max(b, 1), c))) for a, b, c in zip(low, size, shape, strict=True))


@pytest.mark.parametrize("strict", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_official_pairs(shared_data: Path, strict: bool) -> None:
    folder = shared_data / "lits_scoring"
    names = [f"segmentation-{number}.nii.gz" for number in range(3)]
    scores = pool_lits(
        [
            score_lits_files(name, folder / "reference" / name, folder / "prediction" / name, SCHEME, strict=strict)
            for name in names
        ]
    )
    official = json.loads((folder / "official_scores.json").read_text())
    _assert_shared(scores, official, but=set() if strict else DETECTION)
    counted = {
        float(threshold): tuple(counts[key] for key in ("TP", "references", "predictions_taking_part", "predictions"))
        for threshold, counts in scores["counts"].items()
    }
    assert counted == (
        {0.0: (23, 24, 23, 24), 0.5: (16, 24, 16, 24)} if strict else {0.0: (24, 24, 23, 24), 0.5: (17, 24, 17, 24)}
    )


@settings(deadline=None, max_examples=60)
@given(seeds=st.lists(st.integers(0, 2**20), min_size=1, max_size=3))
@pytest.mark.slow
def test_strict_is_the_scorer(seeds: list[int]) -> None:
    cases = [_maps(seed) for seed in seeds]
    expected = _by_scorer(cases)
    _assert_shared(_scores(cases, strict=True), expected)
    _assert_shared(_scores(cases), expected, but=DETECTION)


@pytest.mark.parametrize("count", [260, 520])
@pytest.mark.slow
def test_ids_beyond_8_bits(count: int) -> None:
    generator = np.random.default_rng(count)
    reference, prediction = np.ones((2, 65, 42), np.uint8), np.ones((2, 65, 42), np.uint8)
    places = [(y, x) for y in range(0, 64, 2) for x in range(0, 40, 2)]
    chosen = [places[index] for index in sorted(generator.permutation(len(places))[:count])]
    for y, x in chosen:
        reference[0, y, x] = 2
        if generator.random() < 0.9:
            prediction[0, y, x] = 2
        if generator.random() < 0.2:
            prediction[0, y, x + 1] = 2
        if generator.random() < 0.1:
            prediction[0, y + 1, x] = 2
    _assert_shared(_scores([(reference, prediction)], strict=True), _by_scorer([(reference, prediction)]))


def test_more_false_alarms_than_hits_is_fewer_than_none(tmp_path: Path) -> None:
    reference, prediction = np.ones((1, 12, 60), np.uint8), np.ones((1, 12, 60), np.uint8)
    reference[0, 2, 2:20:4] = 2
    prediction[0, 1:11, 0:30] = 2
    reference[0, 5, 40:44] = prediction[0, 5, 40:44] = 2
    scores = _scores([(reference, prediction)], strict=True)
    assert scores["counts"]["0.5"]["TP"] == 2 - 5
    assert scores["lesion_detection"]["recall"] == pytest.approx(-3 / 6)
    assert scores["lesion"]["assd"] == 9001, "what is left is not scored then"
    assert scores["detected_lesion"]["assd"] == 0
    _assert_shared(scores, _by_scorer([(reference, prediction)]))
    content = lits_content([_case(reference, prediction, strict=True)], SCHEME, {}, strict=True)
    write_scores(tmp_path / "scores.json", content)
    assert read_scores(tmp_path / "scores.json")["counts"]["0.5"]["TP"] == 2 - 5


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 2**20),
    axes=st.permutations(range(3)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_the_scorers_ids_follow_the_files_axes(seed: int, axes: list[int], flips: tuple[bool, bool, bool]) -> None:
    turn = Turn((axes[0], axes[1], axes[2]), flips)
    reference, prediction = (np.ascontiguousarray(turn.apply(labels)) for labels in _maps(seed))
    case = _case(reference, prediction, strict=True, turn=turn)
    spacing = Geometry.aligned((1, 1, 1), SPACING).turned(turn).spacing
    expected = challenge_scorer.score([(reference.T, prediction.T, spacing[::-1])])
    _assert_shared(pool_lits([case]), expected)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**20),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_flips_and_padding_change_nothing(seed: int, flips: tuple[bool, bool, bool], pad: tuple[int, int]) -> None:
    maps = _maps(seed)
    assume(not _ties(*maps))
    axes = tuple(axis for axis, flip in enumerate(flips) if flip)
    changed = [np.pad(np.flip(labels, axes), (pad, pad[::-1], pad)) for labels in maps]
    before, after = _scores([maps]), _scores([(changed[0], changed[1])])
    for section in ("lesion_detection", "liver", "tumor_burden", "detected_lesion", "agreement", "by_size"):
        for key, value in before[section].items():
            assert after[section][key] == pytest.approx(value, abs=1e-9), f"{section} {key}"
    assert after["counts"] == before["counts"]


def _ties(reference: np.ndarray, prediction: np.ndarray) -> bool:
    """Whether two components overlap a third equally."""
    table = LabelPair.cropped(reference, prediction, Geometry.aligned(reference.shape, SPACING)).lesions
    for mine in (table.pair_references, table.pair_predictions):
        claims = list(zip(mine.tolist(), table.pair_voxels.tolist(), strict=True))
        if len(set(claims)) < len(claims):
            return True
    return False


def test_other_label_numbers_change_nothing() -> None:
    maps = _maps(3)
    scheme = lits_scheme(organ=6, lesion=4)
    table = np.array([0, 6, 4], np.uint8)
    geometry = Geometry.aligned(maps[0].shape, SPACING)
    pair = LabelPair.of(
        Volume(table[maps[0]], geometry), Volume(table[maps[1]], geometry), (scheme, scheme), ("r", "p")
    )
    assert score_lits("a", pair, geometry.spacing) == _case(*maps)


class TestWithoutSomething:
    """Masks that lack what others have."""

    def test_no_lesion_in_the_reference(self) -> None:
        reference, prediction = np.ones((3, 9, 9), np.uint8), np.ones((3, 9, 9), np.uint8)
        prediction[1, 2:5, 2:5] = 2
        with pytest.raises(ValueError, match="scorer crashes"):
            _case(reference, prediction, strict=True)
        scores = _scores([(reference, prediction), _maps(4)])
        alone = _scores([_maps(4)])
        assert scores["lesion"]["assd"] == alone["lesion"]["assd"]
        assert scores["counts"]["0"]["FP"] == alone["counts"]["0"]["FP"] + 1
        assert scores["per_case"]["lesion_dice"][0] == 0

    def test_nothing_at_all(self) -> None:
        empty = np.zeros((3, 9, 9), np.uint8)
        scores = _scores([(empty, empty)])
        assert scores["per_case"]["lesion_dice"] == [1]
        assert scores["per_case"]["liver_dice"] == [0]
        assert scores["lesion_detection"]["recall"] == 0
        assert scores["lesion"]["dice_global"] == 1

    def test_nothing_detected(self) -> None:
        reference, prediction = np.ones((3, 9, 9), np.uint8), np.ones((3, 9, 9), np.uint8)
        reference[1, 1, 1] = prediction[1, 7, 7] = 2
        for strict in (True, False):
            lesion = _scores([(reference, prediction)], strict=strict)["lesion"]
            assert {key: lesion[key] for key in challenge_scorer.METRICS} == challenge_scorer.MISSING

    @pytest.mark.parametrize("strict", [True, False])
    def test_no_voxel_with_the_livers_label(self, strict: bool) -> None:
        reference, prediction = _maps(8)
        cases = [(reference, np.where(prediction == 2, 2, 0).astype(np.uint8)), _maps(9)]
        scores = _scores(cases, strict=strict)
        assert scores["per_case"]["liver_dice"][0] == 0
        assert scores["tumor_burden"]["rmse"] > 1000
        assert scores["cases"][0]["liver"]["assd"] == 9001
        _assert_shared(scores, _by_scorer(cases), but=set() if strict else DETECTION)

    def test_no_liver_asked_for(self) -> None:
        maps = [np.where(labels == 2, 1, 0).astype(np.uint8) for labels in _maps(5)]
        scheme = lits_scheme(organ=None, lesion=1)
        geometry = Geometry.aligned(maps[0].shape, SPACING)
        pair = LabelPair.of(Volume(maps[0], geometry), Volume(maps[1], geometry), (scheme, scheme), ("r", "p"))
        case = score_lits("a", pair, geometry.spacing, liver=False)
        full = _case(*_maps(5))
        assert (case.scored, case.detection) == (full.scored, full.detection)
        scores = pool_lits([case])
        assert scores["liver"] is None
        assert scores["tumor_burden"] is None
        assert scores["per_case"]["liver_dice"] == []


@pytest.mark.parametrize("strict", [True, False])
def test_many_lesions_cost_what_their_surfaces_do(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    trees: list[int] = []

    def counted(points: np.ndarray, **options: Any) -> cKDTree:
        trees.append(len(points))
        return cKDTree(points, **options)

    monkeypatch.setattr(overlap, "cKDTree", counted)
    reference, prediction = np.ones((4, 150, 60), np.uint8), np.ones((4, 150, 60), np.uint8)
    for y, x in itertools.product(range(0, 150, 15), range(0, 60, 10)):
        reference[:3, y : y + 10, x : x + 6] = 2
        prediction[:3, y + 1 : y + 10, x : x + 7] = 2
    case = _case(reference, prediction, strict=strict)
    assert len(case.detected) == 60
    if not strict:
        assert case.detection[0.5].detected == case.detection[0.0].taking_part == 60
    everything = int((reference == 2).sum() + (prediction == 2).sum())
    assert sum(trees) < 4 * everything, "both countings, and all lesions together"


def test_labels_are_different_numbers() -> None:
    for values in ((1, 1), (0, 2), (1, 256)):
        with pytest.raises(ValueError, match="different whole numbers"):
            lits_scheme(*values)
