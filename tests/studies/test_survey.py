"""`volattn info`: every name is listed, and what it says is what the models cost."""

from __future__ import annotations

import pytest

from volattn.cli.main import main
from volattn.models.catalogue import CATALOGUE
from volattn.models.cost import measure
from volattn.studies.survey import check_names, names, survey
from volattn.training.recipe import load_recipe, shipped


def test_all_can_be_asked_for() -> None:
    assert names() == (*CATALOGUE, *shipped())
    assert len(set(names())) == len(names())


def test_a_row_says_what_it_costs_and_what_it_stands_for() -> None:
    told: list[int] = []
    catalogue, recipes = survey(("rfcn", "3dce-9"), lambda what, done, total: told.append(done))
    assert told == [1, 2]
    assert [row[0] for row in catalogue.rows] == ["rfcn"]
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
    assert "Catalogue" in said


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["info", "3dce-8"])
    assert ended.value.code == 2
    assert "3dce-8: is neither in the catalogue nor a recipe; did you mean 3dce-9" in capsys.readouterr().err
    with pytest.raises(ValueError, match="without a name, all are listed"):
        check_names(["xyzzyxyzzy"])
