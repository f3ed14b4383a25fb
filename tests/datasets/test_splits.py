"""Splits: by patient, seeded, complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.datasets.splits import Split, make_split, official_split

name_sets = st.sets(st.integers(0, 500), min_size=1, max_size=60).map(
    lambda numbers: [f"volume-{number}" for number in numbers]
)


@given(name_sets, st.integers(0, 1000), st.floats(0, 0.9))
@settings(max_examples=40)
def test_a_split_is_a_partition_of_the_asked_size(names: list[str], seed: int, fraction: float) -> None:
    split = make_split(names, seed, fraction)
    assert sorted(split.train + split.validation) == sorted(names)
    assert split.train, "something is always trained on"
    if len(names) > 1 and fraction:
        assert len(split.validation) == min(max(round(len(names) * fraction), 1), len(names) - 1)
    assert split == make_split(names[::-1], seed, fraction), "the order of the names does not matter"


@given(name_sets, st.integers(0, 1000), st.integers(2, 7))
@settings(max_examples=40)
def test_folds_validate_each_case_once(names: list[str], seed: int, parts: int) -> None:
    if parts > len(names):
        with pytest.raises(ValueError, match="folds"):
            make_split(names, seed, fold=f"1/{parts}")
        return
    splits = [make_split(names, seed, fold=f"{part}/{parts}") for part in range(1, parts + 1)]
    assert sorted(name for split in splits for name in split.validation) == sorted(names)
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    assert all(sorted(split.train + split.validation) == sorted(names) for split in splits)


def test_the_papers_split() -> None:
    names = [f"volume-{number}" for number in range(131)]
    split = make_split(names, 0)
    assert (len(split.train), len(split.validation)) == (98, 33)
    assert split != make_split(names, 1)
    assert split.train == tuple(name for name in names if name in set(split.train)), "natural order"


def test_a_split_never_changes() -> None:
    """Runs made years apart must compare: the split of a seed is part of the format."""
    assert make_split([f"volume-{number}" for number in range(10)], 0).validation == ("volume-6", "volume-8")


def test_cases_of_one_patient_stay_together() -> None:
    patients = {f"{patient}-{scan}": patient for patient in "abcdefgh" for scan in range(3)}
    split = make_split(list(patients), 0, patients=patients)
    assert not {patients[name] for name in split.train} & {patients[name] for name in split.validation}
    assert len({patients[name] for name in split.validation}) == 2


def test_splits_survive_a_file(tmp_path: Path) -> None:
    split = make_split(["a", "b", "c", "d", "e"], 3, fold="2/5")
    split.write(tmp_path / "split.json")
    assert Split.read(tmp_path / "split.json") == split


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1", "a/b", "1/1", "1/5/2", "-1/5"])
def test_malformed_folds(fold: str) -> None:
    with pytest.raises(ValueError, match="k/n"):
        make_split([str(number) for number in range(10)], 0, fold=fold)


@pytest.mark.parametrize(("names", "fraction"), [([], 0.25), (["a", "a"], 0.25), (["a"], 1.0), (["a"], -0.1)])
def test_impossible_splits(names: list[str], fraction: float) -> None:
    with pytest.raises(ValueError, match=r"different names|fraction"):
        make_split(names, 0, fraction)


def test_a_case_cannot_both_train_and_validate() -> None:
    with pytest.raises(ValueError, match="cannot both train and validate"):
        Split.parse({"train": ["a"], "validation": ["a"], "seed": 0}, "split.json")


SUBSETS = {"a_2": "test", "a_10": "train", "a_1": "val", "a_3": "train"}


def test_the_official_split_is_taken_as_it_is() -> None:
    split = official_split(SUBSETS, ("train",), 3, "store")
    assert (split.train, split.validation) == (("a_3", "a_10"), ("a_1",))
    assert (split.seed, split.fold) == (3, None)


def test_what_trains_does_not_validate() -> None:
    split = official_split(SUBSETS, ("train", "val"), 3, "store")
    assert (split.train, split.validation) == (("a_1", "a_3", "a_10"), ())


def test_a_split_or_subset_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="store: has no split of its own; leave out --subset"):
        official_split({}, ("train",), 0, "store")
    with pytest.raises(ValueError, match="store: has no subset exam"):
        official_split(SUBSETS, ("exam",), 0, "store")
