"""What the words of queries mean in a graph and among the entities that were added to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray, inverse_relation
from raydistill.shipping.added import Added
from raydistill.shipping.matching import entities_of, the_entity, the_relation
from raydistill.shipping.queries import Query

logger = logging.getLogger(__name__)


class Meanings:
    """The entities and relations that can be asked about.

    Args:
        dataset: the graph; its entities come first.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.added: list[Added] = []

    def keys(self) -> list[str]:
        """Keys of all entities."""
        return self._with_added(self.dataset.entity_keys)

    def names(self) -> list[str]:
        """Names of all entities."""
        return self._with_added(self.dataset.entity_names)

    def label(self, entity: int) -> tuple[str, str]:
        """Key and name of one entity."""
        size = self.dataset.num_entities
        if entity >= size:
            return self.added[entity - size].name, self.added[entity - size].name
        return self.dataset.entity_keys[entity], self.dataset.entity_names[entity]

    def relations(self, queries: Sequence[Query]) -> IntArray:
        """The relation of each query, its inverse where heads are asked for, `(queries,)` int64.

        Raises:
            PredictionError: there is none of that name, or several.
        """
        keys, phrases = self.dataset.relation_keys, self.dataset.relation_phrases
        known: dict[str, int] = {}
        for query in queries:
            if query.relation not in known:
                known[query.relation] = the_relation(query.relation, keys, phrases, query.where)
        forward = np.array([known[query.relation] for query in queries], np.int64)
        inverse = np.asarray(inverse_relation(forward, len(keys)), np.int64)
        return np.where([query.head is not None for query in queries], forward, inverse)

    def entities(self, origins: dict[str, str]) -> dict[str, int | None]:
        """The entity that each word means, None = new text; `origins` says of each word where it was asked first.

        Raises:
            PredictionError: several share a name, or a word is empty.
        """
        keys = self.keys()
        found = entities_of(origins, keys, self.names())
        entities = {word: the_entity(word, found[word], keys, origin) for word, origin in origins.items()}
        for word in (word for word, entity in entities.items() if entity is None):
            logger.warning("%s%r is no entity of the graph: it is read as new text", origins[word], word)
        return entities

    def _with_added(self, labels: list[str]) -> list[str]:
        return [*labels, *(one.name for one in self.added)] if self.added else labels
