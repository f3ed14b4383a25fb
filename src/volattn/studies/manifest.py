"""The manifest of a study or demo: the settings that a folder belongs to, how long each stage took, the results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from volattn.config import Config
from volattn.io.files import read_json, write_json
from volattn.io.names import shown
from volattn.io.output import LOCK, claim_folder
from volattn.provenance import commit, versions


class _Content(Config):
    model_config = ConfigDict(extra="ignore")
    settings: dict[str, Any]
    seconds: dict[str, float]


class StudyManifest:
    """A manifest that is kept up to date while its stages run; see `claim_study`.

    Attributes:
        content: "study", "settings", "seconds" by stage, and at the end "results".
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @property
    def seconds(self) -> dict[str, float]:
        return self.content["seconds"]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time that a stage takes, also one that is interrupted."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)
            self.write()

    def finish(self, results: Mapping[str, Any]) -> None:
        """Adds the results and the versions that they depend on."""
        self.content |= {"results": dict(results), "versions": versions(), "commit": commit()}
        self.write()

    def write(self) -> None:
        """Writes the manifest, atomically."""
        write_json(self.path, self.content)


@contextmanager
def claim_study(
    path: Path, what: str, settings: Mapping[str, Any], *, resume: bool, lock: str = LOCK, links: str | None = None
) -> Iterator[StudyManifest]:
    """Keeps a folder to this study while the block lasts.

    Args:
        path: The manifest, in the folder.
        what: What the folder holds, for errors, e.g. "study".
        settings: Plain values that decide the results.
        resume: Whether the folder may hold this study already.

    Raises:
        ValueError: See `claim_folder`; or the study in the folder has other settings, or its manifest is damaged.
    """
    with claim_folder(path.parent, marker=path.name, what=what, resume=resume, lock=lock, links=links):
        if path.is_file():
            manifest = StudyManifest(path, _read(path, what, settings))
        else:
            manifest = StudyManifest(path, {"study": what, "settings": dict(settings), "seconds": {}})
            manifest.write()
        yield manifest


def _read(path: Path, what: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path)
    try:
        before = _Content.parse(content, str(path)).settings
    except ValueError as error:
        raise ValueError(f"{error}; it is not the manifest of a {what}, delete the folder") from None
    for key, value in settings.items():
        if before.get(key) != value:
            raise ValueError(
                f"{path.parent}: holds a {what} with another {key} ({shown(before.get(key))}, now {value}); "
                f"give another folder or delete this one"
            )
    return content
