"""The report of any stored scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volattn.report.detection_report import detection_report
from volattn.report.lits_report import lits_report
from volattn.report.report import Report

_BY_KIND = {"lits": lits_report, "deeplesion": detection_report, "detection": detection_report}


def build_report(content: Mapping[str, Any]) -> Report:
    """What an evaluation found, in pictures.

    Args:
        content: A `scores.json`, as `read_scores` gives it.

    Raises:
        ValueError: It is of no kind that is known.
    """
    kind = content.get("kind")
    if kind not in _BY_KIND:
        raise ValueError(f"there is no report for scores of the kind {kind}; give the scores.json of an evaluation")
    return _BY_KIND[kind](content)
