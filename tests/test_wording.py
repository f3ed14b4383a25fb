"""What messages are worded like, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import volattn
from volattn.io.names import count_of

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
