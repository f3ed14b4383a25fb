"""Which cases train and which validate, by patient and by seed."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import model_validator

from volattn.config import Config
from volattn.datasets.case import in_parts, natural_key
from volattn.io.files import write_text
from volattn.io.names import count_of


class Split(Config):
    """A split of a data set's cases.

    Attributes:
        train: Names of the cases to train on, in natural order.
        validation: Names of the cases to validate on, in natural order.
        seed: What decided it.
        fold: "k/n" if it is one of n folds.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    seed: int
    fold: str | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> Split:
        both = sorted(set(self.train) & set(self.validation))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be in both parts of a split")
        return self

    def write(self, path: Path | str) -> None:
        """Writes the split as JSON; `Split.read` reads it."""
        write_text(path, self.text("json"))


def make_split(
    names: Sequence[str],
    seed: int,
    fraction: float = 0.25,
    fold: str | None = None,
    patients: Mapping[str, str] | None = None,
) -> Split:
    """Splits cases by patient.

    The order of patients is that of a hash of seed and patient: it depends neither on the order of `names`
    nor on the version of a random generator, and a case that is added moves no other one far.

    Args:
        names: Names of all cases.
        seed: Another seed gives another split.
        fraction: Share of the patients that validate, rounded; at least one and never all of them.
        fold: "k/n", k from 1 to n: the k-th of n parts validates, instead of `fraction`.
        patients: Case name -> patient, where a patient has several cases; by default each case is a patient.

    Returns:
        The split. A single patient trains, and the validation part is empty.

    Raises:
        ValueError: There are no cases or a name is there twice, the fraction is not in [0, 1), or the fold is
            malformed or asks for more parts than there are patients.
    """
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a split needs cases with different names, found {len(names)}")
    cases: dict[str, list[str]] = defaultdict(list)
    for name in names:
        cases[patients[name] if patients else name].append(name)
    order = sorted(cases, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    if fold is None:
        if not 0 <= fraction < 1:
            raise ValueError(f"the validation fraction must be at least 0 and below 1, found {fraction}")
        count = min(max(round(len(order) * fraction), 1 if fraction else 0), len(order) - 1)
        chosen = order[:count]
    else:
        part, parts = _parse_fold(fold, len(order))
        chosen = order[part - 1 :: parts]
    validation = {name for patient in chosen for name in cases[patient]}
    ordered = sorted(names, key=natural_key)
    return Split(
        train=tuple(name for name in ordered if name not in validation),
        validation=tuple(name for name in ordered if name in validation),
        seed=seed,
        fold=fold,
    )


def official_split(parts: Mapping[str, str], train: Sequence[str], seed: int, source: str) -> Split:
    """The data set's own split.

    Args:
        parts: Case -> "train", "val" or "test".
        train: The parts to train on. The cases of "val" validate, unless they train.
        seed: Noted; it decides nothing here.
        source: Whose split it is; errors name it.

    Raises:
        ValueError: There is no such split or part.
    """
    training = sorted(in_parts(parts, train, source), key=natural_key)
    validation = [] if "val" in train else [name for name, part in parts.items() if part == "val"]
    return Split(train=tuple(training), validation=tuple(sorted(validation, key=natural_key)), seed=seed)


def _parse_fold(fold: str, patients: int) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", fold)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts or parts < 2:
        raise ValueError(f"fold {fold!r}: write it as k/n with k from 1 to n and n at least 2, e.g. 1/5")
    if parts > patients:
        raise ValueError(f"fold {fold!r}: only {count_of(patients, 'patient')} for {parts} folds")
    return part, parts
