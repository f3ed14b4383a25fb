"""Configurations are strict, name every fault, and survive the way to a file and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from volattn.models.config import ModelConfig


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_configuration_survives_a_file(tmp_path: Path, kind: str) -> None:
    config = ModelConfig().updated(["bag=5", "attention.kind=channel", "backbone.name=resnet18"])
    path = tmp_path / f"config.{kind}"
    path.write_text(config.text(kind))
    assert ModelConfig.read(path) == config


def test_settings_reach_nested_keys_and_keep_their_types() -> None:
    config = ModelConfig().updated(["proposals.anchor_sizes=[[8],[16],[32],[64],[128]]", "regions.score=0.2"])
    assert config.proposals.anchor_sizes[0] == (8.0,)
    assert config.regions.score == 0.2
    assert ModelConfig().regions.score == 0.05


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attention.knd=both", r"unknown key 'knd'; did you mean kind\?"),
        ("atention.kind=both", r"unknown key 'atention'; did you mean attention\?"),
        ("bag.size=3", r"unknown key 'size'"),
        ("bag", r"write it as key=value"),
        ("bag=[", r"--set bag=\[: the value is not valid yaml"),
        ("bag=2001-99-99", r"the value is not valid yaml"),
        ("bag=four", r"bag: .*\(found 'four'\)"),
        ("attention.kind=triple", r"attention.kind: "),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig().updated([setting])


def test_what_does_not_fit_together_is_said_without_all_the_values() -> None:
    with pytest.raises(ValueError, match="the last that is kept") as caught:
        ModelConfig().updated(["backbone.stages=3", "backbone.deformable={stages: [5]}"])
    assert str(caught.value).endswith(
        "backbone: deformable.stages names stage 5, but the last that is kept is 4"
    )


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, message in (
        ("bags: 9\n", r"config.yaml: unknown key 'bags'; did you mean bag\?"),
        ("attention: {kinds: both}\n", r"unknown key 'attention.kinds'; did you mean kind\?"),
        ("- 1\n", r"config.yaml: expected a mapping"),
        ("a: [\n", r"config.yaml: is not valid yaml"),
        ("a: " + 5000 * "[", r"config.yaml: is not valid yaml"),
        ("a: 2001-99-99\n", r"config.yaml: is not valid yaml"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            ModelConfig.read(path)
    with pytest.raises(ValueError, match=r"absent.json: cannot be read"):
        ModelConfig.read(tmp_path / "absent.json")
