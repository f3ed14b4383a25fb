"""Bootstrap, tests of differences, and agreement."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from volattn.scoring.statistics import Agreement, few_warning, holm, percentile_interval, resamples, wilcoxon_p


def test_samples_are_of_patients_and_of_a_seed() -> None:
    drawn = np.stack(list(resamples(7, seed=3, count=50)))
    assert drawn.shape == (50, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert np.array_equal(drawn, np.stack(list(resamples(7, seed=3, count=50))))
    assert not np.array_equal(drawn, np.stack(list(resamples(7, seed=4, count=50))))


def test_an_interval_of_means_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(5, 2, 200)
    weights = np.stack(list(resamples(200, seed=0)))
    low, high = percentile_interval(weights @ values / 200)
    error = 1.96 * values.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.06)


def test_undefined_samples_do_not_count() -> None:
    values = np.array([[np.nan, 1.0], [np.nan, 2.0], [np.nan, np.nan]])
    interval = percentile_interval(values)
    assert np.isnan(interval[:, 0]).all()
    assert interval[:, 1] == pytest.approx([1.025, 1.975])


def test_wilcoxon() -> None:
    differences = np.array([0.3, 0.1, -0.2, 0.5, 0.9, 0.4])
    # Exact: of the 2^6 signs, those that give a rank sum as small as that of the only negative (rank 2).
    assert wilcoxon_p(differences) == pytest.approx(2 * 3 / 64)
    assert wilcoxon_p(np.zeros(4)) is None
    assert wilcoxon_p(np.zeros(0)) is None


def test_holm_is_the_step_down_of_bonferroni() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    ps = np.random.default_rng(0).random(20) * 0.1
    rejected = np.array([p is not None and p < 0.05 for p in holm(ps.tolist())])
    order = np.argsort(ps)
    passed = np.cumprod(ps[order] < 0.05 / np.arange(20, 0, -1)).astype(bool)
    assert np.array_equal(rejected[order], passed)


def test_few_patients_are_warned_of() -> None:
    assert few_warning(3, "case") == "; with only 3 cases they are too narrow"
    assert few_warning(1, "case") == few_warning(10, "case") == ""


def test_limits_of_agreement() -> None:
    agreement = Agreement.of([(10.0, 11.0), (20.0, 23.0), (30.0, 32.0)])
    assert (agreement.n, agreement.bias, agreement.sd) == (3, pytest.approx(2), pytest.approx(1))
    assert (agreement.lower, agreement.upper) == (pytest.approx(2 - 1.96), pytest.approx(2 + 1.96))


def test_agreement_of_too_few_measures() -> None:
    assert asdict(Agreement.of([])) == {"n": 0, "bias": None, "sd": None, "lower": None, "upper": None}
    assert (Agreement.of([(2.0, 1.5)]).bias, Agreement.of([(2.0, 1.5)]).sd) == (-0.5, None)
