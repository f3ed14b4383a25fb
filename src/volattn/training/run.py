"""A run from a store to a model folder: the one entry point of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from volattn.checkpoints import CONFIG, DEMO, ModelFolder, read_folder, save_folder, save_weights
from volattn.datasets.case import in_subsets
from volattn.datasets.splits import Split, make_split, official_split
from volattn.io.names import count_of
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import ModelConfig
from volattn.models.precision import Precision
from volattn.models.registry import MODELS, build_model
from volattn.models.weights import load_weights, match_norm_eps
from volattn.preprocessing.store import Store
from volattn.provenance import Provenance, commit, versions
from volattn.slabs.loader import SlabDataset
from volattn.training.estimate import estimate
from volattn.training.faults import allow_open_files, memory_advice, reading_workers
from volattn.training.folder import (
    LAST,
    STATES,
    RunState,
    append_metrics,
    claim_run,
    differences,
    drop_metrics_after,
    has_state,
    load_state,
    remove_other_states,
    save_state,
    saved_recipe,
)
from volattn.training.loop import Step, make_accelerator, make_optimiser, make_timetable, own_accelerate, train_steps
from volattn.training.recipe import Recipe
from volattn.training.validate import Evaluator, Validation, distribute, validate, validates_after, workload
from volattn.training.validate_boxes import BoxEvaluator
from volattn.training.validate_masks import MaskEvaluator
from volattn.workers import Progress


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, which is a model folder, its steps, and the validation of the best weights."""

    path: Path
    steps: int
    validation: Validation

    @property
    def best_step(self) -> int:
        """Steps behind the best weights."""
        return self.validation.step


@own_accelerate()
def train(
    recipe: Recipe,
    store_path: Path | str,
    run_path: Path | str,
    *,
    resume: bool = False,
    fold: str | None = None,
    subsets: Sequence[str] = (),
    weights: str | None = None,
    device: str = "auto",
    precision: Precision | None = None,
    workers: int | None = None,
    tensorboard: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Result:
    """Trains a model; under `torchrun` on all its processes together.

    Args:
        store_path: The folder that `volattn prepare` wrote.
        resume: Continues the run in `run_path`, if there is one.
        fold: "k/n" for a fold instead of the recipe's validation fraction.
        subsets: Of the data set's own split, to train on; by default "train", if it has one.
        weights: Instead of the recipe's: none, imagenet, coco, demo, a file or an earlier run.
        device: "auto", a GPU if there is one; "cpu"; "cuda", or one of several, "cuda:1".
        precision: Instead of the recipe's: "fp32", "bf16" or "fp16".
        workers: Processes that read ahead, for each training process; None for some with a GPU, and 0 without.
        tensorboard: Also writes TensorBoard's files, into `run_path`/tensorboard.
        dry_run: Announces steps, time and memory, without initial weights, and writes nothing; the result has no
            scores.
        progress: Called with ("train", steps done, steps) and ("validate", slices done, slices).
        announce: Called with sentences: the estimate, where the weights are from, every validation.

    Raises:
        ValueError: Something does not fit (recipe, store, run folder, weights), memory ran out, or a loss is
            not finite; the message says what to do. The last saved state is complete in every case.
    """
    if tensorboard and find_spec("tensorboard") is None:
        raise ValueError("TensorBoard is not installed; install volattn[tensorboard], or leave it out")
    run_path = Path(run_path)
    saved = saved_recipe(run_path) if resume else None
    recipe = _with_choices(recipe, saved, weights, precision)
    accelerator = make_accelerator(
        recipe.precision, device, log_with="tensorboard" if tensorboard else None, project_dir=run_path
    )
    on_gpu, processes = accelerator.device.type != "cpu", accelerator.num_processes
    readers = reading_workers(recipe, on_gpu, processes) if workers is None else workers
    allow_open_files(recipe, readers)
    main = accelerator.is_main_process
    say = announce if main and announce is not None else lambda text: None
    report = progress if main else None
    store = Store.open(store_path)
    _check_plan(recipe, store)
    evaluator = choose_evaluator(recipe, store)
    split = choose_split(store, recipe, fold, subsets)
    dataset = SlabDataset(
        store,
        split.train,
        recipe.slabs,
        augment=recipe.augment,
        synthetic=recipe.synthetic,
        auxiliary=recipe.model.auxiliary_classes,
        seed=recipe.seed,
        size=recipe.plan.size,
    )
    timetable = make_timetable(recipe, dataset, processes)
    names = (split.validation or split.train)[: recipe.validation.cases]

    def say_estimate(model: BagBackbone, start: int) -> None:
        longest = distribute(store, names, processes)[0]
        work = workload(store, longest, model)
        say(estimate(model, dataset, recipe, timetable, accelerator, start=start, validated=work).text)

    if dry_run:
        with memory_advice(recipe):
            say_estimate(build_model(recipe.model, store.classes).to(accelerator.device), 0)
        return Result(run_path, 0, Validation(scores={}, threshold=0.0, cases={}, entropies={}))

    states = run_path / STATES
    resuming = resume and has_state(states)
    model, origin = _make_model(recipe, store.classes, fresh=not resuming)
    model.to(accelerator.device)
    optimiser = make_optimiser(recipe.optimiser, model)
    accelerator.wait_for_everyone()  # Every process has looked for a state before one is written.
    claim = claim_run(run_path, recipe, split, store.fingerprint, processes, resume=resume) if main else nullcontext()
    with memory_advice(recipe), claim:
        state = load_state(states, model, optimiser) if resuming else RunState()
        say(f"continues after step {state.step}" if resuming else origin)
        provenance = _provenance(recipe, store, split, names)
        if not split.validation:
            some = ", ".join(names[:5]) + (f" and {count_of(len(names) - 5, 'other')}" if len(names) > 5 else "")
            say(f"no case is left for validation: the threshold is chosen on training case {some}")
        if state.step < timetable.total:
            say_estimate(model, state.step)
        parallel, stepper = accelerator.prepare(model, optimiser)
        if accelerator.scaler is not None and state.scaler is not None:
            accelerator.scaler.load_state_dict(state.scaler)
        if tensorboard:
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": state.step}})
        if main:
            drop_metrics_after(run_path, state.step)
            remove_other_states(states, state.step)
        if main and not resuming:
            save_state(states, model, optimiser, state)

        for step in train_steps(
            parallel, stepper, dataset, recipe, timetable, accelerator, start=state.step, workers=readers
        ):
            state = state.model_copy(update={"step": step.number + 1, "seconds": state.seconds + step.seconds})
            _log(accelerator, run_path, _step_row(step))
            if report is not None:
                report("train", state.step, timetable.total)
            validated = validates_after(recipe.validation, timetable, step.number)
            if validated:
                found = validate(
                    evaluator, model, store, names, accelerator, batch=recipe.validation.batch, progress=report
                ).model_copy(update={"step": state.step})
                _log(accelerator, run_path, _validation_row(found))
                say(f"step {state.step}: {found.summary}")
                # Equal scores are mostly those of a network that finds nothing yet: the later weights are better.
                if state.best is None or found.ranking >= state.best.ranking:
                    state = state.model_copy(update={"best": found})
                    if main:
                        folder = ModelFolder(
                            model=model.config,
                            plan=recipe.plan,
                            classes=store.classes,
                            threshold=found.threshold,
                            single_organ=found.single_organ,
                            phantoms_only=store.description.phantoms,
                            provenance=provenance.model_copy(update={"step": state.step}),
                        )
                        save_folder(run_path, model, folder)
            if main and (validated or state.step % recipe.save_every == 0):
                if accelerator.scaler is not None:
                    state = state.model_copy(update={"scaler": accelerator.scaler.state_dict()})
                save_weights(run_path / LAST, model)
                save_state(states, model, optimiser, state)
    accelerator.end_training()
    assert state.best is not None, "a validation follows the last step"
    return Result(run_path, state.step, state.best)


def _with_choices(recipe: Recipe, saved: Recipe | None, weights: str | None, precision: Precision | None) -> Recipe:
    """The recipe with the given weights and precision, else those of the run that is resumed."""
    if saved is not None:
        weights, precision = weights or saved.weights, precision or saved.precision
    recipe = recipe.model_copy(
        update={"weights": weights or recipe.weights, "precision": precision or recipe.precision}
    )
    return recipe.model_copy(update={"model": _with_norm_eps(recipe, saved)})


def choose_split(store: Store, recipe: Recipe, fold: str | None, subsets: Sequence[str]) -> Split:
    """The cases that train and validate: by the data set's own split if it has one, else by the recipe.

    Raises:
        ValueError: The data set does not have the fold or the subsets.
    """
    if not (store.subsets or subsets):
        return make_split(store.names, recipe.seed, recipe.validation.fraction, fold, store.patients)
    if fold is None:
        return official_split(store.subsets, subsets or ("train",), recipe.seed, str(store.path))
    # Never the test subset, unless it is given.
    chosen = subsets or [subset for subset in ("train", "val") if subset in store.subsets.values()]
    names = in_subsets(store.subsets, chosen, str(store.path))
    return make_split(names, recipe.seed, fold=fold, patients=store.patients)


def _check_plan(recipe: Recipe, store: Store) -> None:
    changed = differences(store.plan.model_dump(), recipe.plan.model_dump())
    if changed:
        raise ValueError(
            f"{store.path}: was prepared with another plan than recipe {recipe.name} has (plan.{changed[0]}"
            f"); prepare the data set with --recipe {recipe.name}, or give the store's value with --set"
        )


def choose_evaluator(recipe: Recipe, store: Store) -> Evaluator:
    """Validation by masks if the network finds them, else by boxes.

    Raises:
        ValueError: The network learns from masks and the store has none, or a step asks for more targets of a slab than
            there can be.
    """
    boxed = any((store.case(name).boxes is not None) for name in store.names)
    masks = recipe.model.output != "boxes"
    if boxed and masks:
        boxes = ", ".join(name for name, model in MODELS.items() if model.config.output == "boxes")
        raise ValueError(
            f"{store.path}: its lesions have boxes and no masks, from which {recipe.model.name} learns; use a data set "
            f"with label maps, or a detector of boxes: --set model.name=... ({boxes})"
        )
    if boxed and recipe.step.targets > 1:
        raise ValueError(
            f"{store.path}: its cases have one labelled slice each, and step.targets is {recipe.step.targets}; give "
            f"--set step.targets=1, and more step.slabs"
        )
    return MaskEvaluator() if masks else BoxEvaluator()


def _with_norm_eps(recipe: Recipe, saved: Recipe | None) -> ModelConfig:
    """The network, its frozen norm with the epsilon that its initial weights were trained with.

    A run that is resumed has it in its own recipe: the initial weights may be gone by now.
    """
    config = recipe.model
    if not config.needs_weights or recipe.weights == "none":
        return config
    if saved is not None:
        eps = saved.model.norm_eps
    elif (Path(recipe.weights) / CONFIG).is_file():
        eps = read_folder(recipe.weights).model.norm_eps
    else:
        return match_norm_eps(config, recipe.weights)
    return config.with_norm_eps(eps)


def _make_model(recipe: Recipe, classes: tuple[str, ...], *, fresh: bool) -> tuple[BagBackbone, str]:
    """The network with its initial weights, and a sentence on where they are from."""
    source = recipe.weights
    if source == "none" and recipe.model.needs_weights:
        raise ValueError(
            "a frozen norm needs pretrained weights; give --weights imagenet, coco, a file or a run, or "
            "train from scratch with --set model.backbone.norm=group --set model.backbone.trainable_layers=5"
        )
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model, classes)
    if source == "none" or not fresh:
        return model, "starts from new weights"
    loaded = load_weights(model, DEMO if source == "demo" else source, attention=recipe.attention_weights)
    modules = ", ".join(dict.fromkeys(key.split(".")[0] for key in loaded.new))
    new = f"{len(loaded.new)} new ({modules})" if modules else "none new"
    return model, f"starts from {source}: {count_of(len(loaded.copied), 'tensor')} copied, {new}"


def _provenance(recipe: Recipe, store: Store, split: Split, validation: tuple[str, ...]) -> Provenance:
    return Provenance(
        recipe=recipe.name,
        dataset=store.description.dataset,
        fingerprint=store.fingerprint,
        cases=split.train,
        validation=validation,
        sources={name: store.case(name).description.image_sha256 for name in (*split.train, *split.validation)},
        seed=recipe.seed,
        commit=commit(),
        versions=versions(),
    )


def _log(accelerator: Accelerator, run: Path, row: dict[str, Any]) -> None:
    if accelerator.is_main_process:
        append_metrics(run, row)
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        accelerator.log(numbers | row.get("entropies", {}), step=row["step"])


def _step_row(step: Step) -> dict[str, Any]:
    return {
        "step": step.number + 1,
        "epoch": step.epoch,
        "lr": step.lr,
        **step.losses,
        "gradient_norm": step.gradient_norm if math.isfinite(step.gradient_norm) else None,
        "targets": step.targets,
        "seconds": round(step.seconds, 3),
    }


def _validation_row(found: Validation) -> dict[str, Any]:
    row = found.model_dump()
    return {"step": row.pop("step"), **row.pop("scores"), **row}
