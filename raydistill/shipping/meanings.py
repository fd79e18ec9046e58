"""What the words of queries mean in a graph and among the entities that were added to it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray, inverse_relation
from raydistill.shipping.added import Added
from raydistill.shipping.matching import places_of, the_entity, the_relation
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
        self.keys, self.names = dataset.entity_keys, dataset.entity_names
        """Of all entities; of their own once there are others than the graph's."""

    def add(self, added: Sequence[Added]) -> None:
        """Take in entities that come after all others; their names are their keys."""
        if added and not self.added:
            # Copied once, and not for every question: a graph has millions. The dataset's own stay as they are.
            self.keys, self.names = list(self.keys), list(self.names)
        for one in added:
            self.added.append(one)
            self.keys.append(one.name)
            self.names.append(one.name)

    def label(self, entity: int) -> tuple[str, str]:
        """Key and name of one entity."""
        return self.keys[entity], self.names[entity]

    def text(self, word: str, entity: int | None) -> str | None:
        """What is read for a word that means this entity; None = what the graph has."""
        if entity is None:
            return word
        place = entity - self.dataset.num_entities
        return self.added[place].text if place >= 0 else None

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

    def entities(self, asked: Iterable[tuple[str, str]]) -> dict[str, int | None]:
        """The entity that each word means, None = new text.

        Args:
            asked: words, each with where it was asked, for errors; of those that come again the first place counts.

        Raises:
            PredictionError: several share a name, or a word is empty; of the first such word.
        """
        origins: dict[str, str] = {}
        for word, origin in asked:
            origins.setdefault(word, origin)
        found = places_of(origins, self.keys, self.names)
        entities = {word: the_entity(word, found[word], self.keys, origin) for word, origin in origins.items()}
        for word in (word for word, entity in entities.items() if entity is None):
            logger.warning("%s%r is no entity of the graph: it is read as new text", origins[word], word)
        return entities
