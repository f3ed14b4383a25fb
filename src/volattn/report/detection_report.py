"""Scores of detections as a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from volattn.io.names import count_of
from volattn.report.pages import Result
from volattn.report.plots import draw_bars, draw_estimates, draw_froc
from volattn.report.report import SHOWN, Report, add_footer, add_notices, bootstrap_in_words, worst_of
from volattn.report.tables import detection_table
from volattn.scoring.froc import Start
from volattn.scoring.metrics import METRICS
from volattn.scoring.pool import FrocSettings, Pool, image_errors, pool_of, sensitivity_band
from volattn.scoring.score_files import froc_settings

OPERATING_LEVEL = 1.0
"""False positives per image at which groups and images are looked at."""
_POINTS = 120
_BEFORE: dict[Start, str] = {"zero": "0", "origin": "a straight line from no detection at all"}


def detection_report(content: Mapping[str, Any]) -> Report:
    """FROC with its band, sensitivity by group, images with the most errors first, and the table.

    Raises:
        ValueError: The content is not as `evaluate deeplesion` or `evaluate detection` writes it.
    """
    settings = froc_settings(content)
    assert settings is not None
    pool = pool_of(content["cases"], settings)
    way = (
        f"DeepLesion's key slices, subset {content['subset']}"
        if content["kind"] == "deeplesion"
        else f"volumes, preset {content['settings']['preset']}"
    )
    report = Report("Lesion detection: scores")
    counted = ", ".join(
        count_of(content[f"{thing}s"], thing) for thing in ("patient", settings.unit, "lesion", "detection")
    )
    report.lead(f"Detections on {way}: {counted}. {bootstrap_in_words(content, content['patients'], 'patient')}")
    add_notices(report, content)
    report.results(_results(content, settings))
    _add_curve(report, content, pool)
    _add_groups(report, content, settings)
    _add_images(report, pool)
    report.section("Table")
    report.table(detection_table(content, "All lesions, and group by group"))
    add_footer(report, content)
    return report


def _results(content: Mapping[str, Any], settings: FrocSettings) -> list[Result]:
    levels = ", ".join(f"{level:g}" for level in settings.averaged)
    names = {key: METRICS[key].title for key in settings.names if not key.startswith(settings.sensitivity_key)}
    names["mean_sensitivity"] += f" at {levels} FP per {settings.unit}"
    return [Result.measured(name, content[key], content["intervals"][key]) for key, name in names.items()]


def _add_curve(report: Report, content: Mapping[str, Any], pool: Pool) -> None:
    report.section("FROC")
    settings = pool.settings
    if not pool.lesions:
        report.paragraph("There is no lesion in the references, and so no sensitivity.")
        return
    scores = {detection.score for image in pool.images for detection in image.detections}
    single = " All detections have one score: there is one operating point, and no curve." if len(scores) == 1 else ""
    marks = {level: content[settings.sensitivity_key][f"{level:g}"] for level in settings.levels}
    fine = np.geomspace(settings.levels[0], settings.levels[-1], _POINTS)
    # The reported levels too, so that the curve goes through its marks.
    levels = np.unique(np.concatenate([fine, settings.levels]))
    report.picture(
        "froc",
        draw_froc(
            levels,
            pool.froc.sensitivity(levels),
            sensitivity_band(pool, levels, content["bootstrap"]["seed"]),
            marks,
            unit=settings.unit,
            note=f"{count_of(pool.lesions, 'lesion')}, {count_of(len(pool.patients), 'patient')}",
        ),
        f"Sensitivity against false positives per {settings.unit} with its interval.",
        f"All detections pooled over {count_of(len(pool.images), settings.unit)} and sorted by score; before its first "
        f"point the curve is {_BEFORE[settings.start]}.{single} The band is the interval at each number of false "
        "positives by itself.",
    )


def _add_groups(report: Report, content: Mapping[str, Any], settings: FrocSettings) -> None:
    key, level = settings.sensitivity_key, f"{OPERATING_LEVEL:g}"
    rows = [("all", content)]
    for kind, groups in content.items():
        if kind.startswith("by_"):
            rows += [(f"{kind[3:].replace('_', ' ')} {name}", group) for name, group in groups.items()]
    report.section("By group")
    report.picture(
        "sensitivity-by-group",
        draw_estimates(
            [f"{name} (n = {group['lesions']})" for name, group in rows],
            [group[key][level] for _, group in rows],
            [group["intervals"][key][level] for _, group in rows],
            axis=f"Sensitivity at {level} false positive per {settings.unit}",
        ),
        f"Sensitivity of groups of lesions at {level} false positive per {settings.unit}, with intervals.",
        "A false positive belongs to no group: each group is measured at the threshold of all lesions together.",
    )


def _add_images(report: Report, pool: Pool) -> None:
    unit, threshold = pool.settings.unit, pool.froc.threshold(OPERATING_LEVEL)
    errors = image_errors(pool, threshold)
    wrong = [one for one in errors if one.missed or one.false_positives]
    report.section(f"{unit.capitalize()}s with the most errors")
    at = (
        f"At a score of {threshold:.3g} and above, the lowest that gives at most {OPERATING_LEVEL:g} false positive "
        f"per {unit},"
        if np.isfinite(threshold)
        else "No score is high enough to keep to one false positive: without any detection"
    )
    missed, false = sum(one.missed for one in errors), sum(one.false_positives for one in errors)
    summary = (
        f"{at} {missed} of {count_of(pool.lesions, 'lesion')} missed, {count_of(false, 'false positive')} in "
        f"{count_of(len(pool.images), unit)}"
    )
    if not wrong:
        report.paragraph(f"{summary}.")
        return
    shown = wrong[:SHOWN]
    parts = {"missed lesions": [one.missed for one in shown], "false positives": [one.false_positives for one in shown]}
    report.picture(
        f"worst-{unit}s",
        draw_bars(
            [one.name for one in shown],
            parts,
            [f"{one.missed + one.false_positives}" for one in shown],
            axis=f"Errors in the {unit} (count)",
        ),
        f"Missed lesions and false positives of the {unit}s with the most errors.",
        f"{summary}. Shown: {worst_of(len(wrong), unit)} with errors.",
    )
