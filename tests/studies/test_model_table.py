"""`volattn info`: every name is listed, and what it says is what the models cost."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import volattn
from model_costs import described, measured

from volattn.io.files import read_json
from volattn.models.registry import MODELS
from volattn.studies.model_table import COSTS, check_names, model_table
from volattn.training.recipe import shipped

KEPT = {name: row for rows in read_json(COSTS).values() for name, row in rows.items()}
QUICK = "tiny-boxes"
OUT_OF_DATE = "run `make costs`, and say in the commit why a model costs something else"


def test_every_name_is_kept_with_what_it_is() -> None:
    assert list(KEPT) == [*MODELS, *shipped()], OUT_OF_DATE
    for name, row in KEPT.items():
        assert {**row, **described(name)[1]} == row, OUT_OF_DATE


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in KEPT])
def test_costs_are_what_is_measured(name: str) -> None:
    assert measured(name) == KEPT[name], OUT_OF_DATE


def test_a_row_says_what_it_costs_and_what_it_stands_for() -> None:
    architectures, recipes = model_table(("rfcn", "3dce-9"))
    assert [row[0] for row in architectures.rows] == ["rfcn"]
    cost = KEPT["3dce-9"]
    (row,) = recipes.rows
    assert row == (
        "3dce-9",
        512,
        3,
        cost["parameters"] / 1e6,
        cost["flops"] / 1e9,
        cost["memory"]["full"] / 2**20,
        cost["memory"]["checkpoint"] / 2**20,
        None,
        "three_dce",
        "Table 3, 3-DCE, 9 slices",
    )
    assert "19.2" in recipes.text()


def test_everything_is_listed_without_pytorch() -> None:
    script = "import sys; sys.modules['torch'] = None; from volattn.cli.main import main; main(['info'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(f"\n{name} " in done.stdout for name in KEPT)
    assert "Table 3, Improved R-FCN" in done.stdout


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volattn.studies.model_table.find_spec", lambda package: None)
    said = {row[0]: str(row[-1]) for table in model_table() for row in table.rows}
    assert {name for name, purpose in said.items() if "(install volattn[segmentation])" in purpose} == {
        name for name, row in KEPT.items() if row["package"] is not None
    }


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert volattn("info", "3dce-8") == 2
    assert "3dce-8: is neither an architecture nor a recipe; did you mean 3dce-9" in capsys.readouterr().err
    with pytest.raises(ValueError, match="without a name, all are listed"):
        check_names(["xyzzyxyzzy"], KEPT)
