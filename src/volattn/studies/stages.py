"""The manifest of a study: whose folder it is, how long each stage took, what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict

from volattn.config import Config
from volattn.io.files import read_json, write_json
from volattn.io.names import shown
from volattn.provenance import commit, versions


class _Manifest(Config):
    model_config = ConfigDict(extra="ignore")
    settings: dict[str, Any]
    seconds: dict[str, float]


class StageLog:
    """A study's manifest, kept up to date while its stages run.

    Args:
        path: The manifest.
        content: What it holds: "study", "settings", "seconds", and at the end "results".
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @classmethod
    def claim(cls, path: Path, study: str, settings: Mapping[str, Any]) -> Self:
        """Notes whose folder it is, or sees that it holds this very study already.

        Args:
            path: The manifest, in a folder that the caller has claimed.
            study: The study's name.
            settings: Plain values that decide its results.

        Raises:
            ValueError: The folder holds the study with other settings, or its manifest is damaged.
        """
        folder = path.parent
        if not path.is_file():
            log = cls(path, {"study": study, "settings": dict(settings), "seconds": {}})
            log.write()
            return log
        content = read_json(path)
        try:
            before = _Manifest.parse(content, str(path)).settings
        except ValueError as error:
            raise ValueError(f"{error}; it is not the manifest of a {study}, delete the folder") from None
        for key, value in settings.items():
            if before.get(key) != value:
                raise ValueError(
                    f"{folder}: holds a {study} with another {key} ({shown(before.get(key))}, now {value}); "
                    f"give another folder or delete this one"
                )
        return cls(path, content)

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, over all runs in this folder."""
        return self.content["seconds"]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Notes how long a stage takes, also one that is interrupted."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 1)
            self.write()

    def finish(self, results: Mapping[str, Any]) -> None:
        """Adds the results, and what they depend on."""
        self.content |= {"results": dict(results), "versions": versions(), "commit": commit()}
        self.write()

    def write(self) -> None:
        """Writes the manifest, atomically."""
        write_json(self.path, self.content)
