"""The way without any of our ways to save work: the baseline of the benchmark.

Written from the paper and from what the public script does: every triple is tokenised again in every epoch; query, tail and head of
every example are encoded by teacher and student, padded to the longest of the batch; which pairs may be compared is found pair by pair in Python; all
is float32; ranks come from a full sort.

Source:
    PMD (arXiv 2401.12997) and its public script; SimKGC (arXiv 2203.02167).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.kg.store import Dataset
from raydistill.kg.text import NeighborIndex, TextRule, entity_text, inverse_phrase
from raydistill.kg.triples import IntArray, with_inverses

Triple = tuple[int, int, int]


class NaiveTexts:
    """Texts of triples, put together and tokenised one by one.

    Args:
        dataset: the graph.
        tokenizer: of the encoder.
        rule: when neighbours' names are borrowed.
        max_tokens: of a text.
    """

    def __init__(self, dataset: Dataset, tokenizer: Any, rule: TextRule, max_tokens: int) -> None:
        self.dataset, self.tokenizer, self.rule, self.max_tokens = dataset, tokenizer, rule, max_tokens
        self.neighbors = NeighborIndex.from_triples(dataset.train, dataset.num_entities)
        self.phrases = [*dataset.relation_phrases, *(inverse_phrase(one) for one in dataset.relation_phrases)]

    def entity(self, entity: int, answer: int) -> str:
        """An entity's text that does not name the answer."""
        names, descriptions = self.dataset.entity_names, self.dataset.entity_descriptions
        return entity_text(entity, names, descriptions, neighbors=self.neighbors, rule=self.rule, answer=answer)

    def tokens(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        """Token ids and segment ids of a text, or of a pair."""
        found = self.tokenizer(text, pair, truncation=True, max_length=self.max_tokens, return_token_type_ids=True)
        return found["input_ids"], found["token_type_ids"]

    def padded(self, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids and segment ids padded to the longest of the batch, and 1 where there is a token."""
        longest = max(len(row) for row, _ in rows)
        ids = torch.full((len(rows), longest), int(self.tokenizer.pad_token_id or 0))
        segments, real = (torch.zeros((len(rows), longest), dtype=torch.int64) for _ in range(2))
        for number, (row, segment) in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            segments[number, : len(row)] = torch.tensor(segment)
            real[number, : len(row)] = 1
        return ids, segments, real


class NaiveDistillation:
    """Steps of PMD the obvious way.

    Args:
        student: a `transformers` encoder.
        teacher: another one, on the same device.
        texts: makes what they read.
        train: training triples, without inverses.
        num_relations: without inverses.
        mask_ratio: of masked tokens.
        alpha, beta: weights of the score and the feature term.
        margin, inverse_temperature: of the contrastive term.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        texts: NaiveTexts,
        train: IntArray,
        num_relations: int,
        *,
        mask_ratio: float,
        alpha: float = 0.1,
        beta: float = 0.1,
        margin: float = 0.02,
        inverse_temperature: float = 20.0,
    ) -> None:
        self.student, self.teacher, self.texts = student.train(), teacher.eval().requires_grad_(False), texts
        self.device = next(student.parameters()).device
        self.mask_ratio, self.alpha, self.beta = mask_ratio, alpha, beta
        self.margin, self.scale = margin, inverse_temperature
        self.known: dict[tuple[int, int], set[int]] = {}
        for head, relation, tail in with_inverses(train, num_relations).tolist():
            self.known.setdefault((head, relation), set()).add(tail)
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=1e-4)
        self.chance = np.random.default_rng(0)

    def step(self, triples: Sequence[Triple]) -> float:
        """One step on examples (inverse relations count from `num_relations` on); returns the loss."""
        sides = self.tokenised(triples)
        vectors, features = [], []
        for *texts, masked in sides:
            student, teacher = self._encode(self.student, *texts), self._encode(self.teacher, *texts)
            real = texts[-1]
            vectors.append((self._pooled(student, real), self._pooled(teacher, real)))
            features.append((student, teacher, masked))
        (query, query_t), (tail, tail_t), _ = vectors
        valid = self.valid(triples)
        scores, scores_t = query @ tail.T, query_t @ tail_t.T
        logits = (scores - self.margin * torch.eye(len(triples), device=self.device)) * self.scale
        logits = logits.masked_fill(~valid, -1e4)
        gold = torch.arange(len(triples), device=self.device)
        contrastive = (nn.functional.cross_entropy(logits, gold) + nn.functional.cross_entropy(logits.T, gold)) / 2
        score = (scores - scores_t)[valid].square().mean() * self.scale**2
        feature = sum(
            (student[masked] - teacher[masked]).square().mean() if bool(masked.any()) else student.sum() * 0.0
            for student, teacher, masked in features[:2]
        )
        loss = (1 - self.alpha - self.beta) * contrastive + self.alpha * score + self.beta * feature
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), 10.0)
        self.optimizer.step()
        return float(loss.detach())

    def tokenised(self, triples: Sequence[Triple]) -> list[list[Tensor]]:
        """Token ids, segment ids, real tokens and masked tokens of queries, tails and heads."""
        rows: list[list[tuple[list[int], list[int]]]] = [[], [], []]
        for head, relation, tail in triples:
            about = self.texts.entity(head, tail)
            rows[0].append(self.texts.tokens(about, self.texts.phrases[relation]))
            rows[1].append(self.texts.tokens(self.texts.entity(tail, head)))
            rows[2].append(self.texts.tokens(about))
        special, mask = set(self.texts.tokenizer.all_special_ids), int(self.texts.tokenizer.mask_token_id)
        found = []
        for side in rows:
            masked_rows = []
            for row, _ in side:
                ordinary = [place for place, token in enumerate(row) if token not in special]
                chosen = self.chance.permutation(ordinary)[: round(self.mask_ratio * len(ordinary))].tolist()
                for place in chosen:
                    row[place] = mask
                masked_rows.append(chosen)
            ids, segments, real = self.texts.padded(side)
            masked = torch.zeros_like(real, dtype=torch.bool)
            for number, places in enumerate(masked_rows):
                masked[number, places] = True
            found.append([one.to(self.device) for one in (ids, segments, real, masked)])
        return found

    def valid(self, triples: Sequence[Triple]) -> Tensor:
        """Which tails may be compared with which queries, pair by pair."""
        valid = torch.ones(len(triples), len(triples), dtype=torch.bool)
        for row, (head, relation, _) in enumerate(triples):
            for column, (_, _, tail) in enumerate(triples):
                if row != column and tail in self.known.get((head, relation), ()):
                    valid[row, column] = False
        return valid.to(self.device)

    @staticmethod
    def _encode(model: nn.Module, ids: Tensor, segments: Tensor, real: Tensor) -> Tensor:
        states: Tensor = model(input_ids=ids, token_type_ids=segments, attention_mask=real).last_hidden_state
        return states

    @staticmethod
    def _pooled(states: Tensor, real: Tensor) -> Tensor:
        weights = real[:, :, None].float()
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def naive_ranks(queries: Tensor, entities: Tensor, gold: Sequence[int], known: Sequence[Sequence[int]]) -> list[int]:
    """Filtered ranks, from 1, by sorting all scores of every query.

    Args:
        queries: `(queries, hidden)`.
        entities: `(entities, hidden)`.
        gold: the right answer of each query.
        known: what else is known to be true of each query.
    """
    ranks = []
    scores = queries @ entities.T
    for number, answer in enumerate(gold):
        row = scores[number]
        for other in known[number]:
            if other != answer:
                row[other] = -1e4
        order = torch.argsort(row, descending=True)
        ranks.append(int((order == answer).nonzero()) + 1)
    return ranks
