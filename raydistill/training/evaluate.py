"""Ranking with a checkpoint: everything that is needed is in it and in the dataset directory."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydistill.data.assembly import TextAssembler
from raydistill.data.graph import text_assembler
from raydistill.devices import TokensAtOnce, best_device
from raydistill.evaluation import encode
from raydistill.evaluation.report import LinkPredictionReport
from raydistill.evaluation.reranking import NeighborReranking
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_tokenizer
from raydistill.models.pretrained import tokenizer_digest
from raydistill.students.quantizers import FLOAT, require_entity_bits, rounded
from raydistill.teachers.views import NoTeacher
from raydistill.training.checkpoint import load_model, read_record, tell_of_other_dataset
from raydistill.training.gather import World
from raydistill.training.memory import MemoryPlan


def evaluate_checkpoint(
    path: str | Path,
    dataset_path: str | Path,
    split: str = "test",
    rerank: tuple[int, float] | None = None,
    tokens_per_micro_batch: TokensAtOnce = "auto",
    entity_bits: int = FLOAT,
    world: World | None = None,
) -> LinkPredictionReport:
    """The full filtered protocol for one split, in float32, with half the tokens at a time whenever memory runs out.

    Args:
        path: the checkpoint.
        dataset_path: the dataset directory; any graph will do, its texts are encoded on the spot.
        split: train, valid or test.
        rerank: hops and bonus of SimKGC's neighbour re-ranking; None = off.
        tokens_per_micro_batch: tokens encoded at a time, to begin with.
        entity_bits: of each number of the entity vectors that queries are ranked against: 8, or 32 for float32.
        world: who encodes and ranks a part of the entities each; all call, and all get the same report. None = one alone.

    Raises:
        CheckpointError: damaged checkpoint.
        DataError: damaged dataset, or no such split.
        OutOfMemoryError: it does not fit one text at a time.
        CapabilityError: other than 8 or 32 bits.
    """
    require_entity_bits(entity_bits)
    dataset = Dataset.load(dataset_path)
    task = encode.link_prediction_task(dataset, split)
    model, assembler = open_checkpoint(path, dataset, tokens_per_micro_batch)
    if world is None or world.rank == 0:
        tell_of_other_dataset(path, dataset.fingerprint)
    reranking = None
    if rerank is not None:
        reranking = NeighborReranking.from_triples(dataset.train, dataset.num_entities, hops=rerank[0], bonus=rerank[1])

    kept_as = partial(rounded, bits=entity_bits, by_row=True)
    # Whatever a trial may do: this ends none, and workers tell each other when one has no memory left.
    workers = replace(world or World.alone(), careful=True)

    def ranked() -> LinkPredictionReport:
        report = encode.evaluate(model, assembler, task, rerank=reranking, workers=workers, kept_as=kept_as)
        return replace(report, entity_bits=entity_bits)

    memory = MemoryPlan(model, workers, "auto")
    return memory.encode(ranked, f"the ranking of the {split} split", assembler.max_tokens, NoTeacher())


def open_checkpoint(
    path: str | Path,
    dataset: Dataset,
    tokens_per_micro_batch: TokensAtOnce = "auto",
    device: torch.device | None = None,
) -> tuple[BiEncoder, TextAssembler]:
    """The verified model of a checkpoint, on a device (None = the GPU where there is one), and the assembler of a dataset's texts for it."""
    model = load_model(path, tokens_per_micro_batch=tokens_per_micro_batch).to(device or best_device())
    record = read_record(path)
    return model, assembler_of_record(record, Path(path) / "tokenizer", dataset)


def assembler_of_record(record: dict[str, Any], tokenizer_folder: Path, dataset: Dataset) -> TextAssembler:
    """The assembler that follows the text rule of a checkpoint's record."""
    text = record["text"]
    return text_assembler(
        dataset,
        load_tokenizer(tokenizer_folder),
        tokenizer_digest(tokenizer_folder),
        rule=TextRule(text["max_neighbors"], text["short_description_words"]),
        max_tokens=text["max_tokens"],
    )


def query_milliseconds(checkpoint: str | Path, data: str | Path, queries: int = 32, rounds: int = 5) -> float:
    """Processor time to encode one query by itself on one thread, in milliseconds: what a small deployment pays for an answer.

    The median over queries of the lowest of several times: what others on the machine do only adds to it, and medians of equal models lay between 2.4 and 4.1 ms (two cores).

    Args:
        checkpoint: the model.
        data: dataset directory whose validation queries are taken.
        queries: how many are timed, after eight that warm up.
        rounds: how often each of them is.

    Raises:
        CheckpointError: damaged checkpoint.
        DataError: damaged dataset.
    """
    dataset = Dataset.load(data)
    # Not by way of a GPU: what the driver has there it would keep beside the trials.
    model, assembler = open_checkpoint(checkpoint, dataset, device=torch.device("cpu"))
    order = np.concatenate([np.arange(8), np.tile(np.arange(queries), rounds)])
    rows = dataset.valid[order % len(dataset.valid)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for head, relation, _ in rows:
            texts = assembler.query_texts(np.array([head]), np.array([relation]))
            # What others take of the processor meanwhile, such as ladders beside this one, is not the model's.
            begun = time.thread_time()
            with torch.no_grad():
                model.encode(texts, "query")
            seconds.append(time.thread_time() - begun)
    finally:
        torch.set_num_threads(threads)
    return 1000 * float(np.median(np.reshape(seconds[8:], (rounds, queries)).min(axis=0)))
