"""Where the rows of a study start: from the same tensors, and from none that know what is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save

from volattn import checkpoints
from volattn.io.atomic import atomic_path
from volattn.models.catalogue import build_model
from volattn.models.weights import load_weights
from volattn.preprocessing.store import Store
from volattn.studies.parts import TEST, cases_of
from volattn.studies.rows import Resolved


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
