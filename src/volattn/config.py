"""The base of every configuration: frozen, strict, in YAML or JSON."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What YAML and JSON raise: their own errors, ValueError for dates that are none, RecursionError for deep nesting."""


class Config(BaseModel):
    """A frozen set of values that rejects unknown keys.

    Variants of anything in volattn are values of such a class, never subclasses or copied files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Any, source: str) -> Self:
        """Builds the configuration from plain values.

        Args:
            values: A mapping, as read from YAML or JSON.
            source: Where the values come from; errors name it.

        Raises:
            ValueError: A key is unknown or a value does not fit; the message names each one.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{source}: expected a mapping of keys to values, found {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = "; ".join(_describe(fault, cls) for fault in error.errors())
            raise ValueError(f"{source}: {faults}") from None

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Reads a `.yaml` or `.json` file.

        Raises:
            ValueError: The file is missing, is not YAML or JSON, or does not fit.
        """
        return cls.parse(read_values(path), str(path))

    def text(self, kind: str = "yaml") -> str:
        """The configuration as YAML or JSON text."""
        values = self.model_dump(mode="json")
        if kind == "json":
            return json.dumps(values, indent=2) + "\n"
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def updated(self, settings: list[str] | tuple[str, ...]) -> Self:
        """Applies `key=value` settings; nested keys are joined by dots, values are YAML.

        Raises:
            ValueError: A setting has no `=`, an unknown key (near names are offered) or a value that does not fit.
        """
        given = [parse_setting(setting) for setting in settings]
        values = self.settable(dict(given))
        for setting, (key, value) in zip(settings, given, strict=True):
            *parents, last = key.split(".")
            place = values
            for name in parents:
                place = _child(place, name, setting)
            _child(place, last, setting)
            place[last] = value
        return type(self).parse(values, "--set " + " ".join(settings))

    def settable(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The plain values that settings change: every key that may be set, as it is before them.

        Args:
            given: The settings by their dotted keys; one may decide which others there are.
        """
        return self.model_dump(mode="json")


def read_values(path: Path | str) -> Any:
    """What a `.yaml` or `.json` file says, as plain values.

    Raises:
        ValueError: The file is missing, or is not YAML or JSON.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: is not valid {path.suffix[1:]} ({error})") from None


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with some of its values replaced: mappings are merged, anything else takes the place.

    Args:
        base: What holds where `changes` says nothing.
        changes: What goes before it.
    """
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merged(below, value)
        result[key] = value
    return result


def parse_setting(setting: str, form: str = "key=value") -> tuple[str, Any]:
    """Key and value of `--set KEY=VALUE`, the value as YAML.

    Args:
        setting: What the user typed.
        form: How it should look.

    Raises:
        ValueError: There is no "=", or the value is not YAML.
    """
    key, separator, text = setting.partition("=")
    if not separator:
        raise ValueError(f"--set {setting}: write it as {form}")
    try:
        return key.strip(), yaml.safe_load(text)
    except _UNREADABLE as error:
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ValueError(f"--set {setting[:80]}: the value is not valid yaml ({problem})") from None


def _child(place: Any, name: str, setting: str) -> Any:
    if not isinstance(place, dict) or name not in place:
        known = sorted(place) if isinstance(place, dict) else []
        raise ValueError(f"--set {setting}: unknown key {name!r}{_nearest(name, known)}")
    return place[name]


def _describe(fault: Any, cls: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}{_nearest(str(fault['loc'][-1]), _keys(cls, fault['loc'][:-1]))}"
    if fault["type"] == "value_error":  # It says itself what was found.
        return f"{where}: {fault['ctx']['error']}" if where else str(fault["ctx"]["error"])
    return f"{where}: {fault['msg']} (found {fault['input']!r})" if where else str(fault["msg"])


def _keys(cls: type[BaseModel], parents: tuple[Any, ...]) -> list[str]:
    for part in parents:
        field = cls.model_fields.get(part)
        if (
            field is None
            or not isinstance(field.annotation, type)
            or not issubclass(field.annotation, BaseModel)
        ):
            return []
        cls = field.annotation
    return sorted(cls.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known keys: {', '.join(known)}" if known else ""
