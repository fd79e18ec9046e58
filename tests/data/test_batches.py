from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raydistill.data.assembly import TextAssembler
from raydistill.data.batches import BatchBuilder, TripleBatch, TripleSource
from raydistill.data.texts import NO_RELATION
from raydistill.kg.store import Dataset
from raydistill.kg.triples import with_inverses
from raydistill.kg.truth import TruthIndex

Triple = tuple[int, int, int]
Key = tuple[int, ...]


def builder_of(assembler: TextAssembler, dataset: Dataset, self_negatives: bool = False) -> BatchBuilder:
    truth = TruthIndex.from_triples(dataset.train, dataset.num_entities, dataset.num_relations)
    return BatchBuilder(assembler, truth, dataset.num_relations, self_negatives)


def text_key(assembler: TextAssembler, tower: str, *ids: int) -> Key:
    """One text on its own, as token ids."""
    columns = [np.array([number]) for number in ids]
    texts = assembler.query_texts(*columns) if tower == "query" else assembler.entity_texts(*columns)
    return tuple(texts.tokens.tolist())


def keys_of(batch: TripleBatch) -> tuple[list[Key], list[Key]]:
    both = []
    for texts in (batch.queries, batch.candidates):
        both.append([tuple(part.tolist()) for part in texts.tokens.split(texts.lengths.tolist())])
    return both[0], both[1]


def check_batch(assembler: TextAssembler, dataset: Dataset, triples: np.ndarray, extra: list[int]) -> None:
    """Everything a batch says, against Python sets."""
    truth: set[Triple] = set(map(tuple, with_inverses(dataset.train, dataset.num_relations).tolist()))
    batch = builder_of(assembler, dataset, True).build(triples, np.array(extra, np.int64))
    queries, candidates = keys_of(batch)
    columns, rows = batch.columns.tolist(), batch.rows.tolist()
    assert len(batch) == len(triples)
    assert len(set(queries)) == len(queries)
    for texts in (batch.queries.lengths, batch.candidates.lengths[: batch.num_columns]):
        assert texts.tolist() == sorted(texts.tolist(), reverse=True), "an encoder would have to put them in order"
    for b, (h, r, t) in enumerate(triples.tolist()):
        assert queries[rows[b]] == text_key(assembler, "query", h, r, t)
        assert candidates[columns[b]] == text_key(assembler, "entity", t, h)
        assert batch.column_entities[columns[b]] == t
        assert batch.queries.ids is not None
        assert batch.candidates.ids is not None
        assert batch.queries.ids[rows[b]].tolist() == [h, r]
        assert batch.candidates.ids[columns[b]].tolist() == [t, NO_RELATION]
        assert batch.self_positions is not None
        assert batch.self_valid is not None
        assert batch.extra_valid is not None
        assert candidates[int(batch.self_positions[b])] == text_key(assembler, "entity", h, t)
        assert batch.candidates.ids[int(batch.self_positions[b])].tolist() == [h, NO_RELATION]
        assert bool(batch.self_valid[b]) == ((h, r, h) not in truth)
        assert batch.extra_valid[b].tolist() == [(h, r, e) not in truth for e in extra]
        wanted = [c == columns[b] or (h, r, int(e)) not in truth for c, e in enumerate(batch.column_entities)]
        assert batch.valid_rows[b].tolist() == wanted
    query_ids = {rows[b]: (h, r) for b, (h, r, _) in enumerate(triples.tolist())}
    for b, t in enumerate(triples[:, 2].tolist()):
        wanted = [q == rows[b] or (*query_ids[q], t) not in truth for q in range(len(queries))]
        assert batch.valid_columns[b].tolist() == wanted
    assert set(columns) == set(range(batch.num_columns)), "a column that answers no example"
    assert set(rows) == set(range(len(queries)))


@pytest.mark.parametrize("max_tokens", [16, 128])
def test_batch_equals_its_slow_twin_on_the_nine_triples(
    tokenizers: dict[str, Any], dataset: Dataset, assembler_of: Callable[..., TextAssembler], max_tokens: int
) -> None:
    """Known answers among the negatives, an example pointed at another one's text, or negatives thrown away."""
    assembler = assembler_of(tokenizers["bert"], dataset, max_tokens=max_tokens)
    triples = with_inverses(dataset.train, dataset.num_relations)
    for size in (2, 5, len(triples)):
        for start in range(0, len(triples) - 1, size):
            check_batch(assembler, dataset, triples[start : start + size], [0, 3, 3, 5, 1])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    train=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 3), st.integers(0, 7)), min_size=2, max_size=24),
    size=st.integers(2, 12),
    extra=st.lists(st.integers(0, 7), max_size=6),
)
def test_batch_of_any_graph_equals_its_slow_twin(
    tokenizers: dict[str, Any],
    graph_of: Callable[..., Dataset],
    assembler_of: Callable[..., TextAssembler],
    train: set[Triple],
    size: int,
    extra: list[int],
) -> None:
    """Self-loops, hubs, several relations between the same two entities: graphs that nobody thinks of."""
    dataset = graph_of(train=np.array(sorted(train)), names=[f"{'abcdefgh'[n]} {n}" for n in range(8)])
    assembler = assembler_of(tokenizers["bert"], dataset, max_tokens=128)
    triples = with_inverses(dataset.train, dataset.num_relations)
    order = np.random.default_rng(size).permutation(len(triples))[:size]
    check_batch(assembler, dataset, triples[order], extra)


def test_known_true_collision_is_no_negative(
    tokenizers: dict[str, Any], dataset: Dataset, assembler_of: Callable[..., TextAssembler]
) -> None:
    """By hand: Ann knows Bob and Carl, so with both in a batch neither is the other's negative."""
    batch = builder_of(assembler_of(tokenizers["bert"], dataset), dataset).build(dataset.train[[0, 1, 5]])
    entities = batch.column_entities.tolist()
    bob, carl, oslo = entities.index(1), entities.index(2), entities.index(4)
    assert batch.valid_rows[0, [bob, carl, oslo]].tolist() == [True, False, True]
    assert batch.valid_rows[1, [bob, carl, oslo]].tolist() == [False, True, True]
    assert batch.valid_rows[2, [bob, carl, oslo]].tolist() == [True, True, True]
    assert (batch.self_positions, batch.self_valid, batch.extra_valid) == (None, None, None)


def test_validity_knows_the_training_triples_alone(
    tokenizers: dict[str, Any], dataset: Dataset, assembler_of: Callable[..., TextAssembler]
) -> None:
    """Masks that know the validation triples tell training which answers are true there."""
    lives_in = 1
    unknown = dataset.valid[1]  # Ann lives in Oslo: true, but not in the training split
    batch = builder_of(assembler_of(tokenizers["bert"], dataset), dataset).build(dataset.train[[3, 5]])
    assert unknown.tolist() == [0, lives_in, 4]
    assert batch.valid_rows[0, batch.column_entities.tolist().index(4)]


@pytest.mark.parametrize("batch_size", [2, 3, 4, 7, 17, 18, 1000])
def test_every_triple_is_dealt_once_per_epoch_in_both_directions(dataset: Dataset, batch_size: int) -> None:
    """Triples never seen, or seen twice, and a last batch of one example, which has no negative."""
    source = TripleSource(dataset.train, dataset.num_relations, batch_size, seed=3)
    everything = sorted(map(tuple, with_inverses(dataset.train, dataset.num_relations).tolist()))
    orders = []
    for epoch in range(3):
        parts = list(source.batches(epoch))
        sizes = [len(part) for part in parts]
        assert len(parts) == source.steps_per_epoch
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 2
        orders.append(list(map(tuple, np.concatenate(parts).tolist())))
        assert sorted(orders[-1]) == everything
    assert orders[0] != orders[1] != orders[2], "every epoch has the same order"


def test_source_goes_on_in_the_middle_of_an_epoch(dataset: Dataset) -> None:
    """A resumed epoch that repeats some triples and leaves out others."""
    source = TripleSource(dataset.train, dataset.num_relations, 4, seed=3)
    again = TripleSource(dataset.train, dataset.num_relations, 4, seed=3)
    whole = list(source.batches(2))
    for first in range(source.steps_per_epoch + 1):
        rest = list(again.batches(2, first))
        assert len(rest) == len(whole) - first
        assert all(np.array_equal(one, other) for one, other in zip(whole[first:], rest, strict=True))


def test_another_seed_deals_another_order(dataset: Dataset) -> None:
    """Repetitions with several seeds that all train on the same batches."""
    one, other = (np.concatenate(list(TripleSource(dataset.train, 4, 4, seed).batches(0))) for seed in (0, 1))
    assert not np.array_equal(one, other)
