"""A killed run goes on as if nothing had happened: bit for bit, whatever the moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_runs
import torch
from safetensors.torch import load_file
from small_runs import small_recipe, write_store

from volattn.datasets.splits import Split
from volattn.models.registry import build_model
from volattn.training.folder import STATES, RunState, claim_run, load_state, read_metrics, save_state, saved_recipe
from volattn.training.loop import make_optimiser
from volattn.training.recipe import OptimiserConfig
from volattn.training.run import train

SETTINGS = ["schedule.length=10", "validation.every=5", "save_every=2"]
CLASSES = ("liver", "lesion")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and an uninterrupted run on it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    write_store(folder / "store")
    train(small_recipe().updated(SETTINGS), folder / "store", folder / "whole", device="cpu")
    return folder


def taken(run: Path) -> int:
    """Lines of the metrics so far."""
    return (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0


def story(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("lines", [1, 7])
@pytest.mark.slow
def test_a_killed_run_reaches_the_weights_of_an_uninterrupted_one(data: Path, tmp_path: Path, lines: int) -> None:
    run = tmp_path / "run"
    command = [sys.executable, small_runs.__file__, str(data / "store"), str(run), "--slow"]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while taken(run) < lines and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read() if process.stderr else ""
    assert lines <= taken(run) < len(story(data / "whole")), "the kill must come midway"
    train(small_recipe().updated(SETTINGS), data / "store", run, resume=True, device="cpu")

    for name in ("last.safetensors", "model.safetensors"):
        ours, whole = load_file(run / name), load_file(data / "whole" / name)
        assert all(torch.equal(ours[key], whole[key]) for key in whole), name
    assert (run / "config.json").read_text() == (data / "whole" / "config.json").read_text()
    assert story(run) == story(data / "whole")
    assert not list(run.rglob(".part-*"))


def test_resuming_in_the_middle_of_an_epoch_and_of_an_accumulated_step(data: Path, tmp_path: Path) -> None:
    """Stopped from within after every step in turn, and gone on with each time."""
    recipe = small_recipe(save_every=1).updated(["schedule.length=4", "step.accumulate=2"])
    train(recipe, data / "store", tmp_path / "whole", device="cpu")

    stops: list[int] = []

    def stop_once(what: str, done: int, total: int) -> None:
        """Before the state of the step is saved, so that the next attempt takes it again."""
        if what == "train" and done < total and done not in stops:
            stops.append(done)
            raise InterruptedError

    for _ in range(3):
        with pytest.raises(InterruptedError):
            train(recipe, data / "store", tmp_path / "run", resume=True, device="cpu", progress=stop_once)
    train(recipe, data / "store", tmp_path / "run", resume=True, device="cpu", progress=stop_once)
    assert stops == [1, 2, 3]
    ours, whole = (load_file(tmp_path / name / "last.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[key], whole[key]) for key in whole)


def test_a_finished_run_has_nothing_left_to_do(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe().updated(["schedule.length=2"])
    first = train(recipe, data / "store", tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    assert train(recipe, data / "store", tmp_path / "run", resume=True, device="cpu") == first
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_states_that_a_kill_left_are_removed(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(data / "whole", run)
    left = run / STATES / "000000008"  # the kill came before its removal was done
    left.mkdir()
    (left / "state.json").write_text("{}")
    train(small_recipe().updated(SETTINGS), data / "store", run, resume=True, device="cpu")
    assert not left.exists()
    assert [path.name for path in (run / STATES).iterdir() if path.is_dir()] == ["000000010"]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimisers_state_survives(tmp_path: Path, name: str, momentum: float) -> None:
    model = build_model(small_recipe().model, CLASSES)
    optimiser = make_optimiser(OptimiserConfig(name=name, momentum=momentum), model)
    for parameter in list(model.parameters())[:5]:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    save_state(tmp_path, model, optimiser, RunState(step=3, seconds=1.5))

    torch.manual_seed(1)
    again = build_model(small_recipe().model, CLASSES)
    renewed = make_optimiser(OptimiserConfig(name=name, momentum=momentum), again)
    progress = load_state(tmp_path, again, renewed)
    assert (progress.step, progress.seconds) == (3, 1.5)
    for one, other in ((model, optimiser), (again, renewed)):
        for parameter in one.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        other.step()
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_whichever_write_fails_a_whole_state_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(small_recipe().model, CLASSES)
    optimiser = make_optimiser(OptimiserConfig(), model)
    save_state(tmp_path, model, optimiser, RunState(step=1))
    replace, left = Path.replace, [0]

    def failing(source: Path, target: Path) -> Path:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", failing)
    outcomes = []
    for allowed in range(6):
        left[0] = allowed
        try:
            save_state(tmp_path, model, optimiser, RunState(step=2))
        except KeyboardInterrupt:
            assert load_state(tmp_path, model, optimiser).step == 1
            outcomes.append("old")
        else:
            assert load_state(tmp_path, model, optimiser).step == 2
            outcomes.append("new")
            break
    assert outcomes == ["old"] * 4 + ["new"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("state.json", text)
            for text in (
                "{",
                "[]",
                "{}",
                '{"step": -1, "best": null, "seconds": 0, "scaler": null, "optimiser": {}}',
                '{"step": 1, "best": {}, "seconds": 0, "scaler": null, "optimiser": {}}',
                '{"step": 1, "best": null, "seconds": NaN, "scaler": null, "optimiser": {}}',
                '{"step": 1, "best": null, "seconds": 0, "scaler": null, "optimiser": {"x": 1}}',
                '{"step": 1, "best": null, "seconds": 0, "scaler": null, "optimiser": {"999.step": 1}}',
            )
        ),
        ("optimiser.safetensors", "x"),
        ("model.safetensors", "x"),
        ("../latest", "../../elsewhere"),
        ("../latest", "000000002"),
    ],
)
def test_a_damaged_state_is_named(tmp_path: Path, name: str, content: str) -> None:
    model = build_model(small_recipe().model, CLASSES)
    optimiser = make_optimiser(OptimiserConfig(), model)
    save_state(tmp_path, model, optimiser, RunState(step=1))
    (tmp_path / "000000001" / name).write_text(content)
    with pytest.raises(ValueError, match="cannot be read as a training state") as caught:
        load_state(tmp_path, model, optimiser)
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("line", ["x", "[]", "3", '{"loss": 1}', '{"step": "x"}', '{"step": 1, "loss": NaN}', ""])
def test_a_damaged_line_of_metrics_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 0, "loss": 1.5}}\n{line}\n{{"step": 2, "lo')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2, "seed": [], "fingerprint": "", "processes": 1, "sessions": []}']
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    recipe, split = small_recipe(), Split(train=("a",), validation=(), seed=0)
    with claim_run(tmp_path, recipe, split, "f", 1, resume=False):
        pass
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json: "), claim_run(tmp_path, recipe, split, "f", 1, resume=True):
        pass


def test_a_run_of_an_older_version_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"seed": 0, "fingerprint": "", "processes": 1, "sessions": []}')
    with pytest.raises(ValueError, match=r"made by volattn 0\.1; train it again"):
        saved_recipe(tmp_path)
