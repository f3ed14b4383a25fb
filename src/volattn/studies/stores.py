"""The split of a study: which cases train, choose the threshold, and are scored; the same for every row and seed.

Where the rows of a study start: from the same tensors, and from none that know what is scored.
"""

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
from volattn.models.catalogue import build_model
from volattn.models.weights import load_weights
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.store import STORE, Store
from volattn.studies.definition import Resolved
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


def check_unseen(weights: str, store: Store) -> None:
    """Weights that know a held-out case would be scored on what they learned.

    Args:
        weights: As in a recipe; only runs and the demo's say what they know.
        store: With the study's parts.

    Raises:
        ValueError: They were trained or validated on a case of the test part.
    """
    if not is_run(weights) and weights != "demo":
        return
    known = set(checkpoints.read_folder(weights).training.sources.values())
    for name in cases_of(store.parts, TEST):
        if store.case(name).description.image_sha256 in known:
            raise ValueError(
                f"{weights}: was trained or validated on {name}, which this study scores; begin with weights that have "
                f"not seen its test cases, or give another --split-seed"
            )


def is_run(weights: str | None) -> bool:
    """Whether weights are a run folder."""
    return weights is not None and (Path(weights) / checkpoints.CONFIG).is_file()


def share_start(rows: Sequence[Resolved], weights: str, classes: Sequence[str], path: Path) -> list[Resolved]:
    """Lets rows start from what all of them can take of a run.

    A run of the same network is taken whole by training, its last layers too, one of another network is not: the row
    that the run is like would be ahead of the others.

    Args:
        rows: Those that begin with these weights are changed.
        weights: The run.
        classes: Of the study's data.
        path: The file that is written, in place of the run; the same each time.
    """
    models, fitting = {}, set()
    for row in rows:
        if row.recipe is not None and row.recipe.weights == weights:
            model = build_model(row.recipe.model, classes)
            try:
                loaded = load_weights(model, weights, attention=row.recipe.attention_weights)
            except ValueError:  # Its cell will say so.
                continue
            fitting.add(row.row.key)
            models[row.row.key] = set(loaded.copied)
    if not models:
        return list(rows)
    shared = set.intersection(*models.values())
    source, folder = checkpoints.load_folder(weights)
    state = {name: tensor.contiguous() for name, tensor in source.state_dict().items() if name in shared}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(state))
    return [_from_file(row, path, folder) if row.row.key in fitting else row for row in rows]


def _from_file(row: Resolved, path: Path, folder: checkpoints.ModelFolder) -> Resolved:
    assert row.recipe is not None
    model = row.recipe.model
    if model.backbone.norm == "frozen":  # The file does not say what its norms were trained with.
        eps = folder.model.backbone.norm_eps
        model = model.model_copy(update={"backbone": model.backbone.model_copy(update={"norm_eps": eps})})
    return replace(row, recipe=row.recipe.model_copy(update={"weights": str(path), "model": model}))
