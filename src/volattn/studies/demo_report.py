"""The demo's results, for the terminal and as a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volattn.io.names import count_of
from volattn.provenance import commit, versions
from volattn.report.pages import Column, Page, Result, Table
from volattn.report.tables import case_table, size_table
from volattn.scoring.cases import CaseScore, Summary

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


@dataclass(frozen=True)
class Bar:
    """A score, the least value that it must reach, and its upper bound at the model's resolution."""

    name: str
    value: float
    least: float
    upper_bound: float

    @property
    def met(self) -> bool:
        """Whether the score is high enough."""
        return self.value >= self.least

    @property
    def verdict(self) -> str:
        """In words."""
        verdict = "met" if self.met else "MISSED"
        return f"bar {self.least:.2f}: {verdict}; upper bound {self.upper_bound:.3f}"


@dataclass(frozen=True)
class DemoResult:
    """The demo's results.

    Attributes:
        page: `index.html`.
        cases: Scores of the unseen phantoms.
        upper_bounds: Scores of their reference masks at the model's resolution, in the same order.
        pictures: Of their predictions, in the same order.
        summary: Of `cases`.
        upper_bound: Of `upper_bounds`.
        failed: One line for each phantom that could not be predicted or scored.
        seconds: By stage, over all runs in this folder.
        losses: Of each step of the training.
        settings: The demo's.
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
        """The scores that must reach a value."""
        found, highest = self.summary, self.upper_bound
        assert found.organ is not None, "phantoms have livers"
        assert highest.organ is not None
        return (
            Bar("Lesion Dice per case", found.lesion.dice_per_case, LESION_BAR, highest.lesion.dice_per_case),
            Bar("Liver Dice per case", found.organ.dice_per_case, LIVER_BAR, highest.organ.dice_per_case),
        )

    def as_json(self) -> dict[str, Any]:
        """The scores as plain values."""
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


def build_page(result: DemoResult) -> Page:
    """The page of pictures, complete in itself."""
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
