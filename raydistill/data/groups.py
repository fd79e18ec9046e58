"""Parts of a graph by relation, and the source that opens them one after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydistill.data.batches import TripleSource
from raydistill.kg.parts import parts_of_relations
from raydistill.kg.triples import with_inverses


@dataclass(frozen=True, eq=False)
class RelationGroups:
    """A division of a graph's relations; an inverse relation is in its relation's group.

    Attributes:
        of_relation: `(2R,)` int64, the group of each relation, and of each inverse.
        answers: `(groups, entities)` bool, True = is the tail of a training triple of the group, inverse ones included.
    """

    of_relation: NDArray[np.int64]
    answers: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.answers)


def relation_groups(train: NDArray[np.int32], num_entities: int, num_relations: int, num_groups: int) -> RelationGroups:
    """The groups of `kg.parts.parts_of_relations`, and what each has for answers.

    Args:
        train: training triples `(n, 3)`, without inverses.
        num_entities: number of entities.
        num_relations: R, without inverses.
        num_groups: how many.

    Raises:
        CapabilityError: more groups than relations that have a triple.
    """
    group = parts_of_relations(train, num_relations, num_groups)
    of_relation, answers = np.tile(group, 2), np.zeros((num_groups, num_entities), bool)
    triples = with_inverses(train, num_relations)
    answers[of_relation[triples[:, 1]], triples[:, 2]] = True
    return RelationGroups(of_relation, answers)


class GroupSource(TripleSource):
    """Training triples of the groups that are open, each batch of one group alone; equally many batches in all epochs.

    While few groups are open their triples come more often, so that every epoch costs the same; once all are, each triple comes once. An open group has batches in
    proportion to its triples. With a single group this is its base, batch for batch.

    Args:
        triples: training triples `(n, 3)`, without inverses.
        groups: of their relations.
        opens: the epoch, from 0, with which each group opens; rising from 0.
        rehearses: whether the groups of earlier openings go on; False = the newest alone.
        batch_size: most examples of a batch.
        seed: of the order.
    """

    def __init__(
        self,
        triples: NDArray[np.int32],
        groups: RelationGroups,
        opens: Sequence[int],
        *,
        rehearses: bool,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(triples, len(groups.of_relation) // 2, batch_size, seed)
        self.groups, self.opens, self.rehearses = groups, tuple(opens), rehearses
        group = groups.of_relation[self.triples[:, 1]]
        self.rows = [np.flatnonzero(group == number) for number in range(len(groups))]

    @property
    def steps_per_epoch(self) -> int:
        """Enough to deal out every group once: those of the plain source, and at most one more for each further group."""
        return sum(map(self._whole, self.rows))

    def triples_of(self, group: int) -> NDArray[np.int32]:
        """All examples of a group, `(examples, 3)`."""
        return self.triples[self.rows[group]]

    def group_of(self, relations: NDArray[np.int64]) -> int:
        """The group that a batch of these relations is of."""
        found = set(self.groups.of_relation[relations].tolist())
        assert len(found) == 1, f"a batch of the groups {sorted(found)}"
        return int(found.pop())

    def open_groups(self, epoch: int) -> range:
        """The groups that an epoch (from 0) learns from."""
        last = bisect_right(self.opens, epoch)
        return range(0 if self.rehearses else last - 1, last)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[NDArray[np.int32]]:
        """The batches of an epoch from `first_step` on, each `(batch, 3)`."""
        generator = np.random.default_rng([self.seed, epoch])
        groups = self.open_groups(epoch)
        counts = _shares(self.steps_per_epoch, [self._whole(self.rows[group]) for group in groups])
        dealt = [self._dealt(group, count, generator) for group, count in zip(groups, counts, strict=True)]
        turns = generator.permutation(np.repeat(np.arange(len(counts)), counts))
        for step, turn in enumerate(turns.tolist()):
            rows = next(dealt[turn])
            if step >= first_step:
                yield self.triples[rows]

    def _dealt(self, group: int, count: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """So many batches of a group, round after round; drawn at once, so that what another group draws does not depend on whose turn it is."""
        rows = self.rows[group]
        # Batches as full as those of a single round.
        total = len(rows) * count // self._whole(rows)
        rounds = [rows[generator.permutation(len(rows))] for _ in range(-(-total // len(rows)))]
        return iter(np.array_split(np.concatenate(rounds)[:total], count))

    def _whole(self, rows: NDArray[np.int64]) -> int:
        """Batches that hold all of these rows."""
        return max(1, -(-len(rows) // self.batch_size))


def _shares(total: int, least: Sequence[int]) -> list[int]:
    """`total`, which is their sum at least, divided in proportion to `least`, none below its own; the largest remainders get what is left over."""
    exact = np.asarray(least) * total / sum(least)
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - int(shares.sum())]] += 1
    return [int(share) for share in shares]
