"""A new metric is one entry of `METRICS`: comparisons, studies and reports show it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_reports import FOUND, MISSED, lits_content
from test_study_table import cell

from volattn.report.report import build_report
from volattn.report.tables import comparison_table, score_tables
from volattn.scoring.comparison import compare
from volattn.scoring.metrics import METRICS, Metric, find_metric, title_of
from volattn.studies.definition import Row, Study
from volattn.studies.page import write_study
from volattn.studies.table import StudyRow, StudyTable


@pytest.mark.usefixtures("few_resamples")
def test_one_entry_is_all_that_a_metric_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Metric(
        "perfect",
        "Perfect lesions",
        "masks",
        values=lambda case: [one["dice"] > 0.9 for one in case["reference_lesions"]],
    )
    monkeypatch.setitem(METRICS, toy.key, toy)
    content = lits_content([FOUND, MISSED])
    assert any(row[0] == toy.title for row in score_tables(content)[0].rows)
    assert toy.title in build_report(content).html()
    comparison = compare(content, content).as_json() | {"a": "a.json", "b": "b.json"}
    assert any(row[0] == toy.title for row in comparison_table(comparison).rows)
    row = Row(key="plain", title="Plain")
    study = Study(
        title="S", question="Why?", kind="masks", recipe="tiny", rows=(row,), metrics=(toy.key,), baseline="plain"
    )
    write_study(tmp_path, StudyTable("s", study, (StudyRow(row, {0: cell(0)}, {}),), "volattn study", (0,)))
    assert f"| {toy.title} |" in (tmp_path / "table.md").read_text()


def test_titles_of_the_parts_of_a_file() -> None:
    assert title_of("lesion.surface_dice_2mm") == "Lesion: Surface Dice, 2 mm"
    assert title_of("counts.0.5.TP") == "Counts: 0.5: TP"
    assert title_of("volume_ml.liver", "pancreas") == "Volume ml: pancreas"
    assert title_of("liver_dice", "pancreas") == "Pancreas Dice"
    assd = find_metric("liver.assd")
    assert assd is not None
    assert [assd.improves(difference) for difference in (-1.0, 1.0)] == [True, False]
    assert find_metric("tumor_burden.difference") is None
