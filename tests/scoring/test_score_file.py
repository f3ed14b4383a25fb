"""What is read of stored scores can be compared; anything else is one line that names the file and the place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from key_slices import random_slices, write_found, write_info
from scored_cases import SPACING, label_map

from volattn.scoring.comparison import compare
from volattn.scoring.deeplesion import score_deeplesion
from volattn.scoring.lits import lits_scheme, score_lits
from volattn.scoring.lits_folders import lits_content
from volattn.scoring.overlap import LabelPair
from volattn.scoring.score_files import read_scores, write_scores
from volattn.structures.geometry import Geometry

pytestmark = pytest.mark.usefixtures("few_resamples")


def lits(folder: Path) -> dict[str, Any]:
    maps = [
        (label_map((8, 8, 6), (20, 20, 18)), label_map((8, 9, 6))),
        (label_map((8, 8, 6)), label_map()),
        (label_map(), label_map((8, 8, 6))),
    ]
    grid = Geometry.aligned(maps[0][0].shape, SPACING)
    cases = [score_lits(f"case-{place}", LabelPair.cropped(*pair, grid), SPACING) for place, pair in enumerate(maps)]
    return lits_content(cases, lits_scheme(), {})


def deeplesion(folder: Path) -> dict[str, Any]:
    slices = random_slices(5, count=4)
    info = write_info(folder / "DL_info.csv", slices)
    return score_deeplesion(info, write_found(folder / "detections.csv", slices)).content


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {"lits": lits, "deeplesion": deeplesion}
NUMBERS = (True, -1, 0.5, 1e300, 10**400, float("nan"), float("inf"))
ODD = (*NUMBERS, None, "", "x", "x\ny", [], [[]], {}, {"a": {}}, [1, 2, 3])


@pytest.fixture(scope="module", params=KINDS)
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("scores")
    write_scores(folder / "scores.json", KINDS[request.param](folder))
    return json.loads((folder / "scores.json").read_text())


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a file stands."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*above, key)
            yield from places(below, (*above, key))


def read_or_one_line(path: Path) -> dict[str, Any] | None:
    try:
        return read_scores(path)
    except ValueError as error:
        line = str(error)
    assert line.startswith(f"{path}: ")
    assert len(line) < 2000 + len(str(path))
    assert line.isprintable()
    return None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.slow
def test_a_changed_value_is_compared_or_named(tmp_path: Path, content: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(content)
    *above, last = data.draw(st.sampled_from(list(places(content))))
    place: Any = changed
    for key in above:
        place = place[key]
    if data.draw(st.booleans()):
        del place[last]
    else:
        place[last] = data.draw(st.sampled_from(ODD))
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(changed))
    read = read_or_one_line(path)
    if read is not None:
        compare(read, read)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "[" * 10_000, '{"kind": []}', '{"kind": "lits"}', "\0", '{"cases": [{}]}']
)
def test_another_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    assert read_or_one_line(path) is None


def test_one_name_for_two_cases_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({**content, "cases": [content["cases"][0]] * 2}))
    with pytest.raises(ValueError, match="two cases"):
        read_scores(path)


def test_what_is_written_is_what_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({**content, "comment": "mine"}))
    expected = {row.metric for row in compare(content, content).rows}
    assert {row.metric for row in compare(read_scores(path), content).rows} == expected - {"id"}
