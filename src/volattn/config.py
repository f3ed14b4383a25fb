"""The base of every configuration: frozen, strict, in YAML or JSON."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from volattn.io.files import read_json, read_text
from volattn.io.names import SHOWN, count_of, cut, shown

# Bounds on whatever decides how much memory is asked for: ten times what anyone uses.
Channels = Annotated[int, Field(ge=1, le=16_384)]
Kernel = Annotated[int, Field(ge=1, le=99)]
Images = Annotated[int, Field(ge=1, le=255)]
Objects = Annotated[int, Field(ge=1, le=100_000)]
Steps = Annotated[int, Field(ge=1, le=10**7)]
Pixels = Annotated[float, Field(gt=0, le=16_384)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1e6)]

_YAML_BYTES = 2**16
"""Ten times the largest recipe; PyYAML needs a second for it."""
_FAULT, _FAULTS = 300, 5
"""Characters of a fault in a message, and how many faults it names."""
_WORDS = {
    "missing": "is missing",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "finite_number": "must be a finite number",
    "int_from_float": "must be a whole number",
    "too_short": "must have at least {min_length} values",
    "too_long": "must have at most {max_length} values",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_unicode": "must be text in UTF-8",
    "string_pattern_mismatch": "must be of the form {pattern}",
    "invalid_key": "must have text as its name",
    "none_required": "must be null",
    "int": "must be a whole number",
    "float": "must be a number",
    "string": "must be text",
    "bool": "must be true or false",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be a mapping of keys to values",
    "model": "must be a mapping of keys to values",
}
"""Plain words for what pydantic finds, by its type of error, or by what that begins with."""


class Config(BaseModel):
    """A frozen set of values that rejects unknown keys.

    Variants of anything in volattn are values of such a class, never subclasses or copied files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        strict = isinstance(values, Mapping) and cls.model_config.get("extra") == "forbid"
        keys = sorted(cls.model_fields)
        for key in values if strict else ():
            if key not in keys:
                raise ValueError(f"unknown key {shown(key)}{_nearest(str(key), keys)}")
        return values

    @classmethod
    def parse(cls, values: Any, source: str) -> Self:
        """Builds the configuration from a mapping, as read from YAML or JSON.

        Raises:
            ValueError: A key is unknown or a value does not fit; the message names the source and each one.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{source}: expected a mapping of keys to values, found {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = error.errors(include_url=False)
            sentences = [cut(describe(fault), _FAULT) for fault in faults[:_FAULTS]]
            more = [f"and {count_of(len(faults) - _FAULTS, 'more fault')}"] if len(faults) > _FAULTS else []
            raise ValueError(f"{source}: {'; '.join(sentences + more)}") from None

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
        return type(self).parse(values, cut("--set " + " ".join(settings), _FAULT))

    def settable(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The plain values that settings change, of which one, by its dotted key, may decide which there are."""
        return self.model_dump(mode="json")


def read_values(path: Path | str) -> Any:
    """The plain values of a `.yaml` or `.json` file.

    Raises:
        ValueError: The file is missing, or is not YAML or JSON.
    """
    path = Path(path)
    if path.suffix == ".json":
        return read_json(path)
    try:
        return parse_yaml(read_text(path, _YAML_BYTES))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not valid YAML ({error}); correct it") from None


_DEPTH = 50
"""Levels of brackets."""


class _Loader(yaml.SafeLoader):
    """YAML with the means of JSON: no aliases, which can multiply, no tags, dates or repeated keys."""

    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _fault(f"the alias *{event.anchor} is not taken; write the values out", event.start_mark)
        if event.tag is not None:
            raise _fault(f"the tag {event.tag} is not taken; leave it out", event.start_mark)
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level == _DEPTH:  # PyYAML's time grows with the square of it.
            raise _fault("nested too deeply", self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _fault(f"the key {shown(key.value)} is not text; put it in quotes", key.start_mark)
            if key.value in seen:
                raise _fault(f"the key {shown(key.value)} is there twice; keep one", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _fault(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text.

    Raises:
        yaml.YAMLError: It is not YAML, or has aliases, tags or repeated keys; in one line.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        problem = "nested too deeply"
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = f"{line}{error.problem}"
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # A number of too many digits
        problem = str(error)
    raise yaml.YAMLError(cut(problem, _FAULT)) from None


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with some of its values replaced: mappings are merged, anything else takes the place."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merged(below, value)
        result[key] = value
    return result


def pruned(values: Mapping[str, Any], cls: type[Config]) -> dict[str, Any]:
    """Of nested values those that a class of configuration has keys for."""
    kept = {}
    for key, value in values.items():
        if key in cls.model_fields:
            part: Any = cls.model_fields[key].annotation
            nested = isinstance(value, Mapping) and isinstance(part, type) and issubclass(part, Config)
            kept[key] = pruned(value, part) if nested else value
    return kept


def parse_setting(setting: str, form: str = "key=value") -> tuple[str, Any]:
    """Key and value of `--set KEY=VALUE`, the value as YAML.

    Raises:
        ValueError: There is no "=", or the value is not YAML.
    """
    key, separator, text = setting.partition("=")
    if not separator:
        raise ValueError(f"--set {cut(setting, SHOWN)}: write it as {form}")
    try:
        return key.strip(), parse_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {cut(setting, SHOWN)}: the value is not valid YAML ({error})") from None


def _child(place: Any, name: str, setting: str) -> Any:
    if not isinstance(place, dict) or name not in place:
        known = sorted(place) if isinstance(place, dict) else []
        raise ValueError(f"--set {cut(setting, SHOWN)}: unknown key {shown(name)}{_nearest(name, known)}")
    return place[name]


def describe(fault: Any) -> str:
    """One of pydantic's `ValidationError.errors()` in this program's words."""
    where = cut(".".join(str(part) for part in fault["loc"]), SHOWN)
    kind = fault["type"]
    if kind == "value_error":  # Its own sentence names what was found.
        sentence = str(fault["ctx"]["error"])
        return f"{where}: {sentence}" if where else sentence
    words = _WORDS.get(kind) or _WORDS.get(kind.split("_")[0]) or fault["msg"]
    sentence = words.format(**fault.get("ctx", {}))
    found = "" if kind == "missing" else f", found {shown(fault['input'])}"
    return f"{where}: {sentence}{found}" if where else f"{sentence}{found}"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name[:SHOWN], known, n=3)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{meant}{';' if not near else ''} known keys: {', '.join(known)}" if known else meant
