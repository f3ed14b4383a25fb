"""What a result depends on: versions and the code's commit; and of a model, which cases it was trained on."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from volattn.config import Config
from volattn.io.names import count_of

_LIBRARIES = ("volattn", "torch", "torchvision", "accelerate", "numpy", "scipy", "nibabel", "blosc2")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that a number can depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree that this code runs from, with "-dirty" if it was changed; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("-dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


class SeenCase(Config):
    """A case that a model's run used: a score on it is no test.

    Attributes:
        subset: What the run used it for.
        case: Its name there.
        known_by: "content" (the same file), or "name" where the run did not record contents.
    """

    subset: Literal["training", "validation"]
    case: str
    known_by: Literal["content", "name"]

    @property
    def note(self) -> str:
        role = "trained" if self.subset == "training" else "tuned"
        return f"the model was {role} on this case ({self.case} of its {self.subset} set): its score is no test"


class Provenance(Config):
    """`provenance.json` of a model folder: where the weights come from.

    Attributes:
        fingerprint: Of the store it was trained on.
        cases: Names of the training cases.
        validation: Names of the cases that chose the epoch and the threshold.
        sources: SHA-256 of the images of both by case name, so that a renamed case is recognised.
        step: Optimiser steps taken.
    """

    recipe: str
    dataset: str
    fingerprint: str
    cases: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    sources: dict[str, str] = {}
    seed: int = 0
    step: int = 0
    commit: str | None = None
    versions: dict[str, str] = {}

    def seen(self, sha256: str, name: str | None = None) -> SeenCase | None:
        """Whether the run trained or validated on a file, by its hash.

        The case's name counts only where the run did not record the content of its case of that name.
        """
        used = [("training", case) for case in self.cases] + [("validation", case) for case in self.validation]
        found = [(*one, "content") for one in used if self.sources.get(one[1]) == sha256]
        found += [(*one, "name") for one in used if one[1] == name and name not in self.sources]
        if not found:
            return None
        subset, case, known_by = found[0]
        return SeenCase.model_validate({"subset": subset, "case": case, "known_by": known_by})

    def notes_on(self, names: Collection[str]) -> tuple[str, ...]:
        """A sentence for each subset of the run that some cases are in, by names that mean one case everywhere."""
        counts = {
            role: len({*cases} & {*names}) for role, cases in (("trained", self.cases), ("tuned", self.validation))
        }
        total = count_of(len(names), "case")
        return tuple(
            f"the model was {role} on {seen} of {total}: their scores are no test"
            for role, seen in counts.items()
            if seen
        )
