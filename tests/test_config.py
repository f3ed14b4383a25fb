"""Configurations are strict, name every fault, and survive the way to a file and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from volattn.models.detectors.rcnn import MaskRCNNConfig


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_configuration_survives_a_file(tmp_path: Path, kind: str) -> None:
    config = MaskRCNNConfig().updated(["bag=5", "attention.kind=channel", "backbone.name=resnet18"])
    path = tmp_path / f"config.{kind}"
    path.write_text(config.text(kind))
    assert MaskRCNNConfig.read(path) == config


def test_settings_reach_nested_keys_and_keep_their_types() -> None:
    config = MaskRCNNConfig().updated(["rpn.anchor_sizes=[[8],[16],[32],[64],[128]]", "roi_heads.score_thresh=0.2"])
    assert config.rpn.anchor_sizes[0] == (8.0,)
    assert config.roi_heads.score_thresh == 0.2
    assert MaskRCNNConfig().roi_heads.score_thresh == 0.05


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attention.knd=both", r"unknown key 'knd'; did you mean kind\?"),
        ("atention.kind=both", r"unknown key 'atention'; did you mean attention\?"),
        ("bag.size=3", r"unknown key 'size'"),
        ("bag", r"write it as key=value"),
        ("bag=[", r"--set bag=\[: the value is not valid YAML"),
        ("bag=2001-99-99", r"bag: must be a whole number, found '2001-99-99'"),
        ("bag=four", r"bag: must be a whole number, found 'four'"),
        ("bag=0", r"bag: must be at least 1, found 0"),
        ("attention.kind=triple", r"attention.kind: "),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskRCNNConfig().updated([setting])


def test_what_does_not_fit_together_is_said_without_all_the_values() -> None:
    with pytest.raises(ValueError, match="the last that is kept") as caught:
        MaskRCNNConfig().updated(["backbone.stages=3", "backbone.deformable={stages: [5]}"])
    assert str(caught.value).endswith("backbone: deformable.stages names stage 5, but the last that is kept is 4")


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, message in (
        ("bags: 9\n", r"config.yaml: unknown key 'bags'; did you mean bag\?"),
        ("attention: {kinds: both}\n", r"attention: unknown key 'kinds'; did you mean kind\?"),
        ("- 1\n", r"config.yaml: expected a mapping"),
        ("a: [\n", r"config.yaml: is not valid YAML"),
        ("a: " + 5000 * "[", r"config.yaml: is not valid YAML"),
        ("name: 2001-99-99\n", r"name: must be .*found '2001-99-99'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            MaskRCNNConfig.read(path)
    with pytest.raises(ValueError, match=r"absent.json: does not exist"):
        MaskRCNNConfig.read(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)),
        "bag: &a 3\nslices: *a\n",
        "bag: {<<: {a: 1}}\n",
        "bag: 3\nbag: 5\n",
        "1: 2\n",
        "no: 2\n",
        "[1]: 2\n",
        "bag: !!python/name:os.system\n",
        "bag: !!bool maybe\n",
        "bag: !!int ''\n",
        "bag: !mine 3\n",
        "bag: 0x" + 5000 * "F" + "\n",
        "bag: " + 5000 * "9" + "\n",
        "bag: 1" + 300 * ":10" + ".5\n",
        "bag: .nan\n",
        "roi_heads: {score_thresh: .inf}\n",
        "bag: " + 9000 * "x" + "\n",
        9000 * "x" + ": 3\n",
        "bag: [" + "1, " * 2000 + "]\n",
        "mean: [" + "a, " * 2000 + "]\n",
        "bag: " + 90 * "{a: " + 90 * "}" + "\n",
        "bag: " + 9000 * "- " + "\n",
        'bag: "\\0\\e\\n"\n',
        "bag: \0\n",
        "bag: =\n",
        "--- 1\n--- 2\n",
        "# " + 200_000 * "x",
        "",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_an_odd_text_is_one_short_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml: ") as caught:
        MaskRCNNConfig.read(path)
    message = str(caught.value).removeprefix(str(path))
    assert len(message) < 1000
    assert message.isprintable()


@pytest.mark.parametrize("value", ["*a", "!!set {a}", "{1: 2}", "0x" + 5000 * "F", 9000 * "x", "\n\0"])
def test_an_odd_setting_is_one_short_line(value: str) -> None:
    with pytest.raises(ValueError, match="--set bag=") as caught:
        MaskRCNNConfig().updated([f"bag={value}"])
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_at_most_five_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"rpn": {"anchor_sizes": [["x"]] * 8}}))
    with pytest.raises(ValueError, match=r"anchor_sizes.4.0: must be a number, found .x.; and 3 more faults"):
        MaskRCNNConfig.read(path)
