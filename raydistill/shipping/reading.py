"""Vectors of what is asked and of what is added: texts of the graph, and texts that it does not have, read by the same towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.errors import OutOfMemoryError
from raydistill.evaluation.encode import encode_entities_in_parts, encode_queries
from raydistill.kg.triples import IntArray
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.shipping.entities import EntityVectors
from raydistill.shipping.new_texts import new_texts, phrases_of
from raydistill.teachers.views import NoTeacher
from raydistill.training.gather import World
from raydistill.training.memory import MemoryPlan


@dataclass(frozen=True, eq=False)
class Reader:
    """A model with what it reads.

    Args:
        model: in evaluation mode.
        assembler: the graph's texts for it.
        tokenizer: for texts that are not in the graph.
        phrases: of the graph's relations.
    """

    model: BiEncoder
    assembler: TextAssembler
    tokenizer: Any
    phrases: Sequence[str]

    def queries(self, entities: Sequence[int | None], texts: Sequence[str | None], relations: IntArray) -> Tensor:
        """Vectors of queries, `(queries, hidden)` float32.

        Args:
            entities: of the graph, where there is no text.
            texts: what is read of the end that is given; None = what the graph has of the entity.
            relations: `(queries,)`, inverses from the number of relations on.
        """
        outside = np.array([text is not None for text in texts])
        places = np.array([entity for entity, text in zip(entities, texts, strict=True) if text is None], np.int64)
        if not outside.any():
            return encode_queries(self.model, self.assembler, places, relations)
        fresh = self.new([text for text in texts if text is not None], relations[outside])
        vectors = fresh.new_empty((len(texts), fresh.shape[1]))
        vectors[torch.from_numpy(outside)] = fresh
        if len(places):
            stored = encode_queries(self.model, self.assembler, places, relations[~outside])
            vectors[torch.from_numpy(~outside)] = stored
        return vectors

    def candidates(self, stored: EntityVectors, entities: Sequence[int | None], words: Sequence[str]) -> Tensor:
        """Vectors of candidates, `(candidates, hidden)` float32, as they are scored.

        Args:
            stored: of all entities.
            entities: which of them each candidate is; None = new text.
            words: what is read of new text.
        """
        inside = [entity for entity in entities if entity is not None]
        vectors = stored.numbers(torch.tensor(inside, dtype=torch.int64))
        if len(inside) == len(entities):
            return vectors
        fresh = self.new([word for word, entity in zip(words, entities, strict=True) if entity is None])
        outside = torch.tensor([entity is None for entity in entities], device=fresh.device)
        both = fresh.new_empty((len(entities), fresh.shape[1]))
        both[outside], both[~outside] = fresh, vectors.to(fresh.device)
        return both

    def new(self, texts: Sequence[str], relations: IntArray | None = None) -> Tensor:
        """Vectors of texts that are not in the graph, `(texts, hidden)` float32: of queries about these relations, else of entities."""
        tower: Tower = "entity" if relations is None else "query"
        phrases = None if relations is None else phrases_of(relations, self.phrases)
        with torch.no_grad():
            return self.model.encode(
                new_texts(self.tokenizer, self.assembler.max_tokens, texts, phrases), tower
            ).vectors


def encoded_entities(model: BiEncoder, assembler: TextAssembler, num_entities: int, bits: int) -> EntityVectors:
    """The vectors of all entities of the graph, in so many bits; with half the tokens at a time whenever memory runs out.

    Raises:
        OutOfMemoryError: it does not fit one text at a time.
    """

    def encoded() -> EntityVectors:
        parts, place = encode_entities_in_parts(model, assembler, num_entities)
        return EntityVectors.gathered(parts, torch.from_numpy(place), bits)

    memory = MemoryPlan(model, World.alone(), "auto")
    try:
        return memory.encode(encoded, "the encoding of all entities", assembler.max_tokens, NoTeacher())
    except OutOfMemoryError as problem:
        raise OutOfMemoryError(
            problem.received,
            expected=problem.expected,
            consequence="there would be nothing to score queries against",
            remedy="keep entities in 8 bits (--entity-bits 8), see who else uses the GPU (nvidia-smi), or go without it: CUDA_VISIBLE_DEVICES= before the command",
        ) from None
