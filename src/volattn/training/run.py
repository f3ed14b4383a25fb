"""A run from a store to a model folder: the one entry point of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from volattn.checkpoints import CONFIG, DEMO, ModelFolder, Training, read_folder, save_folder, save_weights
from volattn.datasets.case import in_parts
from volattn.datasets.splits import Split, make_split, official_split
from volattn.io.names import count_of
from volattn.io.output import claim_folder
from volattn.models.architectures import ARCHITECTURES
from volattn.models.bag_backbone import BagBackbone
from volattn.models.catalogue import build_model
from volattn.models.config import ModelConfig
from volattn.models.weights import fitting, load_weights
from volattn.preprocessing.store import BoxedCase, Store
from volattn.provenance import commit, versions
from volattn.slabs.loader import SlabDataset
from volattn.training.estimate import estimate
from volattn.training.faults import allow_open_files, memory_advice
from volattn.training.folder import LAST, MANIFEST, RECIPE, STATES, RunFolder, differences
from volattn.training.loop import (
    Step,
    make_accelerator,
    make_optimiser,
    make_timetable,
    own_accelerate,
    train_steps,
)
from volattn.training.recipe import Recipe
from volattn.training.state import Progress, has_state, load_state, remove_other_states, save_state
from volattn.training.validate import Measure, Validation, follows, share_out, validate, workload
from volattn.training.validate_boxes import BoxMeasure
from volattn.training.validate_masks import MaskMeasure

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        path: The run folder, which is a model folder.
        steps: Taken in all.
        best_step: Steps behind the best weights.
        validation: What they scored.
    """

    path: Path
    steps: int
    best_step: int
    validation: Validation


@own_accelerate()
def train(
    recipe: Recipe,
    store_path: Path | str,
    run_path: Path | str,
    *,
    resume: bool = False,
    fold: str | None = None,
    splits: Sequence[str] = (),
    weights: str | None = None,
    workers: int = 0,
    cpu: bool = False,
    tensorboard: bool = False,
    progress: Report | None = None,
    announce: Callable[[str], None] | None = None,
) -> Result:
    """Trains a model; under `torchrun` on all its processes together.

    Args:
        recipe: Everything that decides what the run becomes.
        store_path: What `volattn prepare` wrote.
        run_path: The run folder.
        resume: Goes on with the run in `run_path`, if there is one.
        fold: "k/n" for a fold instead of the recipe's validation fraction.
        splits: Parts of the data set's own split to train on; by default its training part, if it has any.
        weights: Instead of the recipe's: none, imagenet, coco, demo, a file or an earlier run.
        workers: Processes that read ahead, on each process.
        cpu: Stays on the CPU where there is a GPU.
        tensorboard: Also writes TensorBoard's files, into `run_path`/tensorboard.
        progress: Told what is done, how far it is and how far it goes: ("train", steps, steps) and
            ("validate", slices, slices).
        announce: Told in words what comes: the estimate, what the weights were, every validation.

    Raises:
        ValueError: Something does not fit (recipe, store, run folder, weights), memory ran out, or a loss is
            not finite; the message says what to do. The last saved state is whole whatever happened.
    """
    if tensorboard and find_spec("tensorboard") is None:
        raise ValueError("TensorBoard is not installed; install volattn[tensorboard], or leave it out")
    allow_open_files(recipe, workers)
    run_path = Path(run_path)
    accelerator = make_accelerator(
        recipe.precision, cpu=cpu, log_with="tensorboard" if tensorboard else None, project_dir=run_path
    )
    main = accelerator.is_main_process
    say = announce if main and announce is not None else _silent
    report = progress if main else None
    begun = Recipe.read(run_path / RECIPE) if resume and (run_path / RECIPE).is_file() else None
    if weights is None and begun is not None:
        weights = begun.weights
    if weights is not None:
        recipe = recipe.model_copy(update={"weights": weights})
    recipe = recipe.model_copy(update={"model": begun_model(recipe, begun)})
    store = Store.open(store_path)
    _check_plan(recipe, store)
    measure = choose_measure(recipe, store)
    split = choose_split(store, recipe, fold, splits)
    dataset = SlabDataset(
        store, split.train, recipe.slabs, augment=recipe.augment, seed=recipe.seed, size=recipe.plan.size
    )
    timetable = make_timetable(recipe, dataset, accelerator.num_processes)

    states = run_path / STATES
    going_on = resume and has_state(states)
    model, origin = _make_model(recipe, store.classes, fresh=not going_on)
    model.to(accelerator.device)
    optimiser = make_optimiser(recipe.optimiser, model)
    accelerator.wait_for_everyone()  # Every process has seen whether there is a state before one is written.
    with memory_advice(recipe), _claim(accelerator, run_path, recipe, split, store, resume) as folder:
        state = load_state(states, model, optimiser) if going_on else Progress()
        say(f"goes on after step {state.step}" if going_on else origin)

        names = _validated(recipe, split)
        sources = {
            name: store.case(name).description.image_sha256 for name in (*split.train, *split.validation)
        }
        if not split.validation:
            say(f"no case is left to validate on: the threshold is chosen on training case {_some(names)}")
        if state.step < timetable.total:
            most = share_out(store, names, accelerator.num_processes)[0]  # which has the longest case
            streamed = workload(store, most, model)
            say(
                estimate(
                    model, dataset, recipe, timetable, accelerator, start=state.step, validated=streamed
                ).text
            )
        parallel, stepper = accelerator.prepare(model, optimiser)
        if accelerator.scaler is not None and state.scaler is not None:
            accelerator.scaler.load_state_dict(state.scaler)
        if tensorboard:
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": state.step}})
        if main:
            folder.forget_after(state.step)
            remove_other_states(states, state.step)
        if main and not going_on:
            save_state(states, model, optimiser, state)

        for step in train_steps(
            parallel, stepper, dataset, recipe, timetable, accelerator, start=state.step, workers=workers
        ):
            state = replace(state, step=step.number + 1, seconds=state.seconds + step.seconds)
            _log(accelerator, folder, _step_row(step))
            if report is not None:
                report("train", state.step, timetable.total)
            validated = follows(recipe.validation, timetable, step.number)
            if validated:
                found = validate(
                    measure,
                    model,
                    store,
                    names,
                    accelerator,
                    batch=recipe.validation.batch,
                    progress=report,
                )
                _log(accelerator, folder, _validation_row(state.step, found))
                say(f"step {state.step}: {found.text}")
                # Level scores are mostly those of a network that finds nothing yet: the later weights are better.
                if state.best is None or found.ranking >= _found(state.best).ranking:
                    state = replace(state, best={"step": state.step, **asdict(found)})
                    if main:
                        described = _describe(recipe, model, store, split, names, sources, state.step, found)
                        save_folder(run_path, model, described)
            if main and (validated or state.step % recipe.save_every == 0):
                if accelerator.scaler is not None:
                    state = replace(state, scaler=accelerator.scaler.state_dict())
                save_weights(run_path / LAST, model)
                save_state(states, model, optimiser, state)
    accelerator.end_training()
    assert state.best is not None, "the last step always validates"
    return Result(run_path, state.step, state.best["step"], _found(state.best))


def choose_split(store: Store, recipe: Recipe, fold: str | None, splits: Sequence[str]) -> Split:
    """Which cases train and validate: by the data set's own split if it has one, else by the recipe.

    Raises:
        ValueError: The fold or the parts are not there.
    """
    if not (store.parts or splits):
        return make_split(store.names, recipe.seed, recipe.validation.fraction, fold, store.patients)
    if fold is None:
        return official_split(store.parts, splits or ("train",), recipe.seed, str(store.path))
    # Never the test part, unless it is asked for.
    names = in_parts(
        store.parts,
        splits or [part for part in ("train", "val") if part in store.parts.values()],
        str(store.path),
    )
    return make_split(names, recipe.seed, fold=fold, patients=store.patients)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {count_of(len(names) - 5, 'other')}" if len(names) > 5 else "")


def _silent(text: str) -> None:
    pass


def _check_plan(recipe: Recipe, store: Store) -> None:
    changed = differences(store.plan.model_dump(), recipe.plan.model_dump())
    if changed:
        raise ValueError(
            f"{store.path}: was prepared with another plan than recipe {recipe.name} has (plan.{changed[0]}"
            f"); prepare the data set with --recipe {recipe.name}, or give the store's value with --set"
        )


def choose_measure(recipe: Recipe, store: Store) -> Measure:
    """How a run is validated: by masks if the network finds them, else by boxes.

    Raises:
        ValueError: The network learns from masks and the store has none, or a step asks for more targets of a slab than
            there can be.
    """
    boxed = any(isinstance(store.case(name), BoxedCase) for name in store.names)
    masks = ARCHITECTURES[recipe.model.name].masks
    if boxed and masks:
        boxes = ", ".join(name for name, facts in ARCHITECTURES.items() if not facts.masks)
        raise ValueError(
            f"{store.path}: its lesions are known by boxes, and {recipe.model.name} learns from masks; use a data set "
            f"with label maps, or a detector of boxes: --set model.name=... ({boxes})"
        )
    if boxed and recipe.step.targets > 1:
        raise ValueError(
            f"{store.path}: its cases have one known slice each, and step.targets is {recipe.step.targets}; give --set "
            f"step.targets=1, and more step.slabs"
        )
    return MaskMeasure() if masks else BoxMeasure()


@contextmanager
def _claim(
    accelerator: Accelerator, path: Path, recipe: Recipe, split: Split, store: Store, resume: bool
) -> Iterator[RunFolder]:
    """The main process claims the folder and keeps it to itself; the others write nothing."""
    if not accelerator.is_main_process:
        yield RunFolder(path)
        return
    with claim_folder(path, marker=MANIFEST, what="run"):
        yield RunFolder.claim(path, recipe, split, store.fingerprint, accelerator.num_processes, resume)


def begun_model(recipe: Recipe, begun: Recipe | None) -> ModelConfig:
    """The network, its frozen norm with the epsilon that the weights it starts from were trained with.

    Args:
        recipe: As asked for.
        begun: What the run was begun with, if it goes on: its weights may be elsewhere by now.
    """
    config = recipe.model
    if config.backbone.norm != "frozen" or recipe.weights == "none":
        return config
    if begun is not None:
        eps = begun.model.backbone.norm_eps
    elif (Path(recipe.weights) / CONFIG).is_file():
        eps = read_folder(recipe.weights).model.backbone.norm_eps
    else:
        return fitting(config, recipe.weights)
    return config.model_copy(update={"backbone": config.backbone.model_copy(update={"norm_eps": eps})})


def _make_model(recipe: Recipe, classes: tuple[str, ...], *, fresh: bool) -> tuple[BagBackbone, str]:
    """The network with its initial weights, and in words where they are from."""
    source = recipe.weights
    if source == "none" and recipe.model.needs_weights:
        raise ValueError(
            "a frozen norm needs pretrained weights; give --weights imagenet, coco, a file or a run, or "
            "train from scratch with --set model.backbone.norm=group --set model.backbone.frozen_stages=0"
        )
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model, classes)
    if source == "none" or not fresh:
        return model, "starts from new weights"
    folder = DEMO if source == "demo" else source
    loaded = load_weights(model, folder, attention=recipe.attention_weights)
    parts = ", ".join(dict.fromkeys(key.split(".")[0] for key in loaded.new))
    new = f"{len(loaded.new)} new ({parts})" if parts else "none new"
    return model, f"starts from {source}: {count_of(len(loaded.copied), 'tensor')} copied, {new}"


def _validated(recipe: Recipe, split: Split) -> tuple[str, ...]:
    return (split.validation or split.train)[: recipe.validation.cases]


def _found(best: Mapping[str, Any]) -> Validation:
    """The validation of the best weights so far."""
    return Validation(**{key: value for key, value in best.items() if key != "step"})


def _describe(
    recipe: Recipe,
    model: BagBackbone,
    store: Store,
    split: Split,
    names: tuple[str, ...],
    sources: dict[str, str],
    step: int,
    found: Validation,
) -> ModelFolder:
    return ModelFolder(
        model=model.config,
        plan=recipe.plan,
        classes=store.classes,
        threshold=found.threshold,
        single_organ=found.single_organ,
        training=Training(
            recipe=recipe.name,
            dataset=store.description.dataset,
            fingerprint=store.fingerprint,
            cases=split.train,
            validation=names,
            sources=sources,
            seed=recipe.seed,
            step=step,
            commit=commit(),
            versions=versions(),
        ),
    )


def _log(accelerator: Accelerator, folder: RunFolder, row: dict) -> None:
    if accelerator.is_main_process:
        folder.append(row)
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        accelerator.log(numbers | row.get("entropies", {}), step=row["step"])


def _step_row(step: Step) -> dict:
    return {
        "step": step.number + 1,
        "epoch": step.epoch,
        "lr": step.lr,
        **step.losses,
        "gradient_norm": step.gradient_norm if math.isfinite(step.gradient_norm) else None,
        "targets": step.targets,
        "seconds": round(step.seconds, 3),
    }


def _validation_row(step: int, found: Validation) -> dict:
    row = asdict(found)
    return {"step": step, **row.pop("scores"), **row}
