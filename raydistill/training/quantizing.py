"""A trained checkpoint in fewer bits, without training: its ranges are told from texts of a dataset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from raydistill.data.assembly import TextAssembler
from raydistill.errors import CapabilityError, ConfigError
from raydistill.kg.store import Dataset
from raydistill.kg.triples import query_keys, with_inverses
from raydistill.students.packing import FILE
from raydistill.students.quantization import Calibration, quantize
from raydistill.students.quantized import Formats
from raydistill.training.checkpoint import TrainingState, read_record
from raydistill.training.evaluate import open_checkpoint
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.saving import require_new_folder, save_checkpoint


def quantize_checkpoint(
    path: str | Path, data: str | Path, out: str | Path, formats: Formats, texts: int = 2000
) -> str:
    """Write a checkpoint again, packed; whatever reads checkpoints reads it. Nothing can be trained on from it, and what it scores is still to be measured.

    Args:
        path: a checkpoint in float32.
        data: a dataset like those that it will read; of its training queries and of its entities the ranges of activations are told.
        out: a new folder.
        formats: of its numbers. Ternary weights have to be trained (method `dq`): this leaves little of a model.
        texts: at most so many queries and entities are read, evenly spread over all.

    Returns:
        The digest of what was written.

    Raises:
        CheckpointError: damaged, or not of a shape that was finished.
        DataError: damaged dataset.
        ConfigError: there is something at `out`, or no text is to be read.
        CapabilityError: its numbers have fewer bits already, or its encoder is of unknown parts.
        StorageError: the disk is full or read-only.
    """
    path, out = Path(path), Path(out)
    require_new_folder(out, "what is in it would be lost")
    if texts < 1:
        raise ConfigError(
            f"{texts} texts", expected="1 or more", consequence="no range would be known", remedy="name more"
        )
    dataset = Dataset.load(data)
    model, assembler = open_checkpoint(path, dataset)
    if (path / "query_encoder" / FILE).exists():
        raise CapabilityError(
            f"{path} is of few bits already",
            expected="a checkpoint in float32",
            consequence="what is rounded would be rounded again",
            remedy="take the checkpoint that it was made from",
        )
    quantize(model, formats, _calibration(dataset, assembler, texts))
    # What float32 scored is no score of this model.
    record = {**read_record(path), "metrics": {}, "quantized": {**asdict(formats), "source": verify_checkpoint(path)}}
    return save_checkpoint(out, model, path / "tokenizer", record, TrainingState({}, {}), in_trial=False)


def _calibration(dataset: Dataset, assembler: TextAssembler, count: int) -> Calibration:
    """Queries of the training split, in both directions, and entities."""
    heads, relations, _ = with_inverses(dataset.train, dataset.num_relations).T
    _, distinct = np.unique(query_keys(heads, relations, dataset.num_relations), return_index=True)
    queries, entities = distinct[_spread(len(distinct), count)], _spread(dataset.num_entities, count)
    return [
        ("query", assembler.query_texts(heads[queries], relations[queries])),
        ("entity", assembler.entity_texts(entities)),
    ]


def _spread(total: int, count: int) -> np.ndarray:
    """At most `count` numbers below `total`, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(np.int64))
