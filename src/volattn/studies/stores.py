"""What all rows and seeds of a study share: the split of the cases, and the weights that rows start from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save

from volattn import checkpoints
from volattn.config import Config
from volattn.datasets.case import natural_key
from volattn.datasets.splits import make_split
from volattn.io.files import atomic_path, write_text
from volattn.models.registry import build_model
from volattn.models.weights import load_weights
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.store import STORE, Store
from volattn.studies.definition import RowRecipe
from volattn.training.folder import differences

TRAIN, VALIDATION, TEST = "train", "val", "test"


class SplitConfig(Config):
    """How a data set without an official split is split by patient: the share to test on; of the others, to validate.

    The seed is that of the split, not that of the training.
    """

    seed: int = 0
    test: float = 0.25
    validation: float = 0.2


def split_store(store: Store, config: SplitConfig) -> dict[str, str]:
    """The subset of each case: train, val or test.

    The data set's own subsets are kept; one that it lacks is taken from its training cases. The split does not depend
    on the order or the scale of the store's cases.

    Raises:
        ValueError: There are too few patients for three subsets.
    """
    parts = {name: store.subsets.get(name, TRAIN) for name in store.names}
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
    """The cases of a subset, in natural order."""
    return sorted((name for name, one in parts.items() if one == part), key=natural_key)


def write_view(store: Store, parts: Mapping[str, str], path: Path) -> Store:
    """Writes a store with these subsets that links to the cases of another one; it may be there already."""
    path.mkdir(parents=True, exist_ok=True)
    link = path / "cases"
    if not link.is_symlink():
        with suppress(FileExistsError):  # Another process of this study was faster.
            link.symlink_to(os.path.relpath((store.path / "cases").resolve(), path.resolve()), True)
    described = store.description.model_copy(update={"subsets": dict(parts)})
    write_text(path / STORE, described.text("json"))
    return Store.open(path)


def choose_store(stores: Sequence[Store], plan: Plan, recipe: Path) -> Store:
    """The store that is prepared by a recipe's plan; errors name the recipe's file.

    Raises:
        ValueError: None is.
    """
    for store in stores:
        if store.plan == plan:
            return store
    differing = differences(stores[0].plan.model_dump(), plan.model_dump())
    raise ValueError(
        f"no store is prepared by its recipe's plan (plan.{differing[0]}); make one with `volattn prepare DATASET -o "
        f"STORE --recipe {recipe}`, and give it as one more --data"
    )


def check_unseen(weights: str, store: Store) -> None:
    """Refuses weights that were trained or validated on a test case; only run folders and the demo's list their cases.

    Raises:
        ValueError: They were.
    """
    if not is_run(weights) and weights != "demo":
        return
    provenance = checkpoints.read_folder(weights).provenance
    for name in cases_of(store.subsets, TEST):
        if provenance is not None and provenance.seen(store.case(name).description.image_sha256) is not None:
            raise ValueError(
                f"{weights}: was trained or validated on {name}, which this study scores; start from weights that have "
                f"not seen its test cases, or give another --split-seed"
            )


def is_run(weights: str | None) -> bool:
    """Whether weights are a run folder."""
    return weights is not None and (Path(weights) / checkpoints.CONFIG).is_file()


def share_start(rows: Sequence[RowRecipe], weights: str, classes: Sequence[str], path: Path) -> list[RowRecipe]:
    """Lets rows start from those tensors of a run that all of them can load.

    A row whose model is the run's could load all of it, the last layers too, and would be ahead of the others. The
    tensors are written to `path`; rows that start from other weights stay as they are.
    """
    loaded = {}
    for row in rows:
        if row.recipe is not None and row.recipe.weights == weights:
            model = build_model(row.recipe.model, classes)
            try:
                copied = load_weights(model, weights, attention=row.recipe.attention_weights).copied
            except ValueError:  # The row's own run reports it.
                continue
            loaded[row.row.key] = set(copied)
    if not loaded:
        return list(rows)
    shared = set.intersection(*loaded.values())
    source, folder = checkpoints.load_folder(weights)
    state = {name: tensor.contiguous() for name, tensor in source.state_dict().items() if name in shared}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(state))
    changed = []
    for row in rows:
        if row.recipe is not None and row.row.key in loaded:
            config = row.recipe.model.with_norm_eps(folder.model.norm_eps)  # The file does not hold it.
            row = replace(row, recipe=row.recipe.model_copy(update={"weights": str(path), "model": config}))
        changed.append(row)
    return changed
