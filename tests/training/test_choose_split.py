"""Which cases train: the data set's own split where it has one, and never the test part by accident."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from volattn.datasets.splits import make_split
from volattn.training.recipe import Recipe
from volattn.training.run import choose_split

SUBSETS = {f"{patient}_{n}": part for patient, part in enumerate(["train"] * 6 + ["val", "test"]) for n in (1, 2)}


def store(subset_of: dict[str, str]) -> Any:
    return SimpleNamespace(
        names=tuple(SUBSETS), subsets=subset_of, patients={name: name[0] for name in SUBSETS}, path=Path("store")
    )


def test_without_a_split_of_its_own_the_recipe_decides_by_patient() -> None:
    chosen = choose_split(store({}), Recipe(seed=4), None, ())
    assert chosen == make_split(tuple(SUBSETS), 4, 0.25, patients={name: name[0] for name in SUBSETS})
    assert {name[0] for name in chosen.train} & {name[0] for name in chosen.validation} == set()


@pytest.mark.parametrize(
    ("subsets", "trained", "validated"),
    [((), "train", "val"), (("train",), "train", "val"), (("train", "val"), "train val", "")],
)
def test_the_parts_that_are_asked_for_train(subsets: tuple[str, ...], trained: str, validated: str) -> None:
    chosen = choose_split(store(SUBSETS), Recipe(), None, subsets)
    assert {SUBSETS[name] for name in chosen.train} == set(trained.split())
    assert {SUBSETS[name] for name in chosen.validation} == set(validated.split())


@pytest.mark.parametrize(("subsets", "parts"), [((), {"train", "val"}), (("train",), {"train"})])
def test_folds_leave_the_test_part_alone(subsets: tuple[str, ...], parts: set[str]) -> None:
    chosen = choose_split(store(SUBSETS), Recipe(), "1/3", subsets)
    assert {SUBSETS[name] for name in (*chosen.train, *chosen.validation)} == parts
    assert chosen.fold == "1/3"
    assert {name[0] for name in chosen.train} & {name[0] for name in chosen.validation} == set()


def test_parts_of_a_data_set_without_any() -> None:
    with pytest.raises(ValueError, match="store: has no split of its own; leave out --subset"):
        choose_split(store({}), Recipe(), None, ("train",))
