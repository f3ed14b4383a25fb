"""The demo: phantoms, a short training, predictions of unseen phantoms, their scores and a page of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from volattn import checkpoints
from volattn.checkpoints import ModelFolder
from volattn.config import Config
from volattn.datasets.open import open_dataset
from volattn.inference.predict import load
from volattn.inference.prediction import Files
from volattn.inference.results import predict_files
from volattn.io.files import sha256
from volattn.io.names import count_of
from volattn.phantoms.write import write_phantoms
from volattn.preprocessing.prepare import prepare_dataset
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Page, Result, Table
from volattn.report.tables import case_table, size_table
from volattn.scoring.cases import CaseScore, Summary, score_folder, summarise
from volattn.studies.manifest import StudyManifest, claim_study
from volattn.studies.scoring import upper_bound
from volattn.training.folder import read_metrics
from volattn.training.recipe import Recipe, load_recipe
from volattn.training.run import train
from volattn.workers import Progress

Announce = Callable[[str], None]

WEIGHTS = "demo"
MANIFEST = "demo.json"

LESION_BAR = 0.45
"""Mean lesion Dice per case that weights trained on two CPU cores must reach (on a GPU it would be 0.60)."""
LIVER_BAR = 0.93
"""Mean liver Dice per case."""

NO_PATIENTS = (
    "These are phantoms: images made by a program, not patients. The numbers say that everything works from "
    "end to end; they say nothing about how well it works on people. Nothing here is for clinical use."
)
UPPER_BOUND = (
    "The upper bound is the lesion Dice that the reference masks themselves keep when they are resampled to the "
    "model's resolution and back: what a detector without mistakes would have."
)


class DemoConfig(Config):
    """The size of the demo; the defaults take a few minutes on two cores.

    Attributes:
        seed: Of the phantoms and of the training.
        training: Phantoms to train on; a quarter of them, at least one, is kept for validation.
        size: Rows and columns of a slice.
        lr: The weights were trained to its end: 1e-4 costs lesion Dice on phantoms of another seed (0.548 to 0.542).
    """

    seed: int = Field(7, ge=0)
    training: int = Field(4, ge=2)
    unseen: int = Field(8, ge=1)
    size: int = Field(512, ge=64)
    steps: int = Field(50, ge=1)
    lr: float = Field(2e-5, gt=0)


@dataclass(frozen=True)
class Bar:
    """A score, the least value that it must reach, and its upper bound at the model's resolution."""

    name: str
    value: float
    least: float
    upper_bound: float

    @property
    def met(self) -> bool:
        return self.value >= self.least

    @property
    def verdict(self) -> str:
        return f"bar {self.least:.2f}: {'met' if self.met else 'MISSED'}; upper bound {self.upper_bound:.3f}"


@dataclass(frozen=True)
class DemoResult:
    """The demo's results.

    Attributes:
        cases: Scores of the unseen phantoms.
        upper_bounds: Scores of their reference masks at the model's resolution, in the same order.
        pictures: Of their predictions, in the same order.
        failed: One line for each phantom that could not be predicted or scored.
        seconds: By stage, over all runs in this folder.
        losses: Of each step of the training.
    """

    page: Path
    cases: tuple[CaseScore, ...]
    upper_bounds: tuple[CaseScore, ...]
    pictures: tuple[Path, ...]
    summary: Summary
    upper_bound: Summary
    failed: tuple[str, ...]
    seconds: dict[str, float]
    losses: tuple[float, ...]
    settings: dict[str, Any]

    @property
    def bars(self) -> tuple[Bar, Bar]:
        found, highest = self.summary, self.upper_bound
        assert found.organ is not None, "phantoms have livers"
        assert highest.organ is not None
        return (
            Bar("Lesion Dice per case", found.lesion.dice_per_case, LESION_BAR, highest.lesion.dice_per_case),
            Bar("Liver Dice per case", found.organ.dice_per_case, LIVER_BAR, highest.organ.dice_per_case),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "summary": self.summary.as_json(),
            "cases": [case.as_json() for case in self.cases],
            "upper_bound": self.upper_bound.as_json(),
            "bars": [{"name": bar.name, "value": bar.value, "least": bar.least, "met": bar.met} for bar in self.bars],
            "failed": list(self.failed),
        }

    @property
    def tables(self) -> tuple[Table, Table]:
        """Case by case and size by size."""
        return (
            case_table(
                [case.as_json() for case in self.cases],
                organ="liver",
                upper_bounds=[case.lesion.dice for case in self.upper_bounds],
                caption="Unseen phantoms, case by case",
            ),
            size_table(self.summary.as_json(), caption="Their lesions by largest axial extent"),
        )

    @property
    def text(self) -> str:
        """For the terminal."""
        bars = "".join(f"{bar.name}: {bar.value:.3f} ({bar.verdict})\n" for bar in self.bars)
        return "\n".join([*(table.text() for table in self.tables), bars, f"{NO_PATIENTS}\n\nPage: {self.page}\n"])


def run_demo(
    out: Path | str,
    *,
    config: DemoConfig | None = None,
    workers: int = 2,
    resume: bool = False,
    progress: Progress | None = None,
    announce: Announce | None = None,
) -> DemoResult:
    """Runs the demo from end to end, in one folder.

    Args:
        workers: Processes that make and prepare phantoms.
        resume: Whether the folder may hold this demo already, which then goes on where it was stopped.
        progress: Called with what is being done, how much of it is done and how much there is.
        announce: Called with each line for the user.

    Raises:
        ValueError: The folder holds something else, a demo with other settings or (without `resume`) this one, the
            shipped weights were trained on the phantoms of this seed, or no case could be predicted.
    """
    config = config or DemoConfig()
    settings = {**config.model_dump(), "weights": checkpoints.fingerprint(WEIGHTS)}
    with claim_study(Path(out) / MANIFEST, "demo", settings, resume=resume) as manifest:
        return _run(Path(out), config, manifest, workers, progress, announce or (lambda text: None))


def _run(
    out: Path, config: DemoConfig, manifest: StudyManifest, workers: int, progress: Progress | None, say: Announce
) -> DemoResult:
    folder = checkpoints.read_folder(WEIGHTS)
    count = config.training + config.unseen
    with manifest.stage("phantoms"):
        say(f"1/5  Making {count_of(count, 'phantom')}: synthetic abdominal CT, no patients")
        write_phantoms(out / "phantoms", count, config.seed, size=config.size, workers=workers, progress=progress)
        dataset = open_dataset(out / "phantoms")
        for case in dataset.cases:
            if folder.provenance is not None and folder.provenance.seen(sha256(case.image)) is not None:
                raise ValueError(
                    f"{case.image}: the shipped weights were trained on this phantom, so that seed {config.seed} "
                    f"is no test; give another seed"
                )
    training = replace(dataset, cases=dataset.cases[: config.training])
    unseen = dataset.cases[config.training : count]

    with manifest.stage("prepare"):
        say(f"2/5  Preparing {config.training} of them for training")
        prepared = prepare_dataset(training, folder.plan, out / "store", workers=workers, progress=progress)
    with manifest.stage("train"):
        say(f"3/5  Training for {count_of(config.steps, 'step')}, from the weights that come with the package")
        train(_recipe(config, folder), prepared.store.path, out / "run", resume=True, progress=progress, announce=say)
    with manifest.stage("predict"):
        say(f"4/5  Predicting {count_of(config.unseen, 'phantom')} that the model has never seen")
        outcomes = predict_files(
            load(out / "run"),
            [case.image for case in unseen],
            out / "predictions",
            # The weights' own threshold: it was chosen on more cases than the demo has.
            threshold=folder.threshold,
            reference=out / "phantoms",
            resume=True,
            progress=progress,
        )
    with manifest.stage("score"):
        say("5/5  Scoring them against their references")
        done = {outcome.name for outcome in outcomes if outcome.error is None}
        predicted = tuple(case for case in unseen if case.name in done)
        scores = score_folder(replace(dataset, cases=predicted), out / "predictions", progress=progress)
        by_name = {case.name: case for case in predicted}
        upper_bounds = tuple(
            upper_bound(by_name[score.name], dataset.scheme, folder.plan, folder.model) for score in scores.cases
        )

    result = DemoResult(
        page=out / "index.html",
        cases=scores.cases,
        upper_bounds=upper_bounds,
        pictures=tuple(Files.of(out / "predictions", case.name, masks=True).picture for case in scores.cases),
        summary=summarise(scores.cases),
        upper_bound=summarise(upper_bounds),
        failed=(*(one.message for one in outcomes if one.error is not None), *scores.failed),
        seconds=manifest.seconds,
        losses=tuple(row["loss"] for row in read_metrics(out / "run") if "loss" in row),
        settings=manifest.content["settings"],
    )
    _page(result).write(result.page)
    manifest.finish(result.as_json())
    return result


def _recipe(config: DemoConfig, folder: ModelFolder) -> Recipe:
    """The recipe of the shipped weights, with a few steps that show training and change little."""
    recipe = load_recipe("tiny").model_copy(
        update={"model": folder.model, "plan": folder.plan, "weights": WEIGHTS, "seed": config.seed}
    )
    settings = {
        "schedule.length": config.steps,
        "schedule.warmup": min(10, config.steps // 4),
        "optimiser.lr": config.lr,
        # One validation, at the end: its time is better spent on steps.
        "validation.every": config.steps,
        "validation.fraction": 0.25,
        "validation.cases": 1,
        "save_every": 20,
    }
    return recipe.updated([f"{key}={value}" for key, value in settings.items()])


def _page(result: DemoResult) -> Page:
    found = result.summary.all_sizes
    page = Page("volattn demo: lesions in CT, found with volumetric attention")
    page.lead(
        f"A model was trained for {count_of(len(result.losses), 'step')} on {result.settings['training']} synthetic "
        f"abdominal CTs and then shown {len(result.cases)} that it had never seen. It finds the liver and "
        f"the lesions in it slice by slice, with attention to the slices above and below."
    )
    page.notice(NO_PATIENTS)
    page.results(
        [
            *(Result(bar.name, f"{bar.value:.3f}", bar.verdict, bar.met) for bar in result.bars),
            Result(
                "Lesions found",
                f"{found.found} of {found.lesions}",
                f"{result.summary.false_positives_per_case:.1f} false positives per case",
            ),
        ]
    )

    page.section("What it found")
    page.paragraph(
        "Each row is a slice, shown as a radiologist reads it: the patient's right is on the left, the back "
        "is below. The slices are those with the largest lesions. A lesion counts as found if the prediction "
        "touches it. The phantoms hold decoys on purpose (vessels, ducts, a gallbladder, fat) that look like "
        "lesions within a slice; only their course through the slices shows what they are."
    )
    for case, picture in zip(result.cases, result.pictures, strict=True):
        words = _describe(case)
        page.figure(
            picture.read_bytes(),
            f"Slices of {case.name} with outlines of the liver and of lesions found, missed and falsely "
            f"reported: {words}.",
            f"{case.name}: {words}.",
        )

    page.section("Scores")
    for table in result.tables:
        page.table(table)
    page.paragraph(UPPER_BOUND)
    if result.failed:
        page.notice("Failed: " + "; ".join(result.failed))

    page.section("How it was made")
    first, last = (sum(part) / len(part) for part in (result.losses[:10], result.losses[-10:]))
    page.paragraph(
        f"The training started from the small weights that come with the package, which learned from other "
        f"phantoms of the same program. Its mean loss was {first:.3f} over the first ten steps and {last:.3f} "
        f"over the last ten: so few steps change little, they show what training looks like. For a real training "
        f"follow the README's four commands on real data."
    )
    page.table(
        Table(
            "Time on this machine",
            (Column("Stage"), Column("Seconds", ".0f")),
            tuple(result.seconds.items()),
            (("all", sum(result.seconds.values())),),
        )
    )
    page.paragraph("The same by hand, with the phantoms that are here already:")
    page.code(
        "volattn check phantoms\n"
        "volattn prepare phantoms -o my-store --recipe tiny\n"
        "volattn train tiny --data my-store -o my-run --weights demo\n"
        f"volattn predict -m my-run -i phantoms/{result.cases[0].name}.nii.gz -o my-predictions \\\n"
        "  --reference phantoms"
    )
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    source = commit()
    return page.footer(f"Phantom seed {result.settings['seed']}. {libraries}{f', commit {source}' if source else ''}.")


def _describe(case: CaseScore) -> str:
    lesions = case.lesionwise
    found = sum(lesion.found for lesion in lesions.lesions)
    total, false = len(lesions.lesions), lesions.false_positives
    liver = "" if case.organ is None else f", liver Dice {case.organ.dice:.3f}"
    return (
        f"{found} of {count_of(total, 'lesion')} found, {count_of(false, 'false positive')}, "
        f"lesion Dice {case.lesion.dice:.3f}{liver}"
    )
