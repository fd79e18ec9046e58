"""The report's tables, JSON and files."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from raydistill.config.schema import CampaignConfig
from raydistill.planning.state import CampaignState, replay
from raydistill.reporting.report import (
    report_json,
    report_markdown,
    report_tables,
    state_json,
    trial_table,
    write_report,
)


def test_result_table_says_how_its_numbers_came_about(state: CampaignState, config: CampaignConfig) -> None:
    """An MRR without split, filter and tie rule compares with nothing."""
    [table] = report_tables(state, config)
    assert table.title == "Test, filtered, realistic ranks, both directions"
    assert dict(zip(table.columns, table.rows[1], strict=True)) == {
        "grade": "1-layers2",
        "layers": "2",
        "parameters": "11.3 M",
        "size": "90.5 MiB",
        "mask ratio": "0.2",
        "layer map": "uniform",
        "view": "shared",
        "MR": "12.5",
        "MRR": "0.400",
        "Hits@1": "0.250",
        "Hits@3": "0.500",
        "Hits@10": "0.650",
        "MRR kept": "80.0 %",
    }


def test_reranked_table_is_named(events: list[dict[str, Any]], config: CampaignConfig) -> None:
    """Re-ranking has to be named beside every number it touched."""
    for event in events[-2:]:
        event["metrics"] = {f"{name}+neighbors": value for name, value in event["metrics"].items()}
    [table] = report_tables(replay(events), config)
    assert table.title.endswith("re-ranked with neighbors")
    assert table.rows[1][table.columns.index("MRR")] == "0.400"


def test_comparison_names_the_number_of_seeds(compared: tuple[CampaignState, CampaignConfig]) -> None:
    """A mean over two seeds beside a mean over one, without a word."""
    results, table = report_tables(*compared)
    assert results.columns[0] == "lineage"
    rows = {row[:2]: row[2:] for row in table.rows}
    assert rows["pmd", "1-layers2"] == (
        *("2", "0.420 ± 0.028", "0.670 ± 0.028", "84.0 ± 5.7 %", "90.5 MiB", "30 s"),
        *("none", "+0.1000 (1 of 1)", "+0.1000 (1 of 1)"),
    )
    assert rows["none", "1-layers2"] == ("1", "0.300", "0.550", "60.0 %", "90.5 MiB", "30 s", "–", "–", "–")


def test_trials_are_listed_best_first_with_the_promoted_one_marked(state: CampaignState) -> None:
    """The reader of a search asks which values won."""
    table = trial_table(state, "main", 1)
    assert table.columns == ("trial", "status", "mask_ratio", "epochs", "best epoch", "valid MRR")
    assert table.rows == (("1", "promoted", "0.2", "2/2", "1", "0.4500"), ("0", "finished", "0", "2/2", "2", "0.3500"))


def test_freed_trial_keeps_its_place_in_the_table(events: list[dict[str, Any]]) -> None:
    """A trial whose checkpoints made room would look as if it had never been validated, or were damaged."""
    freed = {"kind": "trial_freed", "lineage": "main", "grade": 1, "number": 0, "time": 11.0}
    state = replay([*events, freed])
    assert trial_table(state, "main", 1).rows == (
        ("1", "promoted", "0.2", "2/2", "1", "0.4500"),
        ("0", "finished, freed", "0", "2/2", "2", "0.3500"),
    )
    told = state_json(state)["trials"][1]
    assert (told["freed"], told["best_mrr"], told["best_epoch"], told["rejected"]) == (True, 0.35, 2, [])
    assert [told["best_checkpoint"], *(one["checkpoint"] for one in told["reports"])] == [None] * 3


def test_json_is_full_precision_and_without_nan(events: list[dict[str, Any]], config: CampaignConfig) -> None:
    """NaN is no JSON: other languages refuse the whole file."""
    events[-1]["metrics"]["test/both/mr"] = math.nan
    events[2]["metrics"]["loss/score"] = math.nan
    state = replay(events)
    report = json.loads(json.dumps(report_json(state, config), allow_nan=False))
    student = report["results"]["plain"]["grades"][1]
    assert student["metrics"]["mr"] is None
    assert student["kept"] == 0.8
    whole = json.loads(json.dumps(state_json(state), allow_nan=False))
    assert whole["complete"] is True
    assert whole["trials"][0]["reports"][0]["metrics"]["loss/score"] is None
    assert whole["trials"][2]["best_mrr"] == 0.45


def test_files_are_written_whole(tmp_path: Path, state: CampaignState, config: CampaignConfig) -> None:
    """A report that is read while it is rewritten must be the old one or the new one; nothing else may be left."""
    page = write_report(state, config, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert page == tmp_path / "report.html"
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == report_markdown(state, config)


def test_report_says_where_the_promoted_checkpoints_are(
    tmp_path: Path, state: CampaignState, config: CampaignConfig
) -> None:
    """Among the folders of all trials they could not be told from the others."""
    page = write_report(state, config, tmp_path).read_text(encoding="utf-8")
    for promotion in state.promotions.values():
        assert f">{promotion.checkpoint}<" in page
        assert f"| {promotion.checkpoint} |" in report_markdown(state, config)


def test_page_needs_nothing_but_itself(tmp_path: Path, events: list[dict[str, Any]], config: CampaignConfig) -> None:
    """A page that fetches something is blank offline; a name that is not escaped is code."""
    hostile = "<script>alert(1)</script>"
    for event in events:
        if event["kind"] == "trial_begun" and event["grade"] == 1:
            event["parameters"] = {**event["parameters"], hostile: hostile}
    run = tmp_path / "run & <b>"
    run.mkdir()
    page = write_report(replay(events), config, run).read_text(encoding="utf-8")
    assert not re.search(r"(?i)<(script|link|img|iframe)|src=|href=|@import|url\(", page)
    assert "run &amp; &lt;b&gt;" in page
    assert page.count("<polyline") == 3


def test_report_of_a_campaign_that_just_began(
    tmp_path: Path, events: list[dict[str, Any]], config: CampaignConfig
) -> None:
    """`status` and the report are asked for long before there is a result."""
    for length in range(len(events) + 1):
        state = replay(events[:length])
        text = write_report(state, config, tmp_path).read_text(encoding="utf-8")
        assert ("not complete" in text) == (length < len(events))
