"""`raydistill evaluate` prints a report as the evaluation makes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from raydistill.config.schema import RerankSection
from raydistill.evaluation.ranks import Ranks
from raydistill.evaluation.report import LinkPredictionReport, RerankingSettings
from raydistill.kg.store import Dataset

Call = Callable[..., Result]


def report(rerank: tuple[int, float] | None, split: str) -> LinkPredictionReport:
    """Two triples: tail ranks 1 and 2, head ranks 1 and 4, the last tied with one rival."""
    ranks = Ranks(torch.tensor([0, 1, 0, 3]), torch.tensor([0, 0, 0, 1]), torch.tensor([9, 9, 9, 9]))
    return LinkPredictionReport.from_ranks(
        ranks,
        np.array([0, 1, 2, 3], dtype=np.int32),
        ("1-1", "N-N"),
        split=split,
        tie_rule="realistic",
        reranking=None if rerank is None else RerankingSettings(*rerank, max_entities=100),
        num_distinct_queries=4,
        num_candidates=10,
        seed=0,
    )


@pytest.fixture
def evaluate(call: Call, tmp_path: Path, dataset_folder: Path, fake_module: Callable[..., None]) -> Call:
    def fake(
        checkpoint: str, data: str, split: str, rerank: tuple[int, float] | None, *, entity_bits: int
    ) -> LinkPredictionReport:
        return replace(report(rerank, split), entity_bits=entity_bits)

    fake_module("raydistill.training.evaluate", evaluate_checkpoint=fake)
    return lambda *arguments: call("evaluate", str(tmp_path), "--data", str(dataset_folder), *arguments)


def cells(text: str, first: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"│ {first} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_metrics_stand_under_their_headings(evaluate: Call) -> None:
    """A column that slipped is a wrong result."""
    text = evaluate().stdout
    assert "test, filtered, realistic ranks over 10 entities" in text
    assert cells(text, "tail")[:6] == ["tail", "1.5", "0.750", "0.500", "1.000", "1.000"]
    assert cells(text, "head")[:3] == ["head", "2.8", "0.611"]
    assert cells(text, "N-N")[-1] == "2"
    assert "25.0% of queries" in text


def test_reranked_numbers_are_named(evaluate: Call) -> None:
    """Re-ranked numbers under a plain heading claim what the model did not do."""
    text = evaluate("--rerank-hops", "5", "--split", "valid").stdout
    assert "valid, filtered, realistic ranks over 10 entities, re-ranked with neighbours" in text
    assert cells(text, "tail")[2] == "0.750"


def test_entity_bits_are_handed_on_and_told(evaluate: Call) -> None:
    """Numbers of a smaller index that pass for those of the whole one."""
    text = evaluate("--entity-bits", "8").stdout
    assert "entity vectors in 8 bits" in text
    assert "entity vectors" not in evaluate().stdout
    assert json.loads(evaluate("--entity-bits", "8", "--json").stdout)["entity_bits"] == 8


def test_json_is_the_whole_report(evaluate: Call) -> None:
    """Programs need the metrics under their full names."""
    content = json.loads(evaluate("--json", "--rerank-hops", "2").stdout)
    assert content["metrics"]["test/tail/mrr+neighbors"] == 0.75
    assert content["reranking"]["hops"] == 2
    assert content["reranking"]["bonus"] == 0.05


def test_json_names_relations_by_their_keys(evaluate: Call, dataset: Dataset) -> None:
    """The number of a relation is the dataset's own affair: a reader would have to guess which one is hard."""
    content = json.loads(evaluate("--json").stdout)
    assert list(content["per_relation"]) == dataset.relation_keys[:2]
    assert content["per_relation"][dataset.relation_keys[0]]["tail/mrr"] == 1.0


def test_several_workers_are_asked_with_all_options(
    call: Call,
    tmp_path: Path,
    dataset_folder: Path,
    fake_module: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An option that one worker knows and several do not."""
    asked: list[tuple[object, ...]] = []
    monkeypatch.setenv("RD_REGION", "us")

    def fake(*given: object) -> LinkPredictionReport:
        asked.append(given)
        return report(None, "valid")

    fake_module("raydistill.orchestration.evaluating", evaluate_together=fake)
    options = (
        "--workers",
        "3",
        "--split",
        "valid",
        "--rerank-hops",
        "2",
        "--entity-bits",
        "8",
        "--env",
        "RD_REGION=eu",
    )
    result = call("evaluate", str(tmp_path), "--data", str(dataset_folder), *options)
    assert result.exit_code == 0, result.output
    assert asked == [
        (str(tmp_path), str(dataset_folder), "valid", (2, RerankSection(hops=2).bonus), 8, 3, {"RD_REGION": "eu"})
    ]
    assert os.environ["RD_REGION"] == "eu", "this process reads the same bucket"
