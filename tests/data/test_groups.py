from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from raydistill.data.batches import TripleSource
from raydistill.data.groups import GroupSource, RelationGroups, relation_groups
from raydistill.errors import CapabilityError
from raydistill.kg.store import Dataset
from raydistill.kg.triples import with_inverses

Triples = NDArray[np.int32]
OPENS = (0, 2, 3)


def graph(counts: tuple[int, ...], seed: int = 0) -> Triples:
    """Triples of so many for each relation, among 50 entities, in no order."""
    generator = np.random.default_rng(seed)
    relations = np.repeat(np.arange(len(counts)), counts)
    heads, tails = generator.integers(50, size=(2, len(relations)))
    return generator.permutation(np.stack([heads, relations, tails], axis=1).astype(np.int32))


def source_of(
    train: Triples, groups: RelationGroups, *, rehearses: bool = True, batch_size: int = 8, seed: int = 3
) -> GroupSource:
    return GroupSource(train, groups, OPENS[: len(groups)], rehearses=rehearses, batch_size=batch_size, seed=seed)


def test_groups_are_balanced_by_their_triples() -> None:
    """Relations dealt out by number: WN18RR's two largest of eleven are three quarters of it."""
    groups = relation_groups(graph((10, 1, 7, 6, 3)), 50, 5, 2)
    # 10 | 7 | 6 to 7's, 3 to 10's (13 and 13 is a tie: 1 to the first).
    assert groups.of_relation[:5].tolist() == [0, 0, 1, 1, 0]
    assert len(groups) == 2


def test_inverse_relation_is_in_its_relations_group() -> None:
    """The answers of a part that is not open yet would be taught from the other side."""
    groups = relation_groups(graph((10, 1, 7, 6, 3)), 50, 5, 3)
    assert groups.of_relation[:5].tolist() == groups.of_relation[5:].tolist()
    assert set(groups.of_relation.tolist()) == {0, 1, 2}


def test_answers_are_the_tails_of_a_groups_triples_in_both_directions(dataset: Dataset) -> None:
    """A slice without the heads: inverse queries would be taught among candidates that are all wrong."""
    groups = relation_groups(dataset.train, dataset.num_entities, dataset.num_relations, 2)
    expected = np.zeros_like(groups.answers)
    for head, relation, tail in dataset.train.tolist():
        expected[groups.of_relation[relation], [head, tail]] = True
    assert np.array_equal(groups.answers, expected)
    assert not groups.answers.all()


def test_more_groups_than_relations_are_refused() -> None:
    """A stage that opens nothing. A relation without a training triple is none."""
    with pytest.raises(CapabilityError, match="3 parts of the relations of a graph that has 2") as caught:
        relation_groups(graph((4, 0, 2)), 50, 3, 3)
    assert caught.value.remedy


@pytest.mark.parametrize("rehearses", [True, False])
@pytest.mark.parametrize("counts", [(40, 30, 20, 10), (5, 3, 90), (200, 100, 1), (1, 1, 1)])
def test_batches_are_of_one_open_group_each(counts: tuple[int, ...], rehearses: bool) -> None:
    """A row of a part that is not open, a batch of two parts, an open part that no epoch visits, or a larger batch than there is room for."""
    train = graph(counts)
    groups = relation_groups(train, 50, len(counts), 3)
    source = source_of(train, groups, rehearses=rehearses)
    known = set(map(tuple, source.triples.tolist()))
    for epoch, opened in ((0, 1), (1, 1), (2, 2), (3, 3), (9, 3)):
        batches = list(source.batches(epoch))
        assert len(batches) == source.steps_per_epoch
        seen = [set(groups.of_relation[batch[:, 1]].tolist()) for batch in batches]
        assert all(len(one) == 1 for one in seen)
        assert set.union(*seen) == (set(range(opened)) if rehearses else {opened - 1})
        assert all(0 < len(batch) <= 8 for batch in batches)
        assert all(set(map(tuple, batch.tolist())) <= known for batch in batches)


def test_epochs_cost_the_same_whatever_is_open() -> None:
    """Early epochs that are over at once: the learning rate's schedule and every comparison assume equal budgets."""
    train = graph((40, 30, 20, 10))
    source = source_of(train, relation_groups(train, 50, 4, 3))
    plain = TripleSource(train, 4, 8, 3)
    assert plain.steps_per_epoch <= source.steps_per_epoch <= plain.steps_per_epoch + 2
    assert np.array_equal(source.triples, plain.triples)
    rows = [sum(len(batch) for batch in source.batches(epoch)) for epoch in (0, 2, 3)]
    assert min(rows) > 0.85 * len(plain.triples)


def test_open_groups_have_batches_by_their_size() -> None:
    """A part of a tenth of the triples that is taught a third of the time is learned by heart."""
    train = graph((600, 300, 100))
    groups = relation_groups(train, 50, 3, 3)
    turns = [int(groups.of_relation[batch[0, 1]]) for batch in source_of(train, groups).batches(5)]
    assert np.bincount(turns).tolist() == pytest.approx([150, 75, 25], abs=2)
    assert turns != sorted(turns)


def test_whole_graph_is_seen_when_all_is_open() -> None:
    """Rows that rounding leaves out, or that come twice where others come once."""
    train = graph((40, 30, 20, 10))
    source = source_of(train, relation_groups(train, 50, 4, 3))
    for epoch in range(3, 9):
        seen = np.concatenate(list(source.batches(epoch)))
        assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, source.triples.tolist()))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    """A resumed trial that sees other batches, or epochs that are all alike."""
    train = graph((40, 30, 20, 10))
    groups = relation_groups(train, 50, 4, 3)
    source, again, other = (source_of(train, groups, seed=seed) for seed in (3, 3, 4))
    for first in range(source.steps_per_epoch + 1):
        rest = list(again.batches(4, first))
        whole = list(source.batches(4))[first:]
        assert len(rest) == len(whole)
        assert all(np.array_equal(*pair) for pair in zip(rest, whole, strict=True))
    one, two, three = (np.concatenate(list(s.batches(e))) for s, e in ((source, 4), (source, 5), (other, 4)))
    assert not np.array_equal(one[:50], two[:50])
    assert not np.array_equal(one[:50], three[:50])


def test_single_group_is_the_plain_source(dataset: Dataset) -> None:
    """A comparison with other methods that would be one of batches."""
    groups = relation_groups(dataset.train, dataset.num_entities, dataset.num_relations, 1)
    one = GroupSource(dataset.train, groups, (0,), rehearses=True, batch_size=4, seed=3)
    plain = TripleSource(dataset.train, dataset.num_relations, 4, 3)
    for epoch in range(3):
        pairs = zip(one.batches(epoch), plain.batches(epoch), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)


def test_all_examples_are_those_of_the_graph(dataset: Dataset) -> None:
    """The teacher's outputs are computed for these texts alone."""
    groups = relation_groups(dataset.train, dataset.num_entities, dataset.num_relations, 2)
    expected = with_inverses(dataset.train, dataset.num_relations)
    assert np.array_equal(source_of(dataset.train, groups).triples, expected)
