"""`-i a b c`."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.cli.options import spread

NAMES = {"-i", "--input"}


@pytest.mark.parametrize(
    ("given_words", "expected"),
    [
        ("-i a b c", "-i a -i b -i c"),
        ("predict -m run -i a b -o out", "predict -m run -i a -i b -o out"),
        ("--input a b --resume", "--input a --input b --resume"),
        ("--input=a b", "--input=a --input b"),
        ("-i a -i b c", "-i a -i b -i c"),
        ("train lits --data store", "train lits --data store"),
        ("-i a --threshold 0.5", "-i a --threshold 0.5"),
        ("-i", "-i"),
        ("", ""),
    ],
)
def test_examples(given_words: str, expected: str) -> None:
    assert spread(given_words.split(), NAMES) == expected.split()


@settings(max_examples=30)
@given(st.lists(st.lists(st.from_regex(r"[a-z./]+", fullmatch=True), min_size=1), min_size=1), st.booleans())
def test_every_value_arrives_once_and_in_order(groups: list[list[str]], flag: bool) -> None:
    app = typer.Typer(add_completion=False)
    arrived: list[str] = []

    @app.command()
    def verb(
        inputs: Annotated[list[str], typer.Option("-i", "--input")],
        resume: Annotated[bool, typer.Option("--resume")] = False,
    ) -> None:
        arrived.extend(inputs)
        assert resume == flag

    words = [word for group in groups for word in ("-i", *group)] + ["--resume"] * flag
    app(args=spread(words, NAMES), standalone_mode=False)
    assert arrived == [value for group in groups for value in group]
