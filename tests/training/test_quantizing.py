"""Checkpoints that become small after training: what is written is what was quantised, and everything that reads checkpoints reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydistill.errors import CapabilityError, CheckpointError, ConfigError
from raydistill.kg.store import Dataset
from raydistill.students.packing import FILE
from raydistill.students.quantization import quantize
from raydistill.students.quantized import Formats
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.evaluate import evaluate_checkpoint, open_checkpoint
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.quantizing import _calibration, quantize_checkpoint

EIGHT = Formats(8, 8, 8)


def test_what_is_written_is_the_quantised_model(
    teacher_checkpoint: Callable[..., Path], dataset_folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """A checkpoint of other numbers than those that were measured, one that says the scores of another, or one that weighs what it did."""
    source, out = teacher_checkpoint(), tmp_path / "small"
    assert quantize_checkpoint(source, dataset_folder, out, EIGHT) == verify_checkpoint(out)
    model, assembler = open_checkpoint(source, dataset)
    calibration = list(_calibration(dataset, assembler, 2000))
    assert {tower for tower, _ in calibration} == {"query", "entity"}
    quantize(model, EIGHT, calibration)
    small = load_model(out)
    assert (out / "query_encoder" / FILE).exists()
    for tower, texts in calibration:
        assert torch.equal(small.encode(texts, tower).vectors, model.eval().encode(texts, tower).vectors)
    before, record = read_record(source), read_record(out)
    assert record["bytes"] < 0.6 * before["bytes"], "names and scales weigh a lot in a model of 16 units"
    assert (record["metrics"], record["quantized"]["source"]) == ({}, verify_checkpoint(source))
    assert (record["layers"], record["lineage"]) == (before["layers"], before["lineage"])
    assert evaluate_checkpoint(out, dataset_folder).metrics["test/both/mrr"] > 0


def test_few_texts_are_spread_over_the_graph(teacher_checkpoint: Callable[..., Path], dataset: Dataset) -> None:
    """Ranges told from the first entities alone, or from all of a graph of millions."""
    _, assembler = open_checkpoint(teacher_checkpoint(), dataset)
    (_, queries), (_, entities) = _calibration(dataset, assembler, 3)
    assert (len(queries), len(entities)) == (3, 3)
    ends = assembler.entity_texts(torch.tensor([0, dataset.num_entities - 1]).numpy())
    assert set(ends.tokens.tolist()) <= set(entities.tokens.tolist())


def test_what_cannot_be_quantised_is_refused(
    teacher_checkpoint: Callable[..., Path], dataset_folder: Path, tmp_path: Path
) -> None:
    """A folder that is overwritten, a model that is rounded twice, or a traceback."""
    out = tmp_path / "small"
    quantize_checkpoint(teacher_checkpoint(), dataset_folder, out, EIGHT)
    with pytest.raises(ConfigError, match="small is there already"):
        quantize_checkpoint(teacher_checkpoint(), dataset_folder, out, EIGHT)
    for activations in (8, 32):
        packed = tmp_path / f"packed{activations}"
        quantize_checkpoint(teacher_checkpoint(), dataset_folder, packed, Formats(8, 8, activations))
        with pytest.raises(CapabilityError, match="is of few bits already"):
            quantize_checkpoint(packed, dataset_folder, tmp_path / "again", EIGHT)
    with pytest.raises(ConfigError, match="0 texts"):
        quantize_checkpoint(teacher_checkpoint(), dataset_folder, tmp_path / "none", EIGHT, texts=0)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        quantize_checkpoint(tmp_path / "nowhere", dataset_folder, tmp_path / "none", EIGHT)
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "none").exists()
