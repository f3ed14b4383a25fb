"""What is wrong or odd in a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from volattn.io.names import count_of, one_line


@dataclass(frozen=True)
class Issue:
    """One fault or oddity of a data set.

    Attributes:
        case: The case's name; empty where it concerns the whole data set.
        severity: "error": the case cannot be used as it is; "note": it can.
        message: What is wrong and what to do, one sentence without the file's name.
    """

    case: str
    file: Path
    severity: Literal["error", "note"]
    message: str

    def __str__(self) -> str:
        return one_line(f"{self.severity}: {self.file}: {self.message}")


@dataclass(frozen=True)
class LeftOut:
    """What a listing passed over.

    Attributes:
        what: What it is, beginning with "file" or "folder": "file in another format".
        fault: Why it could not be taken and what to do, without the file's name; None where nothing is wrong.
    """

    file: Path
    what: str
    fault: str | None = None

    @property
    def issue(self) -> Issue:
        assert self.fault is not None
        return Issue("", self.file, "error", self.fault)


def faults_among(left_out: Iterable[LeftOut]) -> dict[str, str]:
    """Printable file name -> message, of what should have been taken and could not."""
    return {one_line(one.file.name): one_line(f"{one.file}: {one.fault}") for one in left_out if one.fault is not None}


def count_left_out(left_out: Iterable[LeftOut]) -> str | None:
    """One sentence with the number and names of what was left out without a fault; None if nothing was."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for one in left_out:
        if one.fault is None:
            kinds[one.what].append(one_line(one.file.name))
    parts = []
    for what, names in kinds.items():
        noun, _, rest = what.partition(" ")
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        parts.append(f"{count_of(len(names), noun)} {rest} ({shown})")
    return f"left out: {'; '.join(parts)}" if parts else None


@dataclass
class Issues:
    """Collects what is wrong with one case; messages may begin with the file's name, as those of readers do."""

    case: str
    found: list[Issue] = field(default_factory=list, init=False)

    def error(self, file: Path, message: str) -> None:
        self.found.append(Issue(self.case, file, "error", message.removeprefix(f"{file}: ")))

    def note(self, file: Path, message: str | None) -> None:
        """A note; None is none."""
        if message is not None:
            self.found.append(Issue(self.case, file, "note", message.removeprefix(f"{file}: ")))

    @contextmanager
    def errors_of(self, file: Path) -> Iterator[None]:
        """Makes a ValueError in its block an error of a file."""
        try:
            yield
        except ValueError as error:
            self.error(file, str(error))
