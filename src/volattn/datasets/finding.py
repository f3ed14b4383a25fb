"""What is wrong or odd in a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One fault or oddity.

    Attributes:
        case: The case's name; empty where it concerns the whole data set.
        file: The file it was found in.
        severity: "error": the case cannot be used as it is; "note": it can.
        message: What is wrong and what to do, one sentence without the file's name.
    """

    case: str
    file: Path
    severity: Literal["error", "note"]
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.message}"


class Findings:
    """Collects what is wrong with one case.

    Args:
        case: Its name.
    """

    def __init__(self, case: str) -> None:
        self.case = case
        self.found: list[Finding] = []

    def error(self, file: Path, message: str) -> None:
        """Adds a fault."""
        # The readers' errors begin with the file's name, which a finding holds by itself.
        self.found.append(Finding(self.case, file, "error", message.removeprefix(f"{file}: ")))

    def note(self, file: Path, message: str) -> None:
        """Adds an oddity."""
        self.found.append(Finding(self.case, file, "note", message.removeprefix(f"{file}: ")))
