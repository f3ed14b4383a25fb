"""A pipe or a device in place of any input: no command waits for it, reads it for ever, or passes it over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training.small_runs import small_recipe, write_store

from volattn import checkpoints
from volattn.cli.main import main
from volattn.phantoms import write_phantoms
from volattn.scoring.score_files import write_scores


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


WORDS = (
    "check lits [lits/volume-1.nii.gz]",
    "check lits [lits/segmentation-1.nii.gz]",
    "check deeplesion [deeplesion/DL_info.csv]",
    "check deeplesion [slice]",
    "check msd [msd/dataset.json]",
    "prepare lits -o out --recipe tiny [lits/volume-1.nii.gz]",
    "prepare lits -o out --recipe tiny [lits/segmentation-1.nii.gz]",
    "prepare lits -o out --recipe [recipe.yaml]",
    "predict -m demo -i [lits/volume-1.nii.gz] -o out",
    "predict -m run -i lits/volume-0.nii.gz -o out [run/config.json]",
    "predict -m run -i lits/volume-0.nii.gz -o out [run/model.safetensors]",
    "evaluate lits --reference lits --prediction lits -o s.json [lits/segmentation-1.nii.gz]",
    "evaluate detection --reference lits --prediction lits -o s.json [lits/segmentation-1.nii.gz]",
    "evaluate deeplesion --reference [deeplesion/DL_info.csv] --prediction deeplesion/DL_info.csv -o s.json",
    "compare [a.json] b.json",
    "render -l [lits/segmentation-1.nii.gz] -o p.png",
    "render -i [lits/volume-1.nii.gz] -l lits/segmentation-0.nii.gz -o p.png --kind panels",
    "train recipe.yaml --data store -o out --device cpu [store/store.json]",
    "train recipe.yaml --data store -o out --device cpu [store/cases/volume-0/case.json]",
    "train recipe.yaml --data store -o out --device cpu --weights [weights.pth]",
)
"""Commands; what stands in brackets is replaced, and at the end of a command it is not a word of it."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("words", "make"), [*((words, pipe) for words in WORDS), *((words, endless) for words in WORDS[::4])]
)
def test_no_command_waits(
    words: str,
    make: Callable[[Path], None],
    tmp_path: Path,
    write_lits_case: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (0, 1):
        write_lits_case(number)
    if "deeplesion" in words:
        write_phantoms(tmp_path / "deeplesion", 2, 3, size=64, kind="deeplesion")
        words = words.replace("[slice]", f"[{next(iter(sorted(Path().glob('deeplesion/Images_png/*/*.png'))))}]")
    if "store" in words:
        write_store(tmp_path / "store", cases=3, depth=6)
    if "-m run" in words:
        shutil.copytree(checkpoints.DEMO, tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(small_recipe().text())
    (tmp_path / "msd").mkdir()
    for name in ("a.json", "b.json"):
        write_scores(tmp_path / name, {"kind": "lits", "settings": {}, "cases": []})
    replaced = Path(words[words.index("[") + 1 : words.index("]")])
    replaced.unlink(missing_ok=True)
    make(replaced)
    given = words.replace("[", "").replace("]", "").split()
    if replaced.parts[0] in ("run", "store", "msd", "lits", "deeplesion") and words.endswith("]"):
        given = given[:-1] if given[0] != "compare" else given
    with pytest.raises(SystemExit) as ended:
        main(given)
    said = capsys.readouterr()
    assert ended.value.code in (1, 2), said
    assert "Traceback" not in said.err
    told = said.out + said.err
    assert replaced.name in told or f"slice {int(replaced.stem)} " in told
