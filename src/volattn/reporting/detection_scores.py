"""Scores of detections as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volattn.io.names import count_of
from volattn.reporting.tables import Cell, Column, Table

PRECISIONS = {"ap50": "AP50", "average_precision": "AP"}
"""How average precisions are shown."""


def detection_table(content: Mapping[str, Any], caption: str) -> Table:
    """Sensitivities at false positives per image, all lesions first and then group by group.

    Args:
        content: What `evaluate deeplesion` or `evaluate detection` writes.
        caption: Of the table.
    """
    unit = "image" if "images" in content else "scan"
    sensitivities = f"sensitivity_at_fp_per_{unit}"
    precisions = [key for key in PRECISIONS if key in content]

    def cells(values: Mapping[str, Any]) -> list[Any]:
        return [
            *values[sensitivities].values(),
            values["mean_sensitivity"],
            *(values[key] for key in precisions),
        ]

    columns = (
        Column("Lesions"),
        Column("Count", "d"),
        *(Column(f"{level} FP", ".3f") for level in content[sensitivities]),
        Column("Mean", ".3f"),
        *(Column(PRECISIONS[key], ".3f") for key in precisions),
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
    return Table(
        f"{caption}: sensitivity at false positives per {unit} ({counted})", columns, tuple(rows), tuple(foot)
    )
