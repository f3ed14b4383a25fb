"""Scores of label maps as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from volattn.io.names import count_of
from volattn.report.pages import Column, Result, Table
from volattn.report.plots import draw_agreement, draw_bars, draw_estimates, draw_spread
from volattn.report.report import SHOWN, Report, add_footer, add_notices, bootstrap_in_words, worst_of
from volattn.report.tables import SIZE_NAMES, organ_of, score_tables
from volattn.scoring.lesions import SIZES

_QUANTITIES = {
    "lesion_volume_ml": "volume of a found lesion, ml",
    "lesion_long_axis_mm": "long axis of a found lesion, mm",
    "lesion_volume_per_case_ml": "lesion volume of a case, ml",
    "liver_volume_per_case_ml": "{organ} volume of a case, ml",
}


def lits_report(content: Mapping[str, Any]) -> Report:
    """Dice and recall by size, volumes, cases with the worst first, and tables, of the content of `evaluate lits`."""
    cases, lesions, organ = content["cases"], content["all_sizes"]["lesions"], organ_of(content)
    strict = ", lesions counted with the faults of the challenge's scorer" if content["settings"]["strict"] else ""
    title = f"{'' if organ is None else f'{organ} '}lesions: scores of {count_of(len(cases), 'case')}"
    report = Report(title.capitalize())
    report.lead(
        f"Predicted label maps against their references: {count_of(len(cases), 'case')} with "
        f"{count_of(lesions, 'reference lesion')}{strict}. {bootstrap_in_words(content, len(cases), 'case')}"
    )
    add_notices(report, content)
    report.results(_results(content))
    _add_sizes(report, content)
    _add_volumes(report, content)
    report.section("Case by case")
    _add_dices(report, cases, "lesion", "Lesion")
    if organ is not None:
        _add_dices(report, cases, "liver", organ.capitalize())
    report.section("Tables")
    for table in score_tables(content):
        report.table(table)
    report.section("No FROC curve")
    report.paragraph(
        "Label maps carry no scores: they are one operating point, and have no FROC curve. volattn evaluate detection "
        "draws the curve of predictions that come with scores, such as the NAME.json that volattn predict writes."
    )
    add_footer(report, content)
    return report


def _results(content: Mapping[str, Any]) -> list[Result]:
    shown = [("lesion", "dice_per_case", "Lesion Dice per case"), ("lesion", "dice_global", "Lesion Dice, global")]
    if content["liver"] is not None:
        shown.append(("liver", "dice_per_case", f"{(organ_of(content) or '').capitalize()} Dice per case"))
    shown += [
        ("lesion_detection", "recall", "Lesions recalled at overlap > 0.5"),
        ("lesion_detection", "precision", "Predictions right at overlap > 0.5"),
    ]
    ends, false = content["intervals"], "false_positives_per_case"
    return [
        *(Result.measured(name, content[section][key], ends[section][key]) for section, key, name in shown),
        Result.measured("False positives per case", content[false], ends[false], ".2f"),
    ]


def _add_sizes(report: Report, content: Mapping[str, Any]) -> None:
    found = [lesion for case in content["cases"] for lesion in case["reference_lesions"]]
    intervals, names = content["intervals"]["by_size"], [SIZE_NAMES[size] for size in SIZES]
    dices = [[lesion["dice"] for lesion in found if lesion["size"] == size] for size in SIZES]
    labels = [f"{name}\nn = {len(of)}, {of.count(0)} missed" for name, of in zip(names, dices, strict=True)]
    report.section("By size of the lesion")
    report.picture(
        "dice-by-size",
        draw_spread(labels, dices, [intervals[size]["dice"] for size in SIZES], axis="Dice of a lesion"),
        "Dice of every reference lesion in three groups by long axis, with means and intervals.",
        f"Every dot is one of {count_of(len(found), 'reference lesion')}, against all predicted lesions that overlap "
        "it; a missed one has Dice 0. Size is the largest axial extent.",
    )
    groups = [*(content["by_size"][size] for size in SIZES), content["all_sizes"]]
    ends = [*(intervals[size]["recall"] for size in SIZES), content["intervals"]["all_sizes"]["recall"]]
    labels = [f"{name}: {of['found']} of {of['lesions']}" for name, of in zip([*names, "all"], groups, strict=True)]
    recalls, axis = [group["recall"] for group in groups], "Recall (share of lesions overlapped at all)"
    report.picture(
        "recall-by-size",
        draw_estimates(labels, recalls, ends, axis=axis),
        "Recall of the lesions by long axis, with intervals.",
        f"Lesions that the prediction overlaps at all, at {content['false_positives_per_case']:.2f} false positives "
        "per case.",
    )


def _add_volumes(report: Report, content: Mapping[str, Any]) -> None:
    report.section("Volumes")
    cases = content["cases"]
    lesions = [lesion for case in cases for lesion in case["reference_lesions"]]
    missed = sum(lesion["predicted_volume_ml"] is None for lesion in lesions)
    _add_agreement(
        report,
        content,
        "lesion_volume_ml",
        [(lesion["volume_ml"], lesion["predicted_volume_ml"] or 0.0) for lesion in lesions],
        "volume of a lesion",
        f"Left: each of {count_of(len(lesions), 'reference lesion')} against the union of the predicted lesions that "
        f"overlap it; {missed} missed. Right: the found ones as Bland and Altman draw them.",
        found_only=True,
    )
    organ = organ_of(content) or "organ"
    for key, part, name, together in (
        ("lesion_volume_per_case_ml", "lesion", "lesion", "lesions together"),
        ("liver_volume_per_case_ml", "liver", organ, f"{organ} with its lesions"),
    ):
        volumes = [case["volume_ml"][part] for case in cases if case["volume_ml"][part] is not None]
        if volumes:
            _add_agreement(
                report,
                content,
                key,
                [(volume["reference"], volume["prediction"]) for volume in volumes],
                f"{name} volume of a case",
                f"The same for the {together}, {count_of(len(volumes), 'case')}.",
            )
    forms = {"n": ("n", "d"), "bias": ("Bias", "+.3f"), "sd": ("SD", ".3f")}
    forms |= {"lower": ("Lower limit", "+.3f"), "upper": ("Upper limit", "+.3f")}
    report.table(
        Table(
            "Agreement in Bland and Altman's numbers: differences are predicted - reference",
            (Column("Quantity"), *(Column(*form) for form in forms.values())),
            tuple(
                (_QUANTITIES[key].format(organ=organ), *(found[number] for number in forms))
                for key, found in content["agreement"].items()
                if found["n"]
            ),
        )
    )


def _add_agreement(
    report: Report,
    content: Mapping[str, Any],
    key: str,
    pairs: Sequence[tuple[float, float]],
    quantity: str,
    caption: str,
    *,
    found_only: bool = False,
) -> None:
    agreement = content["agreement"][key]
    reference, prediction = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    limits = None if agreement["lower"] is None else (agreement["lower"], agreement["upper"])
    report.picture(
        key.removesuffix("_ml").replace("_", "-"),
        draw_agreement(
            reference,
            prediction,
            (prediction > 0) | (not found_only),
            quantity=quantity,
            unit="ml",
            bias=agreement["bias"],
            limits=limits,
        ),
        f"Predicted against reference {quantity} on log axes with the line of equality, and their differences against "
        "their means with bias and limits of agreement.",
        caption,
    )


def _add_dices(report: Report, cases: Sequence[Mapping[str, Any]], part: str, title: str) -> None:
    key = f"{part}_dice"

    def badness(case: Mapping[str, Any]) -> tuple[float, float]:
        """Dice, and where it is equal the volume that was missed or made up."""
        volume = case["volume_ml"][part]
        return case[key], -abs(volume["prediction"] - volume["reference"])

    def note(case: Mapping[str, Any]) -> str:
        volume, lesions = case["volume_ml"][part]["reference"], case["reference_lesions"]
        found = sum(lesion["dice"] > 0 for lesion in lesions)
        if part == "lesion" and not lesions:
            return f"{case[key]:.3f}  (no lesion)"
        counted = f", {found} of {len(lesions)} found" if part == "lesion" else ""
        return f"{case[key]:.3f}  ({volume:.{2 if volume < 10 else 1 if volume < 100 else 0}f} ml{counted})"

    shown = sorted(cases, key=badness)[:SHOWN]
    report.picture(
        f"{part}-dice-by-case",
        draw_bars(
            [case["name"] for case in shown],
            {"Dice": [case[key] for case in shown]},
            [note(case) for case in shown],
            axis=f"{title} Dice of the case",
            mean=float(np.mean([case[key] for case in cases])),
        ),
        f"{title} Dice of each case, the worst first.",
        f"{title} Dice, the worst case first ({worst_of(len(cases), 'case')}), with the reference's volume; the line "
        f"is the mean of all {len(cases)}.",
    )
