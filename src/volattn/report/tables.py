"""Scores as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from volattn.io.names import count_of
from volattn.report.pages import Cell, Column, Table, span
from volattn.scoring.lesions import SIZES, Size
from volattn.scoring.metrics import METRICS, find_metric, metrics_of, sums_of, title_of
from volattn.scoring.statistics import few_warning, percentile_interval, resamples

SIZE_NAMES: dict[Size, str] = {"small": "small (< 15 mm)", "medium": "medium (15-30 mm)", "large": "large (> 30 mm)"}

Content = Mapping[str, Any]
"""Of a `scores.json`, or a part of it."""


def score_tables(content: Content) -> tuple[Table, ...]:
    """The tables of an evaluation of any kind."""
    if content["kind"] == "deeplesion":
        return (detection_table(content, f"DeepLesion, subset {content['subset']}"),)
    if content["kind"] == "detection":
        return (detection_table(content, f"Preset {content['settings']['preset']}"),)
    return (
        _overview(content),
        case_table(content["cases"], organ=organ_of(content)),
        size_table(content),
        _detection_table(content),
        _challenge_table(content),
    )


def organ_of(content: Content) -> str | None:
    """The organ's name in the scores of label maps; None for lesions only."""
    return None if content["liver"] is None else content.get("organ") or "liver"


def _overview(content: Content) -> Table:
    """Every metric of label maps (`METRICS`) over all cases."""
    cases, organ, metrics, seed = content["cases"], organ_of(content), metrics_of("masks"), content["bootstrap"]["seed"]
    sums, counts = sums_of(cases, list(metrics))
    weights = np.stack([np.ones(len(cases)), *resamples(len(cases), seed)])
    drawn = weights @ counts
    means = np.divide(weights @ sums, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    intervals = percentile_interval(means[1:]).T.tolist()
    rows: list[tuple[Cell, ...]] = []
    for column, metric in enumerate(metrics.values()):
        if drawn[0, column]:
            form = ".3f" if metric.unit == "share" else ".2f"
            ends = span(intervals[column], form) if len(cases) > 1 else None
            rows.append((title_of(metric.key, organ), format(means[0, column], form), ends, int(drawn[0, column])))
    return Table(
        f"Means over {count_of(len(cases), 'case')} or their lesions; 95 % intervals by bootstrap over cases, "
        f"seed {seed}{few_warning(len(cases), 'case')}",
        (Column("Metric"), Column("Mean"), Column("95 %"), Column("n", "d")),
        tuple(rows),
    )


def case_table(
    cases: Sequence[Content],
    *,
    organ: str | None,
    upper_bounds: Sequence[float] | None = None,
    caption: str = "Case by case",
) -> Table:
    """One row per case, the means of several below.

    Args:
        cases: `CaseScore.as_json`, or the cases of `evaluate lits`; at least one.
        organ: The organ's name; None for data with lesions only.
        upper_bounds: Of each case the lesion Dice that the reference masks themselves keep at the model's resolution.
    """
    heads = [Column("Case")]
    heads += [] if organ is None else [Column(f"{organ.capitalize()} Dice", ".3f")]
    heads += [Column("Lesion Dice", ".3f")]
    heads += [] if upper_bounds is None else [Column("Upper bound", ".3f")]
    counts = [Column("Lesions found"), Column("False positives", "g")]
    columns = (*heads, *counts, Column("Lesion ml", ".1f"), Column("Predicted ml", ".1f"))
    rows: list[tuple[Cell, ...]] = []
    found = [sum(lesion["dice"] > 0 for lesion in case["reference_lesions"]) for case in cases]
    lesions = [len(case["reference_lesions"]) for case in cases]
    for place, case in enumerate(cases):
        inside = case.get("organ") or case.get("liver")
        dices: list[Cell] = [] if organ is None else [None if inside is None else inside["dice"]]
        dices += [case["lesion"]["dice"], *([] if upper_bounds is None else [upper_bounds[place]])]
        name = case["name"] + (" (trained on)" if case["trained_on"] else "")
        rows.append((name, *dices, f"{found[place]} of {lesions[place]}", case["false_positives"], *_volumes(case)))
    if len(rows) < 2:
        return Table(caption, columns, tuple(rows))

    def mean(cells: Sequence[Any]) -> float | None:
        values = [cell for cell in cells if cell is not None]
        return sum(values) / len(values) if values else None

    _, *dice_columns, _, false, reference_ml, predicted_ml = zip(*rows, strict=True)
    foot = [f"Mean of {len(rows)}", *map(mean, dice_columns), f"{sum(found)} of {sum(lesions)}"]
    foot += [round(mean(false) or 0.0, 2), mean(reference_ml), mean(predicted_ml)]
    return Table(caption, columns, tuple(rows), (tuple(foot),))


def _volumes(case: Content) -> tuple[float, float]:
    """Of the lesions of reference and prediction, ml."""
    if "volume_ml" in case:
        return case["volume_ml"]["lesion"]["reference"], case["volume_ml"]["lesion"]["prediction"]
    return case["lesion"]["reference_ml"], case["lesion"]["prediction_ml"]


def size_table(scores: Content, *, caption: str = "Lesion by lesion, by largest axial extent") -> Table:
    """Dice per lesion and recall by size, of `Summary.as_json` or, with intervals, of `evaluate lits`."""
    ends = scores.get("intervals")
    between = () if ends is None else (Column("95 %"),)

    def row(title: str, score: Content, ends: Content | None) -> tuple[Cell, ...]:
        recall, dice = (
            () if ends is None else (span(ends[key], form),) for key, form in (("recall", ".2f"), ("dice", ".3f"))
        )
        return (title, score["lesions"], score["found"], score["recall"], *recall, score["dice"], *dice)

    sizes = scores.get("by_size") or scores["sizes"]
    counts = (Column("Size"), Column("Lesions", "d"), Column("Found", "d"))
    return Table(
        caption,
        (*counts, Column("Recall", ".2f"), *between, Column("Dice", ".3f"), *between),
        tuple(row(SIZE_NAMES[size], sizes[size], ends and ends["by_size"][size]) for size in SIZES),
        (row("all", scores["all_sizes"], ends and ends["all_sizes"]),),
    )


def _challenge_table(content: Content) -> Table:
    scores = ("dice_per_case", "dice_global", *(key for key in metrics_of("overlap") if key in content["lesion"]))
    names = {"dice_per_case": "Dice per case", "dice_global": "Dice over all voxels"}
    columns = [Column("Metric")]
    rows: list[tuple[Cell, ...]] = [(names.get(key) or METRICS[key].column,) for key in scores]
    for title, key in (("Lesions", "lesion"), ((organ_of(content) or "").capitalize(), "liver")):
        if content[key] is not None:
            columns += [Column(title, ".4f"), Column("95 %")]
            values, ends = content[key], content["intervals"][key]
            rows = [(*row, values[one], span(ends[one], ".4f")) for row, one in zip(rows, scores, strict=True)]
    return Table(
        f"As the LiTS challenge scores {count_of(len(content['cases']), 'case')}; lesions below the second row are "
        "the detected ones only",
        tuple(columns),
        tuple(rows),
    )


def _detection_table(content: Content) -> Table:
    scores, ends = content["lesion_detection"], content["intervals"]["lesion_detection"]
    rows: list[tuple[Cell, ...]] = []
    for threshold, suffix in (("0", "_greater_zero"), ("0.5", "")):
        counts = content["counts"][threshold]
        row: list[Cell] = [f"> {threshold}"]
        for key, part in (
            ("recall", ("TP", "references")),
            ("precision", ("predictions_taking_part", "predictions")),
            ("f1", ()),
        ):
            row += [scores[f"{key}{suffix}"], span(ends[f"{key}{suffix}"], ".3f")]
            row += ["{} of {}".format(*(counts[one] for one in part))] if part else []
        rows.append(tuple(row))
    heads = ("Overlap", "Recall", "95 %", "Detected", "Precision", "95 %", "Right", "F1", "95 %")
    return Table("Lesion detection", tuple(Column(head, ".3f") for head in heads), tuple(rows))


def detection_table(content: Content, caption: str) -> Table:
    """Sensitivities at false positives per image, all lesions first and then group by group.

    Args:
        content: Of `evaluate deeplesion` or `evaluate detection`.
    """
    unit = "image" if "images" in content else "scan"
    sensitivities = f"sensitivity_at_fp_per_{unit}"
    others = [key for key, metric in METRICS.items() if metric.pooled is not None and key in content]

    def cells(values: Content) -> list[Any]:
        return [*values[sensitivities].values(), *(values[key] for key in others)]

    columns = (
        Column("Lesions"),
        Column("Count", "d"),
        *(Column(f"{level} FP", ".3f") for level in content[sensitivities]),
        *(Column("Mean" if key == "mean_sensitivity" else METRICS[key].title, ".3f") for key in others),
    )
    rows: list[tuple[Cell, ...]] = [("all", content["lesions"], *cells(content))]
    for key, groups in content.items():
        if key.startswith("by_"):
            kind = key.removeprefix("by_").replace("_", " ")
            rows += [(f"{kind} {name}", group["lesions"], *cells(group)) for name, group in groups.items()]
    ends = cells(content["intervals"])
    foot: list[tuple[Cell, ...]] = [
        (f"all, 95 % {word}", None, *(None if pair is None else pair[place] for pair in ends))
        for place, word in enumerate(("from", "to"))
    ]
    counted = ", ".join(count_of(content[f"{thing}s"], thing) for thing in ("lesion", unit, "patient"))
    few = few_warning(content["patients"], "patient").replace("they are", "intervals are")
    return Table(
        f"{caption}: sensitivity at false positives per {unit} ({counted}){few}", columns, tuple(rows), tuple(foot)
    )


def comparison_table(content: Content) -> Table:
    """One row per metric of a comparison, and whether its difference is significant."""
    left_out = f", {content['cases_left_out']} left out" if content["cases_left_out"] else ""
    few = few_warning(content["cases_compared"], "case").replace("they are", "intervals are")
    forms = {"A": ".4g", "B": ".4g", "B - A": "+.3g", "95 % from": "+.3g", "to": "+.3g", "p": ".2g", "p (Holm)": ".2g"}
    rows: list[tuple[Cell, ...]] = []
    for row in content["rows"]:
        metric, verdict = find_metric(row["metric"]), "yes" if row["significant"] else "no"
        better = metric.improves(row["difference"]) if metric is not None and row["significant"] else None
        verdict += "" if better is None else f", {'B' if better else 'A'} better"
        values = (row["a"], row["b"], row["difference"], *(row["interval"] or (None, None)), row["p"], row["p_holm"])
        rows.append((title_of(row["metric"], content.get("organ")), *values, row["n"], verdict))
    return Table(
        f"B against A on {count_of(content['cases_compared'], 'case')}{left_out}; a difference is significant if its "
        f"95 % interval excludes 0 and Wilcoxon's p, corrected by Holm, is below 0.05{few}",
        (Column("Metric"), *(Column(*form) for form in forms.items()), Column("n", "d"), Column("Significant")),
        tuple(rows),
    )
