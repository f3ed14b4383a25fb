"""Every target once, next to its neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volattn.slabs.epoch import EMPTY, ORGAN_ONLY, WITH_LESION, plan_epoch

volumes = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.booleans(), min_size=1, max_size=50).map(lambda filled: np.array(filled)),
    min_size=1,
)


shares = st.sampled_from([0, 0.1, 0.25, 0.5, 0.9, 1])


def options(**changes):
    return {"targets": 4, "empty_share": 0.25, "seed": 3, "epoch": 0, **changes}


def visited(groups):
    return sorted((group.case, z) for group in groups for z in group.targets)


@given(volumes, st.integers(1, 6), shares, st.integers(0, 9))
def test_each_target_once_in_groups_of_neighbours(filled, targets, share, epoch):
    groups = plan_epoch(filled, **options(targets=targets, empty_share=share, epoch=epoch))
    seen = visited(groups)
    assert len(seen) == len(set(seen))
    assert {(case, z) for case, marks in filled.items() for z in np.flatnonzero(marks)} <= set(seen)
    for group in groups:
        assert 1 <= len(group.targets) <= targets
        assert list(group.targets) == sorted(group.targets)
        assert {z % 3 for z in group.targets} == {group.targets[0] % 3}
        assert group.targets[-1] - group.targets[0] <= 3 * (targets - 1)
    empty = sum(not filled[case][z] for case, z in seen)
    available = sum(int((~marks).sum()) for marks in filled.values())
    if share == 1:
        assert empty == available
    else:
        assert empty <= share * len(seen) + 1e-9
        one_more_would_be_too_many = (empty + 1) > share * (len(seen) + 1) - 1e-9
        assert empty == available or one_more_would_be_too_many


def test_neighbours_share_slabs():
    groups = plan_epoch({"a": np.ones(60, bool)}, **options())
    # 20 targets a residue: one group cut short at each end, the others full.
    assert len(groups) <= 3 * 6
    for group in groups:
        assert set(np.diff(group.targets)) <= {3}


def test_epochs_differ_and_repeat():
    filled = {"a": np.arange(90) % 9 < 5, "b": np.arange(40) > 20}
    first, again, other, seeded = (
        plan_epoch(filled, **options(**changes)) for changes in ({}, {}, {"epoch": 1}, {"seed": 4})
    )
    assert first == again
    assert first != other
    assert first != seeded
    assert visited(first) != visited(other)  # Other empty slices,
    full = {group.targets for group in first if group.case == "b"}
    assert full != {group.targets for group in other if group.case == "b"}  # and other neighbours.


def test_plan_changes_nothing_of_what_it_reads():
    filled = {"a": np.arange(30) < 10}
    plan_epoch(filled, **options(empty_share=1))
    assert filled["a"].tolist() == [z < 10 for z in range(30)]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_nothing_to_learn_is_an_empty_epoch(share):
    assert plan_epoch({"a": np.zeros(9, bool)}, **options(empty_share=share)) == ()


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40).map(lambda row: np.array(row, np.uint8)), max_size=3),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 0.35, 1.0]),
)
def test_shares_of_what_slices_show(rows, empty_share, organ_share):
    shown = {str(case): row for case, row in enumerate(rows)}
    groups = plan_epoch(shown, **options(empty_share=empty_share, organ_share=organ_share))
    seen = [int(shown[group.case][z]) for group in groups for z in group.targets]
    empty, organ, lesion = (seen.count(kind) for kind in (EMPTY, ORGAN_ONLY, WITH_LESION))
    there = [sum(int((row == kind).sum()) for row in rows) for kind in (EMPTY, ORGAN_ONLY, WITH_LESION)]
    assert lesion == there[WITH_LESION]
    if organ_share == 1 or lesion == 0:
        assert organ == there[ORGAN_ONLY]
    else:
        assert organ <= organ_share * (organ + lesion) + 1e-6
        assert organ == min(there[ORGAN_ONLY], int(organ_share / (1 - organ_share) * lesion + 1e-6))
    if empty_share == 1:
        assert empty == there[EMPTY]
    else:
        assert empty == min(there[EMPTY], int(empty_share / (1 - empty_share) * (organ + lesion) + 1e-6))
