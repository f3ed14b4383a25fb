"""One case: organ and lesions, in any axis order."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scored_cases import SPACING, case, label_map

from volattn.datasets.case import LabelScheme
from volattn.scoring.cases import score_volumes
from volattn.structures.geometry import Geometry, Turn
from volattn.structures.volume import Volume

SCHEME = LabelScheme(organ_name="liver", organ_values=(1,), lesion_name="tumour", lesion_values=(2,))
REFERENCE = label_map((10, 10, 8), (30, 30, 4))
PREDICTION = label_map((10, 12, 8), (20, 20, 2))


def _volume(labels: np.ndarray, turn: Turn | None = None, shift: float = 0.0) -> Volume:
    geometry = Geometry.aligned(labels.shape, SPACING, (shift, 0, 0))
    if turn is not None:
        labels, geometry = turn.apply(labels), geometry.turned(turn)
    return Volume(labels, geometry)


def test_the_organ_includes_its_lesions() -> None:
    reference = label_map((5, 5, 10))
    prediction = np.where(reference == 2, 1, reference).astype(np.uint8)
    score = case("a", reference, prediction)
    assert score.organ is not None
    assert (score.organ.dice, score.lesion.dice) == (1, 0)


def test_values_by_hand() -> None:
    score = case("a", REFERENCE, PREDICTION)
    assert score.lesion.dice == pytest.approx(2 * 48 / (80 + 68))
    assert score.as_json()["lesion"]["reference_ml"] == pytest.approx(80 * 5 / 1000)
    assert [lesion.dice for lesion in score.lesionwise.lesions] == [pytest.approx(0.75), 0]
    assert score.lesionwise.false_positives == 1
    assert [lesion.long_axis_mm for lesion in score.lesionwise.lesions] == [
        pytest.approx(8 * np.sqrt(2)),
        pytest.approx(4 * np.sqrt(2)),
    ]


def test_data_with_lesions_only() -> None:
    score = case("a", REFERENCE, PREDICTION, organ=False)
    assert score.organ is None
    assert json.loads(json.dumps(score.as_json()))["organ"] is None


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, True, True), (True, False, False)])
def test_axis_order_of_the_file_changes_nothing(axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> None:
    turn = Turn(axes, flips)
    upright = score_volumes("a", _volume(REFERENCE), _volume(PREDICTION), SCHEME)
    turned = score_volumes("a", _volume(REFERENCE, turn), _volume(PREDICTION, turn), SCHEME)
    assert turned.lesion == upright.lesion
    assert turned.organ == upright.organ
    assert [(lesion.dice, lesion.long_axis_mm) for lesion in turned.lesionwise.lesions] == [
        pytest.approx((lesion.dice, lesion.long_axis_mm)) for lesion in upright.lesionwise.lesions
    ]


def test_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"case 7.*0\.5 mm"):
        score_volumes("case 7", _volume(REFERENCE), _volume(PREDICTION, shift=0.5), SCHEME)
    with pytest.raises(ValueError, match="voxels, not"):
        score_volumes("case 7", _volume(REFERENCE), _volume(PREDICTION[:-1]), SCHEME)


def test_an_unknown_value_in_the_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a \(prediction\): label 3"):
        score_volumes("a", _volume(REFERENCE), _volume(np.where(PREDICTION == 2, 3, 0).astype(np.uint8)), SCHEME)
