"""The words a model reads about an entity or a relation: SimKGC's rule, and the neighbours it borrows names from.

This file says what the text is. Tokenising it in pieces, so that the answer can be left out per triple, belongs to the
data floor, which holds its pieces against `join_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydistill.errors import DataError
from raydistill.kg.triples import IntArray, check_shape

INVERSE_PREFIX = "inverse "


@dataclass(frozen=True)
class TextRule:
    """When and how far an entity's text is filled up with names of its neighbours.

    Attributes:
        max_neighbors: at most this many names; 0 turns neighbours off.
        short_description_words: only descriptions of fewer words are filled up.

    Source:
        SimKGC, Wang et al. 2022, arXiv 2203.02167, and its code (10 names, 20 words).
    """

    max_neighbors: int = 10
    short_description_words: int = 20

    def wants_neighbors(self, description: str) -> bool:
        """Tell whether a description is short enough to be filled up with names."""
        return self.max_neighbors > 0 and len(description.split()) < self.short_description_words


def clean_text(text: str) -> str:
    """Return the text with every run of white space as one space, and none at its ends."""
    return " ".join(text.split())


def join_text(name: str, description: str, neighbor_names: Sequence[str]) -> str:
    """Return an entity's text: "name: description n1 n2", "name: n1 n2", or "name" where there is nothing to add."""
    words = [clean_text(piece) for piece in (description, *neighbor_names)]
    rest = " ".join(word for word in words if word)
    return f"{clean_text(name)}: {rest}" if rest else clean_text(name)


def inverse_phrase(phrase: str) -> str:
    """Return the words of an inverse relation."""
    return INVERSE_PREFIX + clean_text(phrase)


@dataclass(frozen=True, eq=False)
class NeighborIndex:
    """Who stands beside whom in the training graph, whatever the relation and direction.

    Attributes:
        offsets: `(entities + 1,)` int64.
        neighbors: int32; those of entity e are `neighbors[offsets[e]:offsets[e + 1]]`, ascending, without repeats and
            without e itself.
    """

    offsets: npt.NDArray[np.int64]
    neighbors: npt.NDArray[np.int32]

    @classmethod
    def from_triples(cls, train: IntArray, num_entities: int) -> NeighborIndex:
        """Index the training triples.

        Only training triples may be given: a neighbour from another split would show the answer that is asked for.

        Args:
            train: `(n, 3)`.
            num_entities: number of entities.

        Raises:
            DataError: an entity id is out of range.
        """
        check_shape(train)
        heads, tails = train[:, 0].astype(np.int64), train[:, 2].astype(np.int64)
        if len(train) and (min(heads.min(), tails.min()) < 0 or max(heads.max(), tails.max()) >= num_entities):
            raise DataError(
                "training triples with entity ids out of range",
                expected=f"ids from 0 to {num_entities - 1}",
                consequence="names of other entities would be borrowed",
                remedy="prepare the dataset again from its source",
            )
        proper = heads != tails
        heads, tails = heads[proper], tails[proper]
        keys = np.unique(np.concatenate((heads * num_entities + tails, tails * num_entities + heads)))
        offsets = np.searchsorted(keys, np.arange(num_entities + 1, dtype=np.int64) * num_entities).astype(np.int64)
        return cls(offsets, (keys % max(num_entities, 1)).astype(np.int32))

    def first(self, entity: int, limit: int) -> npt.NDArray[np.int32]:
        """Return the neighbours with the lowest ids, at most `limit` of them."""
        start, stop = int(self.offsets[entity]), int(self.offsets[entity + 1])
        return self.neighbors[start : min(stop, start + limit)]


def entity_text(
    entity: int,
    names: Sequence[str],
    descriptions: Sequence[str],
    *,
    neighbors: NeighborIndex | None = None,
    rule: TextRule | None = None,
    answer: int | None = None,
) -> str:
    """Return the whole text of one entity: the slow, obvious form of what the data floor builds from token pieces.

    As in SimKGC the first names are taken and the answer is then left out, so its place is not filled by one more name.

    Args:
        entity: the entity described.
        names: of all entities.
        descriptions: of all entities; an empty string where there is none.
        neighbors: the training graph; None borrows no names.
        rule: when names are borrowed; None is the default rule.
        answer: the other end of the triple, whose name must not appear among the neighbours.
    """
    rule = rule or TextRule()
    description = descriptions[entity]
    borrowed: list[str] = []
    if neighbors is not None and rule.wants_neighbors(description):
        borrowed = [names[other] for other in neighbors.first(entity, rule.max_neighbors).tolist() if other != answer]
    return join_text(names[entity], description, borrowed)
