"""`volattn info`: every name is listed, and what it says is what the models cost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from volattn.cli.main import main
from volattn.models.config import ModelConfig
from volattn.models.cost import Cost, measure
from volattn.models.registry import MODELS, build_model
from volattn.studies.model_table import check_names, model_table, names
from volattn.training.recipe import Recipe, load_recipe, shipped


def test_all_can_be_asked_for() -> None:
    assert names() == (*MODELS, *shipped())
    assert len(set(names())) == len(names())


def test_a_row_says_what_it_costs_and_what_it_stands_for() -> None:
    seen: list[int] = []
    (architectures, recipes), failed = model_table(
        ("rfcn", "3dce-9"), costs=True, progress=lambda what, done, total: seen.append(done)
    )
    assert not failed
    assert seen == [1, 2]
    assert [row[0] for row in architectures.rows] == ["rfcn"]
    cost = measure(load_recipe("3dce-9").model, ("lesion",), 512)
    (row,) = recipes.rows
    assert row == (
        "3dce-9",
        512,
        3,
        cost.parameters / 1e6,
        cost.flops / 1e9,
        cost.memory["full"] / 2**20,
        cost.memory["checkpoint"] / 2**20,
        None,
        "three_dce",
        "Table 3, 3-DCE, 9 slices",
    )
    assert "19.2" in recipes.text()


def test_the_verb_prints_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["info", "improved-r-fcn", "improved_rfcn"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "Table 3, Improved R-FCN" in said
    assert "Architectures" in said


def test_everything_is_listed_and_nothing_measured_without_costs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volattn.studies.model_table.measure", None)
    with pytest.raises(SystemExit) as ended:
        main(["info"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(f"\n{name} " in said for name in names())


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("faster_rcnn", "va_unet", "tiny", "lits") else pytest.param(name, marks=pytest.mark.slow)
        for name in names()
    ],
)
def test_every_row_can_be_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size of a stamp: what a command measures at its full size is the same program."""
    monkeypatch.setattr("volattn.studies.model_table.measure", lambda config, classes, _: build(config, classes))
    tables, failed = model_table((name,), costs=True)
    assert not failed
    assert [row[0] for table in tables for row in table.rows] == [name]


def build(config: ModelConfig, classes: Sequence[str]) -> Cost:
    with torch.device("meta"):
        model = build_model(config, classes)
    return Cost(sum(parameter.numel() for parameter in model.parameters()), 0, {})


def test_one_bad_recipe_is_one_failed_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def load(name: str) -> Recipe:
        return load_recipe(name) if name != "tiny" else load_recipe("no-such-recipe")

    monkeypatch.setattr("volattn.studies.model_table.load_recipe", load)
    with pytest.raises(SystemExit) as ended:
        main(["info", "lits", "tiny"])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "(failed)" in said.out
    assert "tiny: no-such-recipe: no such recipe" in said.err


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["info", "3dce-8"])
    assert ended.value.code == 2
    assert "3dce-8: is neither an architecture nor a recipe; did you mean 3dce-9" in capsys.readouterr().err
    with pytest.raises(ValueError, match="without a name, all are listed"):
        check_names(["xyzzyxyzzy"])
