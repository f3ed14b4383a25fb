"""The whole path on one real CT: check, prepare, train until it fits, predict, score.

    python benchmarks/real_case.py LITS work/real-case

LITS is a folder with `volume-44.nii.gz` and `segmentation-44.nii.gz` (LiTS's training case 44, the same CT as
3D-IRCADb-01's case 17). The model is trained on this one volume, from the demo weights, and scored on it: that it can
fit a real CT is shown, not that it knows another. The demo weights, which have only seen phantoms, are scored on it
first. Every step is the command that a user would type. Killed at any moment and called again it goes on where it
was. Commands, log, numbers and picture go into docs/results/real_case.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from volattn import checkpoints
from volattn.datasets.case import Dataset
from volattn.datasets.check import check_dataset
from volattn.datasets.open import open_dataset
from volattn.inference.results import Files
from volattn.io.files import atomic_path, write_json, write_text
from volattn.provenance import commit, versions
from volattn.report.pages import Cell, Column, Table
from volattn.report.scores import size_table
from volattn.scoring.cases import CaseScore, score_folder, summarise
from volattn.studies.scoring import score_perfect
from volattn.studies.stages import StageLog
from volattn.training.recipe import Recipe, load_recipe

LESION_BAR, LIVER_BAR = 0.80, 0.93


class Shell:
    """Runs `volattn` and writes down what was typed and what it said.

    Args:
        log: The file that everything is added to; it survives a kill.
        names: Paths and what stands for them in the log.
    """

    def __init__(self, log: Path, names: dict[Path, str]) -> None:
        self.log = log
        self.names = names

    def run(self, *arguments: str | Path) -> None:
        """Runs a command; its output appears here and in the log.

        Raises:
            ValueError: It failed.
        """
        typed = self._plain("volattn " + " ".join(map(str, arguments)))
        self._note(f"\n$ {typed}\n")
        command = [sys.executable, "-m", "volattn", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self._note(self._plain(line))
        if process.returncode != 0:
            raise ValueError(f"{typed}: failed with exit code {process.returncode}; see {self.log}")

    def _plain(self, text: str) -> str:
        for path, name in self.names.items():
            text = text.replace(str(path), name)
        return text

    def _note(self, text: str) -> None:
        print(text, end="", flush=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(text)


def main() -> int:
    """Runs the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lits", type=Path, help="folder with the volume and its segmentation")
    parser.add_argument("work", type=Path, help="folder for the store, the run and the predictions")
    parser.add_argument("--case", default="volume-44", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of training (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=4e-4, help="learning rate (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the recipe")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/results/real_case"))
    options = parser.parse_args()

    work = options.work
    dataset = only(open_dataset(options.lits), options.case)
    image = dataset.cases[0].image
    log = StageLog.claim(
        work / "real_case.json",
        "real case",
        {key: getattr(options, key) for key in ("case", "steps", "lr", "set")}
        | {"weights": checkpoints.fingerprint("demo")},
    )
    shell = Shell(work / "log.txt", {options.lits: "LITS", work: "WORK"})
    recipe = make_recipe(options)
    write_text(work / "real_case.yaml", recipe.text())

    with log.stage("check"):
        shell.run("check", options.lits)
    with log.stage("prepare"):
        shell.run("prepare", options.lits, "-o", work / "store", "--recipe", work / "real_case.yaml")
    with log.stage("predict with the demo weights"):
        predict(shell, "demo", image, work / "demo", options.lits)
    with log.stage("train"):
        shell.run("train", work / "real_case.yaml", "--data", work / "store", "-o", work / "run", "--resume")
    with log.stage("predict"):
        predict(shell, work / "run", image, work / "prediction", options.lits)
    with log.stage("score"):
        before = score(dataset, work / "demo")
        after = score(dataset, work / "prediction")
        kept = score_perfect(dataset.cases[0], dataset.scheme, recipe.plan, recipe.model)
    log.finish({"demo_weights": before.as_json(), "trained_on_it": after.as_json()})
    return publish(options, recipe, log, before, after, kept)


def only(dataset: Dataset, name: str) -> Dataset:
    """The data set with this case alone."""
    cases = tuple(case for case in dataset.cases if case.name == name)
    if not cases:
        raise ValueError(f"{dataset.root}: has no {name}; its cases are {', '.join(one.name for one in dataset.cases)}")
    return replace(dataset, cases=cases)


def make_recipe(options: argparse.Namespace) -> Recipe:
    """`tiny`, with the network and plan of the demo weights, on a single case that trains and chooses the threshold."""
    folder = checkpoints.read_folder("demo")
    recipe = load_recipe("tiny").model_copy(update={"name": "real_case", "model": folder.model, "plan": folder.plan})
    settings = [
        "weights=demo",
        f"optimiser.lr={options.lr}",
        f"schedule.length={options.steps}",
        f"validation.every={max(1, options.steps // 4)}",
        "validation.fraction=0",
        *options.set,
    ]
    return recipe.updated(settings)


def predict(shell: Shell, model: str | Path, image: Path, out: Path, reference: Path) -> None:
    """Predicts the case, unless that is done."""
    shell.run("predict", "-m", model, "-i", image, "-o", out, "--reference", reference, "--resume")


def score(dataset: Dataset, predictions: Path) -> CaseScore:
    """Scores the case; a failure ends everything."""
    scores = score_folder(dataset, predictions)
    if scores.failed:
        raise ValueError(scores.failed[0])
    return scores.cases[0]


def comparison(before: CaseScore, after: CaseScore, kept: CaseScore) -> Table:
    """The model before and after it was trained on the case, and what the reference keeps at its resolution."""
    rows: list[tuple[Cell, ...]] = []
    for name, one in (("demo weights", before), ("trained on this CT", after), ("ceiling", kept)):
        lesions = one.lesionwise
        found = sum(lesion.found for lesion in lesions.lesions)
        rows.append(
            (
                name,
                None if one.organ is None else one.organ.dice,
                one.lesion.dice,
                f"{found} of {len(lesions.lesions)}",
                lesions.false_positives,
            )
        )
    return Table(
        "One case, two models; the ceiling is what the reference masks themselves keep at this resolution",
        (
            Column("Model"),
            Column("Liver Dice", ".3f"),
            Column("Lesion Dice", ".3f"),
            Column("Lesions found"),
            Column("False positives", "d"),
        ),
        tuple(rows),
    )


def publish(
    options: argparse.Namespace, recipe: Recipe, log: StageLog, before: CaseScore, after: CaseScore, kept: CaseScore
) -> int:
    """Writes the results; 1 if a bar is missed."""
    out, work = options.out, options.work
    assert before.organ is not None
    assert after.organ is not None
    met = after.lesion.dice >= LESION_BAR and after.organ.dice >= LIVER_BAR
    recall = before.organ.both / max(1, before.organ.reference)
    scored = summarise([after])
    tables = f"{comparison(before, after, kept).text()}\n{size_table(scored.sizes, scored.all_sizes).text()}"
    notes = "".join(
        f"- {finding.message}\n" for finding in check_dataset(only(open_dataset(options.lits), options.case))
    )
    seconds = "\n".join(f"| {stage} | {value:.0f} s |" for stage, value in log.seconds.items())
    text = f"""# One real CT: {options.case}

LiTS training case (volume-44 is 3D-IRCADb-01's case 17, IRCAD, CC BY-NC-ND; the CT itself is not part of this
project). The model was trained on this one volume, from the demo weights, for {options.steps} steps at
{recipe.plan.size} x {recipe.plan.size} pixels and {recipe.plan.z_spacing} mm, and scored on the same volume.
That shows that the whole path fits a real CT; it shows nothing about other patients.

| | result | bar | |
|---|---|---|---|
| lesion Dice | {after.lesion.dice:.3f} | {LESION_BAR:.2f} | {"met" if after.lesion.dice >= LESION_BAR else "MISSED"} |
| liver Dice | {after.organ.dice:.3f} | {LIVER_BAR:.2f} | {"met" if after.organ.dice >= LIVER_BAR else "MISSED"} |

The demo weights, which have seen nothing but phantoms, cover {recall:.0%} of this patient's liver (Dice
{before.organ.dice:.3f}); their lesion Dice is {before.lesion.dice:.3f}.

```
{tables.rstrip()}
```

![Slices with the largest lesions, outlined]({options.case}.png)

What `volattn check` says of the file (a picture shows what its header says):

{notes or "- nothing"}

## Again

`python benchmarks/real_case.py LITS WORK --steps {options.steps} --lr {options.lr:g}` types the commands in
[log.txt](log.txt); the recipe is [real_case.yaml](real_case.yaml). {os.cpu_count()} CPU cores:

| stage | time |
|---|---|
{seconds}
"""
    write_text(out / "README.md", text)
    write_text(out / "log.txt", (work / "log.txt").read_text(encoding="utf-8").lstrip())
    write_text(out / "real_case.yaml", recipe.text())
    write_json(
        out / "scores.json",
        {
            "demo_weights": before.as_json(),
            "trained_on_it": after.as_json(),
            "reference_at_model_resolution": kept.as_json(),
            "versions": versions(),
            "commit": commit(),
        },
    )
    for folder, name in (("prediction", f"{options.case}.png"), ("demo", f"{options.case}_demo_weights.png")):
        with atomic_path(out / name) as temporary:
            shutil.copyfile(Files.of(work / folder, options.case, masks=True).picture, temporary)
    print(f"{tables}\n{out}: written; {'both bars met' if met else 'a bar is MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
