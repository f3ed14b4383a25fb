"""The demo: unseen phantoms, predicted with the slices around each slice and without, and a page of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from volattn import checkpoints
from volattn.config import Config
from volattn.datasets.open import open_dataset
from volattn.inference.predict import load
from volattn.inference.prediction import Files
from volattn.inference.results import predict_files
from volattn.io.files import sha256
from volattn.io.names import count_of
from volattn.phantoms.write import write_phantoms
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Page, Table
from volattn.report.tables import case_table, size_table
from volattn.scoring.cases import CaseScore, score_folder, summarise
from volattn.studies.manifest import StudyManifest, claim_study
from volattn.studies.scoring import upper_bound
from volattn.workers import Progress

Announce = Callable[[str], None]

WEIGHTS = "demo"
MANIFEST = "demo.json"
SEEN, HIDDEN = "predictions", "predictions-alone"
"""Folders of what is predicted with and without the slices around each slice."""
WITH, WITHOUT = "the slices around each slice", "each slice alone"

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
        size: Rows and columns of a slice.
    """

    seed: int = Field(7, ge=0)
    cases: int = Field(8, ge=1)
    size: int = Field(512, ge=64)


@dataclass(frozen=True)
class DemoResult:
    """The demo's results.

    Attributes:
        cases: Scores of the phantoms, predicted as the model was trained.
        alone: The same with the slices around each slice hidden from attention.
        upper_bounds: Scores of their reference masks at the model's resolution, in the same order.
        failed: One line for each phantom that could not be predicted or scored.
        seconds: By stage, over all runs in this folder.
    """

    out: Path
    cases: tuple[CaseScore, ...]
    alone: tuple[CaseScore, ...]
    upper_bounds: tuple[CaseScore, ...]
    failed: tuple[str, ...]
    seconds: dict[str, float]
    settings: dict[str, Any]

    @property
    def page(self) -> Path:
        return self.out / "index.html"

    def picture(self, case: CaseScore, way: str = SEEN) -> bytes:
        """Of a case's prediction, as PNG."""
        return Files.of(self.out / way, case.name, masks=True).picture.read_bytes()

    @property
    def most_changed(self) -> tuple[CaseScore, CaseScore]:
        """The case whose errors change most by what lies around a slice, with and without."""

        def change(pair: tuple[CaseScore, CaseScore]) -> tuple[int, float]:
            first, second = pair
            return abs(_errors(first) - _errors(second)), abs(first.lesion.dice - second.lesion.dice)

        return max(zip(self.cases, self.alone, strict=True), key=change)

    def as_json(self) -> dict[str, Any]:
        return {
            "summary": summarise(self.cases).as_json(),
            "alone": summarise(self.alone).as_json(),
            "cases": [case.as_json() for case in self.cases],
            "upper_bound": summarise(self.upper_bounds).as_json(),
            "failed": list(self.failed),
        }

    @property
    def tables(self) -> tuple[Table, ...]:
        """With and without, case by case, and size by size."""
        rows = []
        for name, cases in ((WITH, self.cases), (WITHOUT, self.alone)):
            found = summarise(cases)
            liver = None if found.organ is None else found.organ.dice_per_case
            sizes = found.all_sizes
            dice = found.lesion.dice_per_case
            rows.append((name, dice, f"{sizes.found} of {sizes.lesions}", found.false_positives_per_case, liver))
        columns = (Column("Attention sees"), Column("Lesion Dice", ".3f"), Column("Lesions found"))
        return (
            Table(
                f"Mean of {count_of(len(self.cases), 'case')}",
                (*columns, Column("False positives a case", ".2f"), Column("Liver Dice", ".3f")),
                tuple(rows),
            ),
            case_table(
                [case.as_json() for case in self.cases],
                organ="liver",
                upper_bounds=[case.lesion.dice for case in self.upper_bounds],
                caption="Case by case, with the slices around",
            ),
            size_table(
                summarise(self.cases).as_json(), caption="Lesions by largest axial extent, with the slices around"
            ),
        )

    @property
    def text(self) -> str:
        """For the terminal."""
        return "\n".join([*(table.text() for table in self.tables), f"{NO_PATIENTS}\n\nPage: {self.page}\n"])


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
        workers: Processes that make phantoms.
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
    with manifest.stage("phantoms"):
        say(f"1/4  Making {count_of(config.cases, 'phantom')}: synthetic abdominal CT, no patients")
        write_phantoms(
            out / "phantoms", config.cases, config.seed, size=config.size, workers=workers, progress=progress
        )
        dataset = open_dataset(out / "phantoms")
        for case in dataset.cases:
            if folder.provenance is not None and folder.provenance.seen(sha256(case.image)) is not None:
                raise ValueError(
                    f"{case.image}: the weights in the package were trained on this phantom, so that seed "
                    f"{config.seed} is no test; give another seed"
                )
    errors: dict[str, str] = {}
    for number, (way, sees) in enumerate(((SEEN, WITH), (HIDDEN, WITHOUT)), start=2):
        with manifest.stage(way):
            say(f"{number}/4  Predicting them with the weights in the package; attention sees {sees}")
            outcomes = predict_files(
                load(WEIGHTS, neighbours=way == SEEN),
                [case.image for case in dataset.cases],
                out / way,
                reference=out / "phantoms",
                resume=True,
                progress=progress,
            )
            errors |= {one.name: one.message for one in outcomes if one.error is not None}
    with manifest.stage("score"):
        say("4/4  Scoring them against their references")
        predicted = replace(dataset, cases=tuple(case for case in dataset.cases if case.name not in errors))
        seen, alone = (score_folder(predicted, out / way, progress=progress) for way in (SEEN, HIDDEN))
        upper_bounds = tuple(upper_bound(case, dataset.scheme, folder.plan, folder.model) for case in predicted.cases)
    failed, settings = tuple(errors.values()), manifest.content["settings"]
    result = DemoResult(out, seen.cases, alone.cases, upper_bounds, failed, manifest.seconds, settings)
    _page(result).write(result.page)
    manifest.finish(result.as_json())
    return result


def _page(result: DemoResult) -> Page:
    page = Page("volattn demo: lesions in CT, with and without context")
    page.lead(
        f"A small model that comes with the package was shown {count_of(len(result.cases), 'synthetic abdominal CT')} "
        "that it had never seen. It finds the liver and the lesions in it slice by slice, with attention to the slices "
        "above and below. Then it was shown the same CTs again, with these slices hidden."
    )
    page.notice(NO_PATIENTS)
    together, *others = result.tables
    page.table(together)
    page.paragraph(
        "Both rows are one model, trained with the slices around; hiding them says what attention carries in this "
        "model. A model that was trained without them is the fairer rival of the method: see the project's page on its "
        "claim."
    )

    page.section("Where the slices around change most")
    first, second = result.most_changed
    if _errors(first) == _errors(second):
        page.paragraph(
            "In no case is a lesion found, missed or falsely reported because of them: this model judges each slice by "
            "itself, and its attention carries nothing that matters."
        )
    else:
        for case, way, sees in ((first, SEEN, WITH), (second, HIDDEN, WITHOUT)):
            _figure(page, result.picture(case, way), case, f"attention sees {sees}")

    page.section("What it found")
    page.paragraph(
        "Each row is a slice, shown as a radiologist reads it: the patient's right is on the left, the back "
        "is below. The slices are those with the largest lesions. A lesion counts as found if the prediction "
        "touches it. The phantoms hold decoys on purpose (vessels, ducts, a gallbladder, fat) that look like "
        "lesions within a slice; only their course through the slices shows what they are."
    )
    for case in result.cases:
        _figure(page, result.picture(case), case)

    page.section("Scores")
    for table in others:
        page.table(table)
    page.paragraph(UPPER_BOUND)
    if result.failed:
        page.notice("Failed: " + "; ".join(result.failed))

    page.section("How it was made")
    page.table(
        Table(
            "Time on this machine",
            (Column("Stage"), Column("Seconds", ".0f")),
            tuple(result.seconds.items()),
            (("all", sum(result.seconds.values())),),
        )
    )
    page.paragraph("Nothing was trained here. To train a model of your own, on more phantoms:")
    page.code(
        "volattn phantom -o cts --cases 40 --seed 1\n"
        "volattn prepare cts -o store --recipe demo\n"
        "volattn train demo --data store -o run\n"
        f"volattn predict -m run -i phantoms/{result.cases[0].name}.nii.gz -o results --reference phantoms"
    )
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    source = commit()
    return page.footer(f"Phantom seed {result.settings['seed']}. {libraries}{f', commit {source}' if source else ''}.")


def _figure(page: Page, picture: bytes, case: CaseScore, way: str = "") -> None:
    words = f"{f'{way}: ' if way else ''}{_describe(case)}"
    page.figure(
        picture,
        f"Slices of {case.name} with outlines of the liver and of lesions found, missed and falsely reported: {words}.",
        f"{case.name}, {words}." if way else f"{case.name}: {words}.",
    )


def _errors(case: CaseScore) -> int:
    lesions = case.lesionwise
    return sum(not lesion.found for lesion in lesions.lesions) + lesions.false_positives


def _describe(case: CaseScore) -> str:
    lesions = case.lesionwise
    found = sum(lesion.found for lesion in lesions.lesions)
    total, false = len(lesions.lesions), lesions.false_positives
    liver = "" if case.organ is None else f", liver Dice {case.organ.dice:.3f}"
    return (
        f"{found} of {count_of(total, 'lesion')} found, {count_of(false, 'false positive')}, "
        f"lesion Dice {case.lesion.dice:.3f}{liver}"
    )
