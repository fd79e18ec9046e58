"""Queries, answered: the entities of a graph that best complete (head, relation, ?) or (?, relation, tail)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.devices import best_device
from raydistill.errors import PredictionError
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.kg.truth import TruthIndex
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_tokenizer
from raydistill.shipping.added import checked_additions
from raydistill.shipping.best import best_of
from raydistill.shipping.entities import EntityVectors
from raydistill.shipping.meanings import Meanings
from raydistill.shipping.queries import Query
from raydistill.shipping.reading import Reader, encoded_entities
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
        self.reader = Reader(self.model, assembler, tokenizer, dataset.relation_phrases)
        everything = np.concatenate([dataset.train, dataset.valid, dataset.test])
        self.truth = TruthIndex.from_triples(everything, dataset.num_entities, dataset.num_relations)
        if entity_vectors is None:
            entity_vectors = encoded_entities(model, assembler, dataset.num_entities, FLOAT)
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
            lambda: encoded_entities(model, assembler, dataset.num_entities, entity_bits),
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
        """The best answers of many queries, in their order; they are encoded and scored together, and nothing is before all of them are understood.

        Args:
            queries: see `read_queries` for files of them.
            k: how many of each; as `new`, as for `tails`.
            new: leave out what the graph knows already.

        Raises:
            PredictionError: as for `tails`, saying where the query was asked.
        """
        return list(self.answers_in_turn(queries, k, new=new))

    def answers_in_turn(
        self, queries: Sequence[Query], k: int = 10, *, new: bool = False
    ) -> Iterator[list[Prediction]]:
        """What `answers` gives, one query after another: each block of them is scored when the first of it is asked for, and not kept."""
        if k < 1:
            raise PredictionError(
                f"k = {k}",
                expected="at least 1",
                consequence="there would be no answer",
                remedy="ask for one answer or more",
            )
        relations = self.meanings.relations(queries)
        entities = self.meanings.entities((query.given, query.where) for query in queries)
        return self._in_turn(queries, [entities[query.given] for query in queries], relations, k, new)

    def score(self, head: str, relation: str, tail: str) -> float:
        """How well a tail completes (head, relation, ?): the cosine that `tails` gives it, in [-1, 1]; no probability, and worth something only beside other tails' of the same query.

        Each call looks for the words among the labels of all entities, which of millions takes longer than the rest; `scores` looks once for all of its triples.

        Args:
            head: key or name of an entity, or new text such as "name: description".
            relation: key or phrase of a relation.
            tail: as `head`. The other direction, (?, relation, tail), is another query: `heads`.

        Raises:
            PredictionError: an unknown relation, or a name that several entities share.
        """
        return self._scores([(head, relation, tail)], [""])[0]

    def scores(self, triples: Sequence[tuple[str, str, str]]) -> list[float]:
        """What `score` says of each of many triples (head, relation, tail), in their order; one look at the labels of all entities, whatever their number.

        Raises:
            PredictionError: as for `score`, with the number of the triple, from 1 on; nothing is scored then.
        """
        return self._scores(triples, [f"triple {number}" for number in range(1, len(triples) + 1)])

    def add(self, names: Sequence[str], descriptions: Sequence[str] | None = None) -> None:
        """Make new entities candidates, from now on and for this predictor alone: their vectors are appended, and neither dataset nor cache changes.

        They have no neighbours whose names could be borrowed. Their names are their keys; asked about, they are read with their descriptions.
        Each call looks at the labels of all entities and copies all their vectors, so that for a moment these are there twice: add many in one call.

        Args:
            names: none that an entity has already, as a key or as a name.
            descriptions: one for each, "" = none; None = none has one.

        Raises:
            PredictionError: an empty or repeated name, one that is taken, or another number of descriptions.
        """
        added = checked_additions(names, descriptions, chain(self.meanings.keys, self.meanings.names))
        if not added:
            return
        vectors = self.reader.new([one.text for one in added])
        self.entity_vectors = self.entity_vectors.followed_by(EntityVectors.of(vectors, self.entity_vectors.bits))
        self.meanings.add(added)

    def _in_turn(
        self, queries: Sequence[Query], entities: Sequence[int | None], relations: IntArray, k: int, new: bool
    ) -> Iterator[list[Prediction]]:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            vectors = self._query_vectors([query.given for query in queries[part]], entities[part], relations[part])
            # The graph knows nothing of what is not in it, added entities included.
            places = np.array([-1 if entity is None else entity for entity in entities[part]])
            offsets, tails = self.truth.known_tails(places, relations[part])
            known = np.split(tails, offsets[1:-1])
            found = best_of(vectors, self.entity_vectors, known, k, new=new)
            for answers, true in zip(found, (set(some.tolist()) for some in known), strict=True):
                yield [Prediction(*self.meanings.label(place), score, place in true) for place, score in answers]

    def _scores(self, triples: Sequence[tuple[str, str, str]], origins: Sequence[str]) -> list[float]:
        queries = [
            Query(relation, head=head, origin=origin)
            for (head, relation, _), origin in zip(triples, origins, strict=True)
        ]
        relations = self.meanings.relations(queries)
        heads, tails = [head for head, _, _ in triples], [tail for _, _, tail in triples]
        meant = self.meanings.entities(
            (word, query.where)
            for pair, query in zip(zip(heads, tails, strict=True), queries, strict=True)
            for word in pair
        )
        found: list[float] = []
        for start in range(0, len(triples), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            asked = self._query_vectors(heads[part], [meant[head] for head in heads[part]], relations[part])
            answers = self.reader.candidates(self.entity_vectors, [meant[tail] for tail in tails[part]], tails[part])
            found += (asked * answers).sum(dim=1).tolist()
        return found

    def _query_vectors(self, words: Sequence[str], entities: Sequence[int | None], relations: IntArray) -> Tensor:
        """Vectors of queries about these words and what they mean, `(queries, hidden)`."""
        return self.reader.queries(entities, list(map(self.meanings.text, words, entities)), relations)
