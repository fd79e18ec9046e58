"""Ranks of entities divided among workers are those of one worker: equal counts, not close ones. Workers are threads here."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.errors import ShapeError
from raydistill.evaluation import encode, protocol
from raydistill.evaluation.distinct import distinct_texts
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.evaluation.ranks import Ranks
from raydistill.evaluation.reranking import NeighborReranking
from raydistill.evaluation.shards import Shard
from raydistill.evaluation.sharing import encode_shard
from raydistill.evaluation.tiles import ScoreTiles
from raydistill.kg.store import Dataset
from raydistill.kg.truth import TruthIndex
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_encoder
from raydistill.students.quantizers import rounded

Found = TypeVar("Found")
ENTITIES, RELATIONS = 23, 3


@dataclass
class Table:
    """Where workers lay down what they add up."""

    size: int
    brought: dict[int, Tensor] = field(default_factory=dict)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=200)


@dataclass(frozen=True)
class Thread:
    """One of the workers."""

    rank: int
    table: Table

    @property
    def size(self) -> int:
        return self.table.size

    def total(self, tensor: Tensor) -> Tensor:
        self.table.brought[self.rank] = tensor
        self.table.barrier.wait()
        assert len({(part.shape, part.dtype) for part in self.table.brought.values()}) == 1
        added = torch.stack([self.table.brought[rank] for rank in range(self.size)]).sum(0)
        self.table.barrier.wait()
        return added


def together(size: int, work: Callable[[Thread], Found]) -> list[Found]:
    """What each of several workers finds."""
    table = Table(size)

    def run(rank: int) -> Found:
        try:
            return work(Thread(rank, table))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(run, rank) for rank in range(size)]]


def counts(ranks: Ranks) -> Tensor:
    return torch.stack([ranks.better, ranks.tied, ranks.rivals])


@pytest.fixture
def case() -> tuple[LinkPredictionTask, Tensor, Tensor, NeighborReranking]:
    """A random graph, whole-numbered vectors with many ties, and a re-ranking."""
    generator = np.random.default_rng(5)
    triples = np.unique(generator.integers((ENTITIES, RELATIONS, ENTITIES), size=(150, 3)), axis=0).astype(np.int32)
    generator.shuffle(triples)
    train, test = triples[:90], triples[90:]
    task = LinkPredictionTask.from_triples(test, TruthIndex.from_triples(triples, ENTITIES, RELATIONS), train)
    random = torch.Generator().manual_seed(5)
    queries = torch.randint(-1, 2, (len(task.distinct_heads), 4), generator=random).float()
    entities = torch.randint(-1, 2, (ENTITIES, 4), generator=random).float()
    return task, queries, entities, NeighborReranking.from_triples(train, ENTITIES, hops=1, bonus=0.5)


@pytest.mark.parametrize("neighbors", [False, True], ids=["plain", "neighbors"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_counts_of_shards_add_up(
    case: tuple[LinkPredictionTask, Tensor, Tensor, NeighborReranking], size: int, neighbors: bool
) -> None:
    """Known answers looked for under their old numbers, a gold that is its own rival elsewhere, or a worker without entities that hangs all."""
    task, queries, entities, reranking = case
    rerank = reranking if neighbors else None
    alone = task.rank(queries, entities, rerank=rerank)
    owners = np.random.default_rng(size).integers(
        0, max(1, size - 1), ENTITIES
    )  # the last worker has none, where there are several

    def rank(worker: Thread) -> Ranks:
        shard = Shard.of_owners(owners, worker)
        return task.rank(queries, entities[torch.from_numpy(shard.entities)], rerank=rerank, shard=shard)

    for ranks in together(size, rank):
        assert torch.equal(counts(ranks), counts(alone))


def test_gold_scores_that_depend_on_their_place_are_mended_on_all_workers(
    case: tuple[LinkPredictionTask, Tensor, Tensor, NeighborReranking], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker counts with the gold score of the stream, the others with another one: ties become wins on some shards."""
    task, queries, entities, _ = case
    alone = task.rank(queries, entities)
    original = ScoreTiles.paired
    monkeypatch.setattr(ScoreTiles, "paired", lambda *given: original(*given) + 1e-3)
    owners = np.arange(ENTITIES) % 3

    def rank(worker: Thread) -> Ranks:
        shard = Shard.of_owners(owners, worker)
        return task.rank(queries, entities[torch.from_numpy(shard.entities)], shard=shard)

    for ranks in together(3, rank):
        assert torch.equal(counts(ranks), counts(alone))


def test_vectors_of_another_shard_are_refused(
    case: tuple[LinkPredictionTask, Tensor, Tensor, NeighborReranking],
) -> None:
    """All entities' vectors given for a part of them: ranks among the wrong ones."""
    task, queries, entities, _ = case
    shard = Shard.of_owners(np.arange(ENTITIES) % 2, Thread(0, Table(2)))
    with pytest.raises(ShapeError, match="expected: 12 rows"):
        task.rank(queries, entities, shard=shard)


def test_shards_hold_every_entity_once() -> None:
    """An entity on two workers, or on none, or counted under another one's number."""
    owners = np.array([2, 0, 1, 0, 2, 2])
    shards = [Shard.of_owners(owners, Thread(rank, Table(4))) for rank in range(4)]
    assert [shard.entities.tolist() for shard in shards] == [[1, 3], [2], [0, 4, 5], []]
    assert [shard.first for shard in shards] == [0, 2, 3, 6]
    for shard in shards:
        assert shard.places_of(shard.entities).tolist() == list(range(shard.first, shard.first + len(shard.entities)))


@pytest.fixture
def world(
    encoder_folder: Callable[..., Path],
    tokenizers: dict[str, Any],
    dataset: Dataset,
    assembler_of: Callable[..., TextAssembler],
) -> Callable[[int], tuple[BiEncoder, TextAssembler, LinkPredictionTask]]:
    """Model, texts and queries of the nine-triple graph, for micro-batches of so many tokens."""

    def make(tokens: int) -> tuple[BiEncoder, TextAssembler, LinkPredictionTask]:
        query, entity = (load_encoder(encoder_folder("bert")) for _ in range(2))
        for parameter in query.parameters():
            parameter.data *= 1.05
        model = BiEncoder(query, entity, tokens_per_micro_batch=tokens)
        return model.eval(), assembler_of(tokenizers["bert"], dataset), encode.link_prediction_task(dataset, "valid")

    return make


@pytest.mark.parametrize("tokens", [1, 40, 100, 16384])
@pytest.mark.parametrize("size", [2, 3, 9])
def test_workers_report_what_one_alone_reports(
    world: Callable[[int], tuple[BiEncoder, TextAssembler, LinkPredictionTask]], size: int, tokens: int
) -> None:
    """Vectors whose last bit depends on the number of workers, two homonyms that no longer tie, or metrics that differ between workers."""
    model, assembler, task = world(tokens)
    alone = encode.evaluate(model, assembler, task)
    assert alone.homonym_ties > 0
    for report in together(size, lambda worker: encode.evaluate(model, assembler, task, workers=worker)):
        assert torch.equal(counts(report.ranks), counts(alone.ranks))
        assert report.metrics == alone.metrics
        assert report.to_dict() == alone.to_dict()


def test_workers_rank_the_same_queries_at_a_time(
    world: Callable[[int], tuple[BiEncoder, TextAssembler, LinkPredictionTask]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that add up the counts of different queries, or wait for each other for ever."""
    model, assembler, task = world(100)
    alone = encode.evaluate(model, assembler, task)
    monkeypatch.setattr(protocol, "_ANSWERS_AT_ONCE", 1)
    for report in together(3, lambda worker: encode.evaluate(model, assembler, task, workers=worker)):
        assert torch.equal(counts(report.ranks), counts(alone.ranks))


@pytest.mark.parametrize("size", [2, 9])
def test_workers_rank_what_is_left_of_vectors_in_fewer_bits(
    world: Callable[[int], tuple[BiEncoder, TextAssembler, LinkPredictionTask]], size: int
) -> None:
    """Vectors that one worker of several leaves whole, or rounds by another's range; a worker without an entity."""
    model, assembler, task = world(100)
    coarse = partial(rounded, bits=2, by_row=True)
    alone = encode.evaluate(model, assembler, task, kept_as=coarse)
    assert not torch.equal(counts(alone.ranks), counts(encode.evaluate(model, assembler, task).ranks))
    for report in together(
        size, lambda worker: encode.evaluate(model, assembler, task, workers=worker, kept_as=coarse)
    ):
        assert torch.equal(counts(report.ranks), counts(alone.ranks))


@pytest.mark.parametrize("tokens", [1, 60])
def test_each_text_is_encoded_by_one_worker(
    world: Callable[[int], tuple[BiEncoder, TextAssembler, LinkPredictionTask]],
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
) -> None:
    """Workers that all encode everything: right, and no faster than one."""
    model, assembler, task = world(tokens)
    original, read = BiEncoder.encode_part, []

    def encode_part(self: BiEncoder, texts: Any, tower: Any, needs: Any) -> Any:
        read.extend(
            (threading.get_ident(), tower, tuple(text.tolist())) for text in texts.tokens.split(texts.lengths.tolist())
        )
        return original(self, texts, tower, needs)

    monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
    together(2, lambda worker: encode.evaluate(model, assembler, task, workers=worker))
    texts = [(tower, text) for _, tower, text in read]
    assert len(set(texts)) == len(texts)
    assert len({worker for worker, _, _ in read}) == 2
    whole = encode.encode_entities(model, assembler, task.num_entities)
    for vectors, shard in together(2, lambda worker: encode_shard(model, assembler, task.num_entities, worker)):
        assert 0 < len(vectors) == len(shard.entities) < task.num_entities
        assert torch.equal(vectors, whole[torch.from_numpy(shard.entities)])


def test_worker_holds_its_vectors_once_and_one_micro_batch_beside_them(
    world: Callable[[int], tuple[BiEncoder, TextAssembler, LinkPredictionTask]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that each hold theirs three times need more memory than one alone: ranking would not scale past a machine."""
    model, assembler, task = world(1)
    original, made, alive = BiEncoder.encode_part, dict[int, list[weakref.ref[Tensor]]](), list[int]()

    def encode_part(self: BiEncoder, *given: Any) -> Any:
        own = made.setdefault(threading.get_ident(), [])
        alive.append(sum(one() is not None for one in own))
        found = original(self, *given)
        own.append(weakref.ref(found.vectors))
        return found

    monkeypatch.setattr(BiEncoder, "encode_part", encode_part)
    together(2, lambda worker: encode_shard(model, assembler, task.num_entities, worker))
    assert len(alive) > 4
    assert max(alive) <= 1


@pytest.mark.parametrize("size", [2, 9])
def test_each_text_is_put_together_by_one_worker_to_be_known_and_by_one_to_be_encoded(
    world: Callable[[int], tuple[BiEncoder, TextAssembler, LinkPredictionTask]],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    """Workers that all put all texts together: of millions, that takes as long as encoding them on many devices does."""
    model, assembler, task = world(1)
    original, made = TextAssembler.entity_texts, list[tuple[int, int]]()

    def entity_texts(self: TextAssembler, entities: Any) -> Any:
        made.append((threading.get_ident(), len(entities)))
        return original(self, entities)

    monkeypatch.setattr(TextAssembler, "entity_texts", entity_texts)
    distinct, _ = distinct_texts(task.num_entities, assembler.entity_texts)
    made.clear()
    together(size, lambda worker: encode_shard(model, assembler, task.num_entities, worker))
    assert sum(count for _, count in made) == task.num_entities + len(distinct)
    share = -(-task.num_entities // size)
    by_worker = {one: sum(count for who, count in made if who == one) for one, _ in made}
    assert max(by_worker.values()) <= 2 * share


def test_vectors_are_put_where_their_rows_are() -> None:
    """Vectors of a text that several entities share, in a part of its own, in none, or in the last."""
    generator = np.random.default_rng(0)
    for parts in ([7], [3, 4], [1, 0, 5, 1]):
        place = np.concatenate([generator.permutation(7), generator.integers(0, 7, 20)])
        vectors = torch.randn(7, 3, dtype=torch.float16)
        assert torch.equal(encode._placed(iter(vectors.split(parts)), place), vectors[torch.from_numpy(place)])
