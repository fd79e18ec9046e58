from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError, CheckpointError, DataError
from raydistill.evaluation.encode import encode_entities, encode_queries, evaluate, link_prediction_task
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder
from raydistill.students.quantizers import rounded
from raydistill.training import evaluate as evaluation
from raydistill.training.evaluate import evaluate_checkpoint, open_checkpoint, query_milliseconds
from raydistill.training.trial import EpochReport


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_checkpoint_ranks_as_the_trial_that_wrote_it(
    config_of: Callable[..., TrialConfig],
    train: Callable[..., list[EpochReport]],
    dataset_folder: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    """A checkpoint that, once loaded, is another model than the one that was validated: other words, pooling or texts."""
    config = config_of(
        "pmd",
        encoder={"kind": kind, "pooling": "cls", "dropout": 0.1},
        data={"max_tokens": 20, "max_neighbors": 2, "short_description_words": 5},
    )
    last = train(config, tmp_path)[-1]
    assert last.checkpoint is not None
    report = evaluate_checkpoint(last.checkpoint, dataset_folder, "valid")
    for key, value in report.metrics.items():
        assert last.metrics[key] == pytest.approx(value), key
    assert evaluate_checkpoint(last.checkpoint, dataset_folder, "test").metrics["test/both/queries"] == 4


def test_score_on_another_cut_of_the_graph_is_told_of(
    config_of: Callable[..., TrialConfig],
    train: Callable[..., list[EpochReport]],
    dataset_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After the graph was cut anew, its test triples are those of the training: a splendid score, and not a word."""
    last = train(config_of("pmd"), tmp_path)[-1]
    assert last.checkpoint is not None
    evaluate_checkpoint(last.checkpoint, dataset_folder)
    assert "learned from dataset" not in caplog.text
    other = replace(Dataset.load(dataset_folder), fingerprint="f" * 64)
    monkeypatch.setattr(Dataset, "load", lambda path: other)
    evaluate_checkpoint(last.checkpoint, dataset_folder)
    assert "and this is ffffffffffff" in caplog.text


def test_ranking_that_does_not_fit_is_done_again_in_smaller_parts(
    teacher_checkpoint: Callable[..., Path], dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign of days whose only score is lost because the test is encoded in larger parts than training was asked to, and never in smaller ones."""
    expected = evaluate_checkpoint(teacher_checkpoint(), dataset_folder).metrics
    original, sizes = BiEncoder.encode_part, list[int]()

    def encode_part(self: BiEncoder, texts: Texts, tower: Any, needs: Any) -> Any:
        sizes.append(int(texts.lengths.sum()))
        if sizes[-1] > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, texts, tower, needs)

    monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
    report = evaluate_checkpoint(teacher_checkpoint(), dataset_folder, tokens_per_micro_batch=64)
    assert 32 < sizes[0] <= 64
    assert max(sizes[1:]) <= 32
    assert report.metrics == pytest.approx(expected, nan_ok=True)


def test_latency_is_that_of_quiet_moments(
    teacher_checkpoint: Callable[..., Path], dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two equal ladders the one that was measured while the machine was busy would be beaten; or the first query, which loads what all need, count."""
    warm_up, busy, quiet, outlier = [9.0] * 8, [4.0, 1.0, 5.0], [2.0, 1.5, 3.0], [2.5, 90.0, 3.5]
    took = [*warm_up, *busy, *quiet, *outlier]
    clock = iter([moment for seconds in took for moment in (0.0, seconds)])
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(thread_time=lambda: next(clock)))
    threads = torch.get_num_threads()
    found = query_milliseconds(teacher_checkpoint(), dataset_folder, queries=3, rounds=3)
    assert found == pytest.approx(2000.0)
    assert next(clock, None) is None
    assert torch.get_num_threads() == threads


def test_entity_vectors_in_eight_bits_are_what_is_ranked(
    teacher_checkpoint: Callable[..., Path], dataset_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """An index of a quarter of the bytes whose MRR was measured on the whole one."""
    model, assembler = open_checkpoint(teacher_checkpoint(), dataset)
    task = link_prediction_task(dataset, "test")
    entities = rounded(encode_entities(model.eval(), assembler, dataset.num_entities), 8, by_row=True)
    queries = encode_queries(model, assembler, task.distinct_heads, task.distinct_relations)
    report = evaluate_checkpoint(teacher_checkpoint(), dataset_folder, entity_bits=8)
    assert report.to_dict() == {**task.evaluate(queries, entities).to_dict(), "entity_bits": 8}
    coarse = evaluate(model, assembler, task, kept_as=partial(rounded, bits=2, by_row=True))
    assert coarse.metrics["test/both/mr"] != report.metrics["test/both/mr"]
    with pytest.raises(CapabilityError, match="entity vectors in 16 bits"):
        evaluate_checkpoint(tmp_path / "looked at later", dataset_folder, entity_bits=16)


def test_what_cannot_be_evaluated_is_named(
    teacher_checkpoint: Callable[..., Path], dataset_folder: Path, tmp_path: Path
) -> None:
    """A traceback for a typing error in a path or a split."""
    with pytest.raises(DataError, match="split 'dev'"):
        evaluate_checkpoint(teacher_checkpoint(), dataset_folder, "dev")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate_checkpoint(tmp_path / "none", dataset_folder)
    with pytest.raises(DataError):
        evaluate_checkpoint(teacher_checkpoint(), tmp_path)
