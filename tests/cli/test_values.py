"""Values of options: several CTs, numbers of workers, labels of organs, lists with commas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from volattn.cli.main import main
from volattn.cli.options import organ_label, parse_organ, parse_workers, split_commas
from volattn.workers import choose_workers


@pytest.mark.parametrize(
    "words",
    ["a b c", "-i a b c", "-i a -i b c", "-i a -i b -i c", "--input=a b --resume c", "-i a b --threshold 0.5 c"],
)
def test_cts_are_positional_or_follow_i(words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Path] = []

    def find(paths: list[Path]) -> None:
        given.extend(paths)
        raise ValueError("seen")

    monkeypatch.setattr("volattn.inference.inputs.find_inputs", find)
    with pytest.raises(SystemExit):
        main(["predict", "-m", "demo", *words.split(), "-o", str(tmp_path / "out")])
    assert sorted(map(str, given)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (parse_workers, "auto", "auto"),
        (parse_workers, "0", 0),
        (parse_workers, "12", 12),
        (parse_workers, "-1", ValueError),
        (parse_workers, "two", ValueError),
        (parse_organ, None, None),
        (parse_organ, "none", "none"),
        (parse_organ, "5", 5),
        (parse_organ, "liver", ValueError),
        (split_commas, None, ()),
        (split_commas, "train, val,", ("train", "val")),
    ],
)
def test_values(read: Any, text: str | None, value: Any) -> None:
    if value is ValueError:
        with pytest.raises(ValueError, match="give a whole number"):
            read(text)
    else:
        assert read(text) == value


@pytest.mark.parametrize(
    ("organ", "lesion", "label"), [(None, 2, 1), (None, 1, None), ("none", 2, None), ("0", 2, None), ("5", 6, 5)]
)
def test_the_organ_is_1_unless_lesions_are(organ: str | None, lesion: int, label: int | None) -> None:
    assert organ_label(organ, lesion) == label


def test_workers_are_no_more_than_cores_cts_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 7 * 2**30

    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory)
    for cores, items, expected in ((1, 9, 0), (2, 9, 2), (8, 9, 3), (8, 2, 2), (8, 1, 0)):
        monkeypatch.setattr("os.sched_getaffinity", lambda process, cores=cores: set(range(cores)))
        assert choose_workers("auto", items) == expected
    assert choose_workers(5, 1) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("render a -o b.png --kind X", "'--kind': 'X' is not one of 'all', 'surfaces', 'panels'"),
        ("render a -o b.png --view X", "'--view': 'X' is not one of 'front', 'right', 'top'"),
        ("render a -o b.png --slices 0", "'--slices': must be at least 1, found '0'"),
        ("render a -o b.png --lesion x", "'--lesion': must be a whole number, found 'x'"),
        ("study table-1 --data a -o b --test 2", "'--test': must be at most 0.9, found '2'"),
        ("study table-1 --data a -o b --test x", "'--test': must be a number, found 'x'"),
    ],
)
def test_a_wrong_value_is_refused_in_plain_words(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"Error: Invalid value for {said}"
