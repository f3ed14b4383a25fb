"""Where a run stands: every step belongs to one epoch and has one learning rate."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volattn.training.recipe import ScheduleConfig, Timetable

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(lengths, st.sampled_from(["epochs", "steps"]))
def test_epochs_cut_a_run_into_consecutive_steps(per_epoch: list[int], unit: str) -> None:
    length = len(per_epoch) if unit == "epochs" else max(1, sum(per_epoch) - 1)
    table = Timetable.of(ScheduleConfig(unit=unit, length=length), lambda epoch: per_epoch[epoch])
    assert table.total == (sum(per_epoch) if unit == "epochs" else length)
    steps = [step for epoch in range(len(table.starts)) for step in table.steps(epoch)]
    assert steps == list(range(table.total))
    for epoch in range(len(table.starts)):
        for step in table.steps(epoch):
            assert table.epoch(step) == epoch
            assert table.ends_epoch(step) == (step == table.steps(epoch)[-1])


def test_the_papers_schedule() -> None:
    table = Timetable.of(ScheduleConfig(), lambda epoch: 1000)
    assert table.total == 12_000
    assert table.rate(0) == pytest.approx(1 / 3)
    assert table.rate(250) == pytest.approx(2 / 3)
    assert [table.rate(step) for step in (500, 7999)] == [1, 1]
    assert [table.rate(step) for step in (8000, 10_999)] == pytest.approx([0.1, 0.1])
    assert table.rate(11_999) == pytest.approx(0.01)


def test_milestones_can_be_steps() -> None:
    config = ScheduleConfig(unit="steps", length=10, milestones=(4,), factor=0.5, warmup=0)
    table = Timetable.of(config, lambda epoch: 3)
    assert [table.rate(step) for step in range(10)] == [1] * 4 + [0.5] * 6


def test_a_cosine_falls_to_nothing() -> None:
    config = ScheduleConfig(unit="steps", length=100, decay="cosine", warmup=0)
    table = Timetable.of(config, lambda epoch: 7)
    rates = [table.rate(step) for step in range(100)]
    assert rates[0] == 1
    assert rates[50] == pytest.approx(0.5)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


def test_milestones_must_ascend() -> None:
    with pytest.raises(ValueError, match="must ascend"):
        ScheduleConfig(milestones=(11, 8))
