"""The split of a study: which cases train, choose the threshold, and are scored; the same for every row and seed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from volattn.config import Config
from volattn.datasets.case import natural_key
from volattn.datasets.splits import make_split
from volattn.io.atomic import write_text
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.store import STORE, Store
from volattn.training.folder import differences

TRAIN, VALIDATION, TEST = "train", "val", "test"


class SplitConfig(Config):
    """How the cases of a data set without an official split are dealt out, by patient.

    Attributes:
        seed: Another seed gives another split. It is not the seed of the training: all seeds share the split.
        test: Share of the patients that are scored at the end.
        validation: Share of the other patients that choose epoch and threshold.
    """

    seed: int = 0
    test: float = 0.25
    validation: float = 0.2


def split_store(store: Store, config: SplitConfig) -> dict[str, str]:
    """The part of each case: train, val or test.

    The data set's own parts hold as far as it has them; what they lack is taken from the training part. A case stays
    in its part whatever the order or the scale of the store's cases.

    Args:
        store: The cases.
        config: How.

    Raises:
        ValueError: There are too few patients for three parts.
    """
    parts = {name: store.parts.get(name, TRAIN) for name in store.names}
    for part, share in ((TEST, config.test), (VALIDATION, config.validation)):
        if part not in parts.values():
            left = [name for name in store.names if parts[name] == TRAIN]
            patients = store.patients or {}
            if len({patients.get(name, name) for name in left}) > 1:
                chosen = make_split(left, config.seed, share, patients=store.patients).validation
                parts |= dict.fromkeys(chosen, part)
    if set(parts.values()) != {TRAIN, VALIDATION, TEST}:
        raise ValueError(
            f"{store.path}: a study trains, validates and tests on different patients and needs at least three, found "
            f"{len({(store.patients or {}).get(name, name) for name in store.names})}"
        )
    return parts


def cases_of(parts: Mapping[str, str], part: str) -> list[str]:
    """The cases of a part, in natural order."""
    return sorted((name for name, one in parts.items() if one == part), key=natural_key)


def write_view(store: Store, parts: Mapping[str, str], path: Path) -> Store:
    """Writes a store that has these parts and shares its arrays with another one.

    Args:
        store: Whose cases they are.
        parts: By case.
        path: The new store's folder; the same content may be there already.
    """
    path.mkdir(parents=True, exist_ok=True)
    link = path / "cases"
    if not link.is_symlink():
        with suppress(FileExistsError):  # Another process of this study was faster.
            link.symlink_to(os.path.relpath((store.path / "cases").resolve(), path.resolve()), True)
    described = store.description.model_copy(update={"parts": dict(parts)})
    write_text(path / STORE, described.text("json"))
    return Store.open(path)


def choose_store(stores: Sequence[Store], plan: Plan, recipe: Path) -> Store:
    """The store that is prepared as a recipe wants it.

    Args:
        stores: At least one.
        plan: The recipe's.
        recipe: Its file; the error names it.

    Raises:
        ValueError: None is.
    """
    for store in stores:
        if store.plan == plan:
            return store
    differing = differences(stores[0].plan.model_dump(), plan.model_dump())
    raise ValueError(
        f"no store is prepared as its recipe wants it (plan.{differing[0]}); make one with `volattn prepare DATASET -o "
        f"STORE --recipe {recipe}`, and give it as one more --data"
    )
