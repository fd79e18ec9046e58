"""Queries, answered: the entities of a graph that best complete (head, relation, ?) or (?, relation, tail)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.devices import best_device
from raydistill.errors import PredictionError
from raydistill.evaluation.encode import encode_entities_in_parts, encode_queries
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.kg.truth import TruthIndex
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.loading import load_tokenizer
from raydistill.shipping.added import checked_additions
from raydistill.shipping.entities import EntityVectors
from raydistill.shipping.meanings import Meanings
from raydistill.shipping.new_texts import new_texts, phrases_of
from raydistill.shipping.queries import Query
from raydistill.shipping.vectors import remembered
from raydistill.students.quantizers import FLOAT, require_entity_bits
from raydistill.training.evaluate import open_checkpoint
from raydistill.training.manifest import manifest_digest

QUERIES_AT_ONCE = 4096
"""Encoded together: bounds the memory of their vectors."""


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Args:
        key: the entity's key in the source; of one that was added, its name.
        name: what people call it.
        score: cosine, in [-1, 1]; where entity vectors are kept in 8 bits, within hundredths of it.
        known: whether the triple stands in the graph already, in any split; False for queries about new text.
    """

    key: str
    name: str
    score: float
    known: bool


class Predictor:
    """Answers queries with the vectors of all entities.

    Args:
        model: the model.
        assembler: the graph's texts for it.
        dataset: the graph.
        tokenizer: for texts that are not in the graph.
        entity_vectors: of all entities; None = they are encoded now.
    """

    def __init__(
        self,
        model: BiEncoder,
        assembler: TextAssembler,
        dataset: Dataset,
        tokenizer: Any,
        entity_vectors: EntityVectors | None = None,
    ) -> None:
        self.model, self.assembler, self.dataset, self.tokenizer = model.eval(), assembler, dataset, tokenizer
        everything = np.concatenate([dataset.train, dataset.valid, dataset.test])
        self.truth = TruthIndex.from_triples(everything, dataset.num_entities, dataset.num_relations)
        if entity_vectors is None:
            entity_vectors = _encoded(model, assembler, dataset.num_entities, FLOAT)
        self.entity_vectors = entity_vectors
        self.meanings = Meanings(dataset)

    @classmethod
    def load(cls, checkpoint: str | Path, data: str | Path, *, entity_bits: int = FLOAT) -> Predictor:
        """Read a checkpoint and a dataset directory, and encode all entities, unless their vectors were kept from an earlier call.

        Args:
            checkpoint: the model.
            data: dataset directory.
            entity_bits: 8 = entity vectors take a quarter of the memory, in the cache too; `evaluate_checkpoint` says what that costs.

        Raises:
            CapabilityError: other than 8 or 32 bits.
            CheckpointError: damaged checkpoint.
            DataError: damaged dataset.
        """
        require_entity_bits(entity_bits)
        dataset = Dataset.load(data)
        model, assembler = open_checkpoint(checkpoint, dataset)
        device = best_device()
        vectors = remembered(
            f"{manifest_digest(Path(checkpoint))} {dataset.fingerprint} {device.type} {entity_bits}",
            dataset.num_entities,
            lambda: _encoded(model, assembler, dataset.num_entities, entity_bits),
        )
        return cls(model, assembler, dataset, load_tokenizer(Path(checkpoint) / "tokenizer"), vectors.to(device))

    @property
    def temperature(self) -> float:
        """What training divides cosines by: `score / temperature` is the logit whose softmax over candidates the model learned with."""
        return 1 / self.model.inverse_temperature.item()

    def tails(self, head: str, relation: str, k: int = 10, *, new: bool = False) -> list[Prediction]:
        """The best tails of (head, relation, ?).

        Args:
            head: key or name of an entity, or new text such as "name: description".
            relation: key or phrase of a relation.
            k: how many, best first; fewer where the graph has no more.
            new: leave out what the graph knows already, in any split.

        Raises:
            PredictionError: an unknown relation, or a name that several entities share.
        """
        return self.answers([Query(relation, head=head)], k, new=new)[0]

    def heads(self, tail: str, relation: str, k: int = 10, *, new: bool = False) -> list[Prediction]:
        """The best heads of (?, relation, tail); arguments and errors as for `tails`."""
        return self.answers([Query(relation, tail=tail)], k, new=new)[0]

    def answers(self, queries: Sequence[Query], k: int = 10, *, new: bool = False) -> list[list[Prediction]]:
        """The best answers of many queries, in their order; they are encoded together, and nothing is before all of them are understood.

        Args:
            queries: see `read_queries` for files of them.
            k: how many of each; as `new`, as for `tails`.
            new: leave out what the graph knows already.

        Raises:
            PredictionError: as for `tails`, saying where the query was asked.
        """
        if k < 1:
            raise PredictionError(
                f"k = {k}",
                expected="at least 1",
                consequence="there would be no answer",
                remedy="ask for one answer or more",
            )
        relations = self.meanings.relations(queries)
        entities = self.meanings.entities({query.given: query.where for query in reversed(queries)})
        found: list[list[Prediction]] = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part, some = queries[start : start + QUERIES_AT_ONCE], relations[start : start + QUERIES_AT_ONCE]
            vectors = self._query_vectors([query.given for query in part], entities, some)
            for query, relation, vector in zip(part, some.tolist(), vectors, strict=True):
                found.append(self._best(vector, self._known(entities[query.given], relation), k, new))
        return found

    def score(self, head: str, relation: str, tail: str) -> float:
        """How well a tail completes (head, relation, ?): the cosine that `tails` gives it, in [-1, 1]; no probability, and worth something only beside other tails' of the same query.

        Args:
            head: key or name of an entity, or new text such as "name: description".
            relation: key or phrase of a relation.
            tail: as `head`. The other direction, (?, relation, tail), is another query: `heads`.

        Raises:
            PredictionError: an unknown relation, or a name that several entities share.
        """
        relations = self.meanings.relations([Query(relation, head=head)])
        entities = self.meanings.entities({head: "", tail: ""})
        [query] = self._query_vectors([head], entities, relations)
        place = entities[tail]
        if place is None:
            return float(self._encode_new([tail], None)[0] @ query)
        return float(self.entity_vectors.rows(torch.tensor([place])).scores(query)[0])

    def add(self, names: Sequence[str], descriptions: Sequence[str] | None = None) -> None:
        """Make new entities candidates, from now on and for this predictor alone: their vectors are appended, and neither dataset nor cache changes.

        They have no neighbours whose names could be borrowed. Their names are their keys; asked about, they are read with their descriptions.

        Args:
            names: none that an entity has already, as a key or as a name.
            descriptions: one for each, "" = none; None = none has one.

        Raises:
            PredictionError: an empty or repeated name, one that is taken, or another number of descriptions.
        """
        added = checked_additions(names, descriptions, [*self.meanings.keys(), *self.meanings.names()])
        if not added:
            return
        vectors = self._encode_new([one.text for one in added], None)
        self.entity_vectors = self.entity_vectors.followed_by(EntityVectors.of(vectors, self.entity_vectors.bits))
        self.meanings.added += added

    def _query_vectors(self, given: Sequence[str], entities: dict[str, int | None], relations: IntArray) -> Tensor:
        """Vectors of queries about these words, `(queries, hidden)`."""
        places = np.array([-1 if (one := entities[word]) is None else one for word in given], np.int64)
        stored = (places >= 0) & (places < self.dataset.num_entities)
        inside, outside = np.flatnonzero(stored), np.flatnonzero(~stored)
        if not len(outside):
            return encode_queries(self.model, self.assembler, places, relations)
        texts = [self._text(given[row], int(places[row])) for row in outside.tolist()]
        fresh = self._encode_new(texts, relations[outside])
        vectors = fresh.new_empty((len(given), fresh.shape[1]))
        vectors[torch.from_numpy(outside)] = fresh
        if len(inside):
            vectors[torch.from_numpy(inside)] = encode_queries(
                self.model, self.assembler, places[inside], relations[inside]
            )
        return vectors

    def _text(self, word: str, place: int) -> str:
        return word if place < 0 else self.meanings.added[place - self.dataset.num_entities].text

    def _encode_new(self, texts: Sequence[str], relations: IntArray | None) -> Tensor:
        """Vectors of texts that are not in the graph, `(texts, hidden)`: of queries about these relations, else of entities."""
        tower: Tower = "entity" if relations is None else "query"
        phrases = None if relations is None else phrases_of(relations, self.dataset.relation_phrases)
        with torch.no_grad():
            return self.model.encode(
                new_texts(self.tokenizer, self.assembler.max_tokens, texts, phrases), tower
            ).vectors

    def _known(self, entity: int | None, relation: int) -> IntArray:
        """Entities that the graph knows as answers, ascending; it knows none of what is not in it."""
        return self.truth.known_tails(np.array([-1 if entity is None else entity]), np.array([relation]))[1]

    def _best(self, query: Tensor, known: IntArray, k: int, new: bool) -> list[Prediction]:
        scores = self.entity_vectors.scores(query)
        if new:
            scores[torch.from_numpy(known.astype(np.int64)).to(scores.device)] = -torch.inf
        best = torch.topk(scores, min(k, len(scores) - (len(known) if new else 0)))
        true = set(known.tolist())
        return [
            Prediction(*self.meanings.label(place), score, place in true)
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def _encoded(model: BiEncoder, assembler: TextAssembler, num_entities: int, bits: int) -> EntityVectors:
    parts, place = encode_entities_in_parts(model, assembler, num_entities)
    return EntityVectors.gathered(parts, torch.from_numpy(place), bits)
