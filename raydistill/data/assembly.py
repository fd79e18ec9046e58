"""Texts from pieces: SimKGC's rule put together per triple, so that a training text never shows its own answer.

An entity text is "name: description"; where the description is short the names of up to `max_neighbors` training neighbours follow, the excluded
entity (the answer of this triple) left out. A query is the pair (head text, relation phrase).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from raydistill.data.layout import Frame, TextLayout, split_budget
from raydistill.data.texts import NO_RELATION, Texts, runs
from raydistill.data.tokens import TokenPieces
from raydistill.kg.store import Dataset
from raydistill.kg.text import NeighborIndex, TextRule

Ids = NDArray[np.int64]
NOTHING = -1
"""Excluded entity of a text that leaves nothing out."""


@dataclass(frozen=True)
class _Segments:
    """Runs of tokens: which text they belong to, where they stand in it, where they start, how long they are."""

    text: Ids
    order: Ids
    start: Ids
    length: Ids


class TextAssembler:
    """Puts texts together from pieces.

    Args:
        pieces: tokenised pieces of the graph.
        dataset: the graph, for its descriptions and training neighbours.
        layout: frames of the encoder's tokenizer.
        rule: neighbour names and what counts as a short description.
        max_tokens: tokens per text, specials included.
    """

    def __init__(
        self, pieces: TokenPieces, dataset: Dataset, layout: TextLayout, rule: TextRule, max_tokens: int
    ) -> None:
        self.pieces, self.layout, self.max_tokens = pieces, layout, max_tokens
        # A graph that was made up has no fingerprint, and its entities are nobody else's.
        self._is_known = bool(dataset.fingerprint)
        words = np.fromiter((len(text.split()) for text in dataset.entity_descriptions), np.int64, dataset.num_entities)
        self.has_description = words > 0
        neighbors = NeighborIndex.from_triples(dataset.train, dataset.num_entities)
        self.neighbors = np.asarray(neighbors.neighbors, np.int64)
        self.neighbor_start = np.asarray(neighbors.offsets[:-1], np.int64)
        count = np.minimum(np.diff(neighbors.offsets), rule.max_neighbors)
        self.neighbor_count = np.where(words < rule.short_description_words, count, 0).astype(np.int64)
        special = [
            self.layout.single.prefix,
            self.layout.single.suffix,
            self.layout.pair.prefix,
            self.layout.pair.middle,
            self.layout.pair.suffix,
        ]
        # Apart from the pieces' tokens, which are memory-mapped and would have to be copied.
        self._special = np.concatenate([np.asarray(part, np.int32) for part in special])
        self._special_start = np.cumsum([0, *map(len, special)])

    def token_ids(self) -> Ids:
        """Token ids that texts of this graph can hold, `(ids,)`, ascending; masks and padding are not among them."""
        return np.union1d(self.pieces.occurring(), self._special)

    def effective_exclusion(self, entities: Ids, excluded: Ids, relations: Ids | None = None) -> Ids:
        """`excluded` where leaving it out changes the text, else NOTHING: texts with equal results are equal texts.

        A name that the text's limit cuts off anyway changes nothing. With `relations` the texts are queries, else entity texts.
        """
        text, neighbor = self._neighbors(entities)
        body = self._body(entities, None)
        first, before = _places(body, len(entities))
        names = np.arange(len(body.text)) - first[body.text] > self.has_description[entities][body.text]
        totals = np.bincount(body.text, body.length, len(entities)).astype(np.int64)
        # Without its only neighbour, and without a description, a name also loses its colon.
        alone = (self.neighbor_count[entities] == 1) & ~self.has_description[entities]
        stands = (before[names] < self._room(totals, relations)[:, 0][text]) | alone[text]
        hit = np.zeros(len(entities), bool)
        hit[text[stands & (neighbor == excluded[text])]] = True
        return np.where(hit, excluded, NOTHING)

    def entity_texts(self, entities: Ids, excluded: Ids | None = None) -> Texts:
        """Entity texts, one per row; `excluded` names the entity each leaves out (NOTHING = none)."""
        body = self._body(np.asarray(entities, np.int64), excluded)
        totals = np.bincount(body.text, body.length, len(entities)).astype(np.int64)
        texts = self._frame(
            body, self._room(totals, None)[:, 0], None, self.layout.single, self._special_start[[0, 1, 1]]
        )
        return self._of_rows(texts, entities, np.full(len(entities), NO_RELATION))

    def query_texts(self, heads: Ids, relations: Ids, excluded: Ids | None = None) -> Texts:
        """Query texts: the head's text paired with the relation's phrase."""
        body = self._body(np.asarray(heads, np.int64), excluded)
        totals = np.bincount(body.text, body.length, len(heads)).astype(np.int64)
        kept = self._room(totals, relations)
        start = self.pieces.offsets[self.pieces.relation(np.asarray(relations, np.int64))]
        relation = _Segments(np.arange(len(heads)), np.zeros(len(heads), np.int64), start, kept[:, 1])
        texts = self._frame(body, kept[:, 0], relation, self.layout.pair, self._special_start[[2, 3, 4]])
        return self._of_rows(texts, heads, relations)

    def _of_rows(self, texts: Texts, entities: Ids, relations: Ids) -> Texts:
        """Texts that know what they are of."""
        ids = torch.from_numpy(np.stack([entities, relations], axis=1).astype(np.int64))
        return replace(texts, ids=ids) if self._is_known else texts

    def _room(self, totals: Ids, relations: Ids | None) -> Ids:
        """Tokens kept of bodies of `totals` tokens and of the relations beside them, `(texts, 2)`."""
        if relations is None:
            kept = np.minimum(totals, self.max_tokens - self.layout.single.num_special)
            return np.stack([kept, np.zeros_like(kept)], axis=1)
        wanted = self.pieces.lengths(self.pieces.relation(np.asarray(relations, np.int64)))
        room = self.max_tokens - self.layout.pair.num_special
        kept = np.stack([totals, wanted], axis=1)
        for row in np.flatnonzero(totals + wanted > room):
            kept[row] = split_budget(int(totals[row]), int(wanted[row]), room)
        return kept

    def _neighbors(self, entities: Ids) -> tuple[Ids, Ids]:
        count = self.neighbor_count[entities]
        text = np.repeat(np.arange(len(entities)), count)
        return text, self.neighbors[runs(self.neighbor_start[entities], count)]

    def _body(self, entities: Ids, excluded: Ids | None) -> _Segments:
        """Name, description and neighbour names as runs, in order."""
        pieces, rows = self.pieces, np.arange(len(entities))
        text, neighbor = self._neighbors(entities)
        if excluded is not None:
            keep = neighbor != np.asarray(excluded, np.int64)[text]
            text, neighbor = text[keep], neighbor[keep]
        goes_on = self.has_description[entities]
        goes_on[text] = True
        described = rows[self.has_description[entities]]
        piece = np.concatenate(
            [
                np.where(goes_on, pieces.name_colon(entities), pieces.name(entities)),
                pieces.description(entities[described]),
                pieces.inner_name(neighbor),
            ]
        )
        owner = np.concatenate([rows, described, text])
        kind = np.repeat([0, 1, 2], [len(rows), len(described), len(text)])
        ordered = np.lexsort((np.arange(len(piece)), kind, owner))
        piece, owner = piece[ordered], owner[ordered]
        return _Segments(owner, np.arange(len(piece)), pieces.offsets[piece], pieces.lengths(piece))

    def _frame(self, body: _Segments, budget: Ids, relation: _Segments | None, frame: Frame, special: Ids) -> Texts:
        """Cut each body to its budget, put the special tokens around, and gather the token ids."""
        num_texts = len(budget)
        length = np.clip(budget[body.text] - _places(body, num_texts)[1], 0, body.length)
        everyone = np.arange(num_texts)

        def fixed(start: int, count: int) -> _Segments:
            return _Segments(everyone, everyone, np.full(num_texts, start), np.full(num_texts, count))

        parts = [fixed(special[0], len(frame.prefix)), _Segments(body.text, body.order, body.start, length)]
        if relation is not None:
            parts += [fixed(special[1], len(frame.middle)), relation]
        parts.append(fixed(special[2], len(frame.suffix)))
        kinds = [0, 1, 2, 3, 4] if relation is not None else [0, 1, 4]
        text = np.concatenate([part.text for part in parts])
        order = np.concatenate([part.order for part in parts])
        kind = np.repeat(kinds, [len(part.text) for part in parts])
        ordered = np.lexsort((order, kind, text))
        start = np.concatenate([part.start for part in parts])[ordered]
        length = np.concatenate([part.length for part in parts])[ordered]
        kind_of_token = np.repeat(kind[ordered], length)
        ordinary = np.isin(kind[ordered], (1, 3))
        piece = np.where(ordinary, np.arange(len(ordered)), -1)
        is_special = np.repeat(~ordinary, length)
        return Texts(
            tokens=torch.from_numpy(self._tokens(runs(start, length), is_special)),
            types=torch.from_numpy(np.asarray(frame.types, np.int64)[kind_of_token]),
            special=torch.from_numpy(is_special),
            lengths=torch.from_numpy(np.bincount(text[ordered], length, num_texts).astype(np.int64)),
            spans=torch.from_numpy(np.repeat(piece, length)),
        )

    def _tokens(self, places: Ids, special: NDArray[np.bool_]) -> Ids:
        """Token ids at places among the special tokens, where `special` says so, else among the pieces'; all `(tokens,)`."""
        found, ordinary = np.empty(len(places), np.int64), ~special
        found[special] = self._special[places[special]]
        found[ordinary] = self.pieces.tokens[places[ordinary]]
        return found


def _places(body: _Segments, num_texts: int) -> tuple[Ids, Ids]:
    """Each text's first run, and the tokens of its text that stand before each run."""
    first = np.searchsorted(body.text, np.arange(num_texts))
    before = np.cumsum(body.length) - body.length
    return first, before - before[first][body.text]
