"""Candidates of grades that chose an assistant, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.planning.state import CampaignState, replay
from raydistill.reporting.assistants import assistant_table, choices
from raydistill.reporting.report import report_json, report_markdown, report_tables, write_report

CHOSEN = {
    "student/layers": 3.0,
    "assistant/teacher/parameters": 100.0,
    "assistant/teacher/mrr": 0.6,
    "assistant/student/parameters": 40.0,
    "assistant/layers1/parameters": 40.0,
    "valid/layers1/mrr": 0.59,
    "assistant/layers2/parameters": 50.0,
    "valid/layers2/mrr": 0.5,
    "assistant/layers3/parameters": 75.0,
    "valid/layers3/mrr": 0.56,
    "assistant/layers10/parameters": 100.0,
    "valid/layers10/mrr": 0.61,
}
"""NPSD -(60 - 50) / (1 - 0.5) = -20 of two layers, -(60 - 56) / (1 - 0.75) = -16 of three; one layer is the student's size, ten are the teacher's."""


def promoting(events: list[dict[str, Any]], *lineages: str, **changes: float) -> CampaignState:
    """The same campaign whose student was chosen from candidates; with names, as each of these lineages."""
    for event in events:
        if event["kind"] == "grade_promoted" and event["grade"] == 1:
            event["metrics"] = {**event["metrics"], **CHOSEN, **changes}
    if not lineages:
        return replay(events)
    head, *rest = events
    told = [{**event, "lineage": lineage} for lineage in lineages for event in rest]
    return replay([{**head, "lineages": list(lineages)}, *told])


def test_table_has_every_candidate_and_why(events: list[dict[str, Any]]) -> None:
    """A choice nobody can follow; ten layers before two; or one that was never possible with an NPSD."""
    table = assistant_table(promoting(events))
    assert table is not None
    assert table.columns == ("grade", "layers", "parameters", "scale", "valid MRR", "NPSD", "chosen", "why not")
    assert table.rows == (
        ("1-layers2", "teacher", "100", "1.000", "0.6000", "–", "", ""),
        ("1-layers2", "1", "40", "0.400", "0.5900", "–", "", "not larger than the student"),
        ("1-layers2", "2", "50", "0.500", "0.5000", "-20.00", "", ""),
        ("1-layers2", "3", "75", "0.750", "0.5600", "-16.00", "yes", ""),
        ("1-layers2", "10", "100", "1.000", "0.6100", "–", "", "not smaller than its teacher"),
    )


def test_narrower_candidate_says_its_width(events: list[dict[str, Any]]) -> None:
    """Two rows of one depth that nobody can tell apart; or the whole one marked as chosen because it is as deep."""
    narrow = {"assistant/layers3-intermediate64/parameters": 60.0, "valid/layers3-intermediate64/mrr": 0.58}
    narrow["student/intermediate"] = 64.0
    state = promoting(events, **narrow)
    table, [choice] = assistant_table(state), choices(state)
    assert table is not None
    assert table.columns[2] == "feed-forward"
    assert table.rows[0][:3] == ("1-layers2", "teacher", "")
    assert table.rows[3] == ("1-layers2", "3", "64", "60", "0.600", "0.5800", "-5.00", "yes", "")
    assert [row[1:3] for row in table.rows if row[7]] == [("3", "64")]
    assert table.rows[4][1:3] == ("3", "all")
    assert [one.get("intermediate") for one in choice.row["candidates"] if one["chosen"]] == [64]


def test_candidate_without_an_mrr_is_told(events: list[dict[str, Any]]) -> None:
    """A report that cannot be written because one candidate's validation was no number, which a ledger keeps as null."""
    state = promoting(events, **{"valid/layers2/mrr": None})
    [choice] = choices(state)
    assert choice.candidates[1].reason == "its MRR is no number"
    table = assistant_table(state)
    assert table is not None
    assert table.rows[2][4:] == ("–", "–", "", "its MRR is no number")
    json.dumps(choice.row)


def test_every_report_shows_the_choice(events: list[dict[str, Any]], config: CampaignConfig, tmp_path: Path) -> None:
    """A table in one of the looks and not in the others."""
    state = promoting(events)
    assert report_tables(state, config)[-1] == assistant_table(state)
    page = write_report(state, config, tmp_path).read_text(encoding="utf-8")
    for text in (report_markdown(state, config), page):
        assert "Candidates of grades that chose an assistant" in text
        assert "not larger than the student" in text
    [choice] = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["assistants"]
    assert (choice["lineage"], choice["grade"], choice["folder"]) == ("main", 1, "1-layers2")
    assert choice["teacher"] == {"parameters": 100, "mrr": 0.6}
    assert [one["chosen"] for one in choice["candidates"]] == [False, False, True, False]
    assert [one["npsd"] for one in choice["candidates"]] == [None, pytest.approx(-20.0), pytest.approx(-16.0), None]


def test_choice_that_lineages_share_is_there_once(events: list[dict[str, Any]]) -> None:
    """The same table once per method that is compared below it."""
    state = promoting(events, "pmd-seed0", "none-seed0")
    assert [(one.lineage, one.grade) for one in choices(state)] == [("pmd-seed0", 1)]
    table = assistant_table(state)
    assert table is not None
    assert table.columns[:2] == ("lineage", "grade")
    assert {row[0] for row in table.rows} == {"pmd-seed0"}


def test_grades_without_a_choice_have_no_table(state: CampaignState, config: CampaignConfig) -> None:
    """An empty table under every report."""
    assert assistant_table(state) is None
    assert len(report_tables(state, config)) == 1
    assert report_json(state, config)["assistants"] == []
