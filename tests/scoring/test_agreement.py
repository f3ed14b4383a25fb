"""Bland and Altman's numbers."""

from __future__ import annotations

import pytest

from volattn.scoring.statistics import Agreement


def test_differences_and_their_limits() -> None:
    agreement = Agreement.of([(10.0, 11.0), (20.0, 23.0), (30.0, 32.0)])
    assert (agreement.n, agreement.bias, agreement.sd) == (3, pytest.approx(2), pytest.approx(1))
    assert (agreement.lower, agreement.upper) == (pytest.approx(2 - 1.96), pytest.approx(2 + 1.96))


def test_too_few() -> None:
    assert Agreement.of([]).as_json() == {"n": 0, "bias": None, "sd": None, "lower": None, "upper": None}
    assert (Agreement.of([(2.0, 1.5)]).bias, Agreement.of([(2.0, 1.5)]).sd) == (-0.5, None)
