"""Examples that nobody wrote down: random queries and candidates of a graph's texts, or of random texts as long as those. No triple is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from raydistill.data.tokens import TokenPieces
from raydistill.kg.store import Dataset

RANDOM_ENTITIES = 10_000
EXAMPLES_OF_AN_ENTITY = 4


def usual_examples(counts: Mapping[str, int]) -> int:
    """Examples of an epoch where nobody says how many: as many as one of triples has, or of a graph without any four for each entity.

    Args:
        counts: of the graph, as `count_of` or its manifest (`Dataset.recorded_counts`) has them.
    """
    return 2 * counts["train"] or EXAMPLES_OF_AN_ENTITY * counts["entities"]


class SyntheticSource:
    """Random heads, relations of both directions and tails, new ones in every step; a function of seed, epoch and step.

    Args:
        num_entities: heads and tails there are.
        num_relations: relations, inverses not counted.
        examples: of an epoch.
        batch_size: examples of a batch; batches are of nearly equal size.
        seed: of all that is drawn.
    """

    triples = None

    def __init__(self, num_entities: int, num_relations: int, examples: int, batch_size: int, seed: int) -> None:
        self.num_entities, self.num_relations = num_entities, num_relations
        self.examples, self.batch_size, self.seed = examples, batch_size, seed

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return max(1, -(-self.examples // self.batch_size))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[NDArray[np.int32]]:
        """The batches of an epoch from `first_step` on, each `(batch, 3)`."""
        bounds = np.linspace(0, self.examples, self.steps_per_epoch + 1).round().astype(np.int64)
        highest = (self.num_entities, 2 * self.num_relations, self.num_entities)
        for step in range(first_step, self.steps_per_epoch):
            draw = np.random.default_rng([self.seed, epoch, step])
            yield draw.integers(0, highest, (bounds[step + 1] - bounds[step], 3), np.int32)


def without_triples(dataset: Dataset) -> Dataset:
    """A graph's texts alone: all its splits are empty, and those of `dataset` are not looked at."""
    return _texts(dataset, dataset.entity_names, dataset.entity_descriptions)


def random_graph(dataset: Dataset, pieces: TokenPieces, seed: int) -> tuple[Dataset, TokenPieces]:
    """A graph without triples whose texts are random tokens.

    Of the real graph's texts only three things are taken: how long they are, whether an entity has a description, and which tokens occur.

    Returns:
        RANDOM_ENTITIES entities, each with the lengths of one of the real ones, and as many relations as there are; and their pieces.
    """
    draw = np.random.default_rng([seed, 0])
    like = draw.integers(0, dataset.num_entities, RANDOM_ENTITIES)
    relations = np.arange(2 * dataset.num_relations)
    kinds = (pieces.name, pieces.name_colon, pieces.description, pieces.inner_name)
    rows = np.concatenate([*(kind(like) for kind in kinds), pieces.relation(relations)])
    offsets = np.concatenate([[0], np.cumsum(pieces.lengths(rows))])
    tokens = draw.choice(pieces.occurring().astype(np.int32), int(offsets[-1]))
    described = ["described" if dataset.entity_descriptions[entity] else "" for entity in like.tolist()]
    graph = _texts(dataset, [""] * len(like), described)
    return graph, TokenPieces(tokens, offsets, len(like), dataset.num_relations)


def _texts(dataset: Dataset, names: list[str], descriptions: list[str]) -> Dataset:
    nothing = np.empty((0, 3), np.int32)
    return Dataset(
        path=dataset.path,
        fingerprint="",
        entity_keys=names,
        entity_names=names,
        entity_descriptions=descriptions,
        relation_keys=dataset.relation_keys,
        relation_phrases=dataset.relation_phrases,
        train=nothing,
        valid=nothing,
        test=nothing,
    )
