"""`volattn check`."""

from __future__ import annotations

import typer

from volattn.cli import exits
from volattn.cli.options import DataSet, Debug, Force, KeepNoisy, TrustGrid

NAME = "check"


def command(
    dataset: DataSet,
    force: Force = False,
    trust_grid: TrustGrid = False,
    keep_noisy: KeepNoisy = False,
    debug: Debug = False,
) -> None:
    """Lists every fault of a data set, with what to do about it."""

    def run() -> int:
        from volattn.cli.progress import shown
        from volattn.datasets.check import check_dataset
        from volattn.datasets.open import open_dataset
        from volattn.io.names import count_of

        opened = open_dataset(dataset, keep_noisy=keep_noisy)
        with shown() as progress:
            findings = check_dataset(opened, force, progress, trust_grid=trust_grid)
        for finding in findings:
            print(finding)
        errors = sum(finding.severity == "error" for finding in findings)
        counts = ((len(opened.cases), "case"), (errors, "error"), (len(findings) - errors, "note"))
        exits.say_left_out(opened.left_out)
        print(f"{opened.name}: " + ", ".join(count_of(n, thing) for n, thing in counts))
        return exits.SOME_FAILED if errors else exits.GOOD

    raise typer.Exit(exits.run(run, after_stop="nothing was changed", debug=debug))
