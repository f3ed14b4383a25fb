"""Which cases train and which validate, by patient and by seed."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import model_validator

from volattn.config import Config
from volattn.datasets.case import in_subsets, natural_key
from volattn.io.files import write_text
from volattn.io.names import count_of


class Split(Config):
    """Names of the cases that train and that validate, in natural order; `fold` is "k/n" for one of n folds."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    seed: int
    fold: str | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> Split:
        both = sorted(set(self.train) & set(self.validation))
        if both:
            raise ValueError(f"{', '.join(both)} cannot both train and validate")
        return self

    def write(self, path: Path | str) -> None:
        """As JSON; `Split.read` reads it."""
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
        fraction: Share of the patients that validate, rounded; at least one and never all of them.
        fold: "k/n", k from 1 to n: the k-th n-th of the patients validates, instead of `fraction`.
        patients: Case name -> patient, where a patient has several cases; by default each case is a patient.

    Returns:
        The split. A single patient trains, and none validates.

    Raises:
        ValueError: There are no cases or a name is there twice, the fraction is not in [0, 1), or the fold is
            malformed or there are fewer patients than folds.
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
        number, count = _parse_fold(fold, len(order))
        chosen = order[number - 1 :: count]
    validation = {name for patient in chosen for name in cases[patient]}
    ordered = sorted(names, key=natural_key)
    return Split(
        train=tuple(name for name in ordered if name not in validation),
        validation=tuple(name for name in ordered if name in validation),
        seed=seed,
        fold=fold,
    )


def official_split(subset_of: Mapping[str, str], train: Sequence[str], seed: int, source: str) -> Split:
    """The data set's own split: some subsets train, see `in_subsets`; "val" validates unless it trains."""
    training = in_subsets(subset_of, train, source)
    validation = [] if "val" in train else [name for name, subset in subset_of.items() if subset == "val"]
    train, validation = (sorted(names, key=natural_key) for names in (training, validation))
    return Split(train=tuple(train), validation=tuple(validation), seed=seed)


def _parse_fold(fold: str, patients: int) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", fold)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count or count < 2:
        raise ValueError(f"fold {fold!r}: write it as k/n with k from 1 to n and n at least 2, e.g. 1/5")
    if count > patients:
        raise ValueError(f"fold {fold!r}: only {count_of(patients, 'patient')} for {count} folds")
    return number, count
