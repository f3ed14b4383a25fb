"""Whether a model has seen a case before: a score on such a case is no test."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from volattn.checkpoints import Training
from volattn.io.names import count_of


@dataclass(frozen=True)
class KnownCase:
    """A case that the model's run knew.

    Attributes:
        split: "training" or "validation".
        case: Its name there.
        known_by: "content" (the same file), "name" (the run did not note contents), or "name, not content":
            the file is another, of the same patient or not.
    """

    split: Literal["training", "validation"]
    case: str
    known_by: Literal["content", "name", "name, not content"]

    @property
    def note(self) -> str | None:
        """In words; None if only the name is the same, which says little where cases are numbered."""
        if self.known_by == "name, not content":
            return None
        role = "was trained on" if self.split == "training" else "was tuned on"
        return f"the model {role} this case ({self.case} of its {self.split} split): its score is no test"

    def as_json(self) -> dict[str, str]:
        """Plain values."""
        return {"split": self.split, "case": self.case, "known_by": self.known_by}


def known_case(training: Training, name: str, sha256: str) -> KnownCase | None:
    """Whether a model's run trained or validated on a file, by its content or its name.

    Args:
        training: Where the model comes from.
        name: The file's name, without `.nii.gz`.
        sha256: Of the file.
    """
    splits: tuple[tuple[Literal["training", "validation"], tuple[str, ...]], ...] = (
        ("training", training.cases),
        ("validation", training.validation),
    )
    for split, cases in splits:
        for case in cases:
            if training.sources.get(case) == sha256:
                return KnownCase(split, case, "content")
    for split, cases in splits:
        if name in cases:
            return KnownCase(split, name, "name, not content" if name in training.sources else "name")
    return None


def trained_among(training: Training, names: Collection[str]) -> tuple[str, ...]:
    """What is to be said of cases that a model's run knew by their names, a line for each of its splits.

    Args:
        training: Where the model comes from.
        names: The cases.
    """
    notes = []
    for role, cases in (("trained on", training.cases), ("tuned on", training.validation)):
        known = len({*cases} & {*names})
        if known:
            notes.append(f"the model was {role} {known} of {count_of(len(names), 'case')}: their scores are no test")
    return tuple(notes)
