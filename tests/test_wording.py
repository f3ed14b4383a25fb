"""How messages are worded: plurals, read from the source, and no sentence of a library's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import volattn
from volattn.io.names import count_of
from volattn.training.recipe import load_recipe

SOURCE = Path(volattn.__file__).parent
_COUNTED = (
    "axial slice|case|cell|detection|error|fault|file|folder|image|key slice|label|label map|lesion|note|"
    "other|patient|phantom|row|slice|step|tensor|training case"
)
_PLURAL = re.compile(rf" (more |key |reference )?({'|'.join(f'{noun}s' for noun in _COUNTED.split('|'))})\b")


def hard_plurals(source: str) -> Iterator[str]:
    """F-strings that put "cases" behind a number that may be 1: `{n} cases`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            for value, after in zip(node.values, node.values[1:], strict=False):
                number = isinstance(value, ast.FormattedValue) and value.format_spec is None
                if number and isinstance(after, ast.Constant) and _PLURAL.match(str(after.value)):
                    yield ast.unparse(node)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ('f"{n} cases failed"', True),
        ('f"{a} of {b} key slices"', True),
        ("f\"{count_of(n, 'case')} failed\"", False),
        ('f"{mean:.1f} lesions a case"', False),
    ],
)
def test_hard_plurals_are_seen(source: str, wrong: bool) -> None:
    assert bool(list(hard_plurals(source))) is wrong


def test_one_thing_is_never_several() -> None:
    """Numbers of things are written by `count_of`."""
    assert [count_of(n, "case") for n in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
    found = {path.name: said for path in SOURCE.rglob("*.py") if (said := list(hard_plurals(path.read_text("utf-8"))))}
    assert not found


@pytest.mark.parametrize("name", ["lits", "tiny-cascade"])
def test_a_wrong_value_is_named_in_our_own_words(name: str) -> None:
    """Pydantic's "Input should be a valid integer" and the like reach nobody."""
    recipe = load_recipe(name)

    def keys(values: dict[str, Any], parent: str = "") -> Iterator[str]:
        for key, value in values.items():
            yield parent + key
            if isinstance(value, dict):
                yield from keys(value, f"{parent}{key}.")

    refused = []
    for key in keys(recipe.model_dump(mode="json")):
        for value in ("x", "-1", "null", "[]", "{a: 1}"):
            try:
                recipe.updated([f"{key}={value}"])
            except ValueError as error:
                refused.append(str(error))
    assert len(refused) > 200
    assert [line for line in refused if re.search("Input should|Value error|Field required|a valid", line)] == []
