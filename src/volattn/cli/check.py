"""`volattn check`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from volattn.cli import exits
from volattn.cli.options import Auxiliary, DataSet, Force, KeepNoisy, OrganOnly, TrustGrid, split_commas

if TYPE_CHECKING:
    from volattn.datasets.issues import Issue

NAME = "check"
_NO_FOLDER = "there is no such folder"


@exits.verb(after_stop="nothing was changed")
def command(
    dataset: DataSet,
    organ_only: OrganOnly = False,
    auxiliary: Auxiliary = None,
    keep_noisy: KeepNoisy = False,
    force: Force = False,
    trust_grid: TrustGrid = False,
) -> int:
    """Lists every error of a data set, with what to do about it."""
    from volattn.cli.progress import shown
    from volattn.datasets.case import Reading
    from volattn.datasets.check import check_dataset
    from volattn.datasets.open import open_dataset
    from volattn.io.names import count_of

    opened = open_dataset(dataset, Reading(keep_noisy, organ_only, split_commas(auxiliary)))
    print(f"{opened.name}: labels read as {opened.described_labels}")
    with shown() as progress:
        issues = one_per_folder(check_dataset(opened, force, progress, trust_grid=trust_grid))
    for issue in issues:
        print(issue)
    errors = sum(issue.severity == "error" for issue in issues)
    counts = ((len(opened.cases), "case"), (errors, "error"), (len(issues) - errors, "note"))
    exits.say_left_out(opened.left_out)
    print(f"{opened.name}: " + ", ".join(count_of(n, thing) for n, thing in counts))
    return exits.SOME_FAILED if errors else exits.GOOD


def one_per_folder(issues: list[Issue]) -> list[Issue]:
    """Missing folders, each once however many key slices it has, sorted, behind all other issues."""
    missing: dict[Path, Issue] = {}
    others = []
    for issue in issues:
        if issue.severity == "error" and _NO_FOLDER in issue.message:
            missing.setdefault(issue.file, replace(issue, message=issue.message[issue.message.index(_NO_FOLDER) :]))
        else:
            others.append(issue)
    return others + [missing[folder] for folder in sorted(missing)]
