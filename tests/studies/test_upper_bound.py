"""A perfect detector is as good as its resolution lets it be."""

from __future__ import annotations

import numpy as np
import pytest

from volattn.datasets.case import LabelScheme
from volattn.models.detectors.rcnn import MaskRCNNConfig
from volattn.preprocessing.plan import Plan
from volattn.scoring.cases import CaseScore, score_case
from volattn.structures.geometry import Geometry, Turn
from volattn.structures.volume import Volume
from volattn.studies.scoring import perfect_labels

SCHEME = LabelScheme(organ_name="liver", organ_values=(1,), lesion_values=(2,))
SPACING = (3.0, 1.0, 1.0)


def _ball(centre: tuple[float, float, float], radius: float, shape: tuple[int, int, int]) -> np.ndarray:
    grids = np.meshgrid(*(np.arange(size) * step for size, step in zip(shape, SPACING, strict=True)), indexing="ij")
    return sum((grid - place) ** 2 for grid, place in zip(grids, centre, strict=True)) <= radius**2


def _reference(shape: tuple[int, int, int] = (20, 96, 128)) -> np.ndarray:
    labels = _ball((30, 48, 60), 27, shape).astype(np.uint8)
    labels[_ball((30, 48, 50), 9, shape)] = 2
    labels[_ball((36, 40, 75), 4, shape)] = 2
    return labels


def _bound(plan: Plan, turn: Turn | None = None) -> CaseScore:
    labels = _reference()
    geometry = Geometry.aligned(labels.shape, SPACING)
    volume = Volume(labels, geometry) if turn is None else Volume(turn.apply(labels), geometry.turned(turn))
    return score_case("ball", labels, perfect_labels(volume, SCHEME, plan, MaskRCNNConfig()), geometry)


def test_its_own_resolution_loses_next_to_nothing() -> None:
    bound = _bound(Plan(z_spacing=None, size=128))
    assert bound.organ is not None
    assert bound.organ.dice > 0.97
    assert bound.lesion.dice > 0.96


def test_coarser_is_worse() -> None:
    dice = [_bound(Plan(z_spacing=step, size=size)).lesion.dice for step, size in ((3.0, 128), (3.0, 64), (6.0, 48))]
    assert dice[0] > dice[1] > dice[2] > 0.4


def test_axis_order_of_the_file_changes_little() -> None:
    plan = Plan(z_spacing=3.0, size=64)
    turned = _bound(plan, Turn((2, 0, 1), (False, False, False)))
    assert turned.lesion.dice == pytest.approx(_bound(plan).lesion.dice, abs=1e-6)
    assert turned.lesionwise.false_positives == 0
