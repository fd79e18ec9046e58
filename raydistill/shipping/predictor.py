"""One query, answered: the entities of a graph that best complete (head, relation, ?) or (?, relation, tail)."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.devices import best_device
from raydistill.errors import PredictionError
from raydistill.evaluation.encode import encode_entities_in_parts, encode_queries
from raydistill.kg.store import Dataset
from raydistill.kg.text import inverse_phrase
from raydistill.kg.triples import inverse_relation
from raydistill.kg.truth import TruthIndex
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_tokenizer
from raydistill.shipping.entities import EntityVectors
from raydistill.shipping.vectors import remembered
from raydistill.students.quantizers import FLOAT, require_entity_bits
from raydistill.training.evaluate import open_checkpoint
from raydistill.training.manifest import manifest_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Args:
        key: the entity's key in the source.
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

    def tails(self, head: str, relation: str, k: int = 10) -> list[Prediction]:
        """The best tails of (head, relation, ?).

        Args:
            head: key or name of an entity, or new text such as "name: description".
            relation: key or phrase of a relation.
            k: how many, best first.

        Raises:
            PredictionError: an unknown relation, or a name that several entities share.
        """
        return self._answers(head, self._relation(relation), k)

    def heads(self, tail: str, relation: str, k: int = 10) -> list[Prediction]:
        """The best heads of (?, relation, tail); arguments and errors as for `tails`."""
        return self._answers(tail, int(inverse_relation(self._relation(relation), self.dataset.num_relations)), k)

    def _answers(self, asked: str, relation: int, k: int) -> list[Prediction]:
        if k < 1:
            raise PredictionError(
                f"k = {k}",
                expected="at least 1",
                consequence="there would be no answer",
                remedy="ask for one answer or more",
            )
        entity = self._entity(asked)
        known = np.zeros(0, np.int32)
        if entity is None:
            vector = self._encode_new(asked, relation)
        else:
            vector = encode_queries(self.model, self.assembler, np.array([entity]), np.array([relation]))
            known = self.truth.known_tails(np.array([entity]), np.array([relation]))[1]
        scores = self.entity_vectors.scores(vector[0])
        best = torch.topk(scores, min(k, len(scores)))
        return [
            Prediction(self.dataset.entity_keys[i], self.dataset.entity_names[i], score, bool((known == i).any()))
            for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _encode_new(self, text: str, relation: int) -> Tensor:
        """The query vector of a head that is not in the graph."""
        phrases = self.dataset.relation_phrases
        forward = relation < len(phrases)
        phrase = phrases[relation] if forward else inverse_phrase(phrases[relation - len(phrases)])
        encoded = self.tokenizer(
            " ".join(text.split()),
            phrase,
            truncation="longest_first",
            max_length=self.assembler.max_tokens,
            return_token_type_ids=True,
            return_special_tokens_mask=True,
        )
        tokens = torch.tensor(encoded["input_ids"])
        special = torch.tensor(encoded["special_tokens_mask"], dtype=torch.bool)
        texts = Texts(tokens, torch.tensor(encoded["token_type_ids"]), special, torch.tensor([len(tokens)]))
        with torch.no_grad():
            return self.model.encode(texts, "query").vectors

    def _entity(self, asked: str) -> int | None:
        """The entity that is meant; None for new text."""
        found = _matches(asked, self.dataset.entity_keys) or _matches(asked, self.dataset.entity_names)
        if len(found) > 1:
            keys = [self.dataset.entity_keys[i] for i in found[:8]]
            raise PredictionError(
                f"{asked!r} names {len(found)} entities: {', '.join(keys)}{', ...' if len(found) > 8 else ''}",
                expected="one entity",
                consequence="the answer would be about whichever comes first",
                remedy="give its key",
            )
        if not found:
            if not asked.strip():
                raise PredictionError(
                    "an empty head or tail",
                    expected="a key, a name, or new text",
                    consequence="the answer would be about nothing",
                    remedy="say which entity is meant",
                )
            logger.warning("%r is no entity of the graph: it is read as new text", asked)
        return found[0] if found else None

    def _relation(self, asked: str) -> int:
        keys, phrases = self.dataset.relation_keys, self.dataset.relation_phrases
        found = _matches(asked, keys) or _matches(asked, phrases)
        if len(found) == 1:
            return found[0]
        close = difflib.get_close_matches(asked, list(dict.fromkeys([*phrases, *keys])), n=3)
        raise PredictionError(
            f"relation {asked!r} {'is ambiguous' if found else 'is not in the graph'}",
            expected=f"one of {', '.join(close or phrases[:5])}",
            consequence="the model has learned nothing about it",
            remedy="give a relation's key or phrase",
        )


def _encoded(model: BiEncoder, assembler: TextAssembler, num_entities: int, bits: int) -> EntityVectors:
    parts, place = encode_entities_in_parts(model, assembler, num_entities)
    return EntityVectors.gathered(parts, torch.from_numpy(place), bits)


def _matches(asked: str, labels: Sequence[str]) -> list[int]:
    exact = [i for i, label in enumerate(labels) if label == asked]
    return exact or [i for i, label in enumerate(labels) if label.casefold() == asked.strip().casefold()]
