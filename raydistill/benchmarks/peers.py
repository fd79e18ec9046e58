"""What others take for the same work, where they are installed: `pip install raydistill[bench]`."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.benchmarks.machine import seconds_of
from raydistill.devices import best_device
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.models.biencoder import Precision

SENTENCE_TRANSFORMERS, PYKEEN = "sentence_transformers", "pykeen"
Pairs = Sequence[tuple[str, str]]


def is_installed(peer: str) -> bool:
    """Whether a peer can be compared with."""
    return importlib.util.find_spec(peer) is not None


class SentenceTransformers:
    """Contrastive training and encoding by sentence-transformers.

    Args:
        folder: of a pre-trained encoder; it is pooled by mean.
        max_tokens: of a text.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        self.device = best_device().type
        self.model: Any = SentenceTransformer(str(folder), device=self.device, local_files_only=True)
        self.model.max_seq_length = max_tokens
        self.loss: Any = MultipleNegativesRankingLoss(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def step(self, pairs: Pairs, precision: Precision) -> None:
        """One step on pairs of a query and its answer."""
        autocast = torch.autocast(self.device, torch.bfloat16) if precision == "bf16" else nullcontext()
        self.model.train()
        with autocast:
            features = [self._moved(self.model.preprocess(list(side))) for side in zip(*pairs, strict=True)]
            loss = self.loss(features, torch.empty(0))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()

    def _moved(self, features: dict[str, Any]) -> dict[str, Any]:
        return {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in features.items()}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Normalised vectors of texts, `(texts, hidden)`."""
        self.model.eval()
        vectors = self.model.encode(
            list(texts), batch_size=32, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )
        return torch.as_tensor(vectors)


def pykeen_seconds(
    task: LinkPredictionTask, train: Tensor, test: Tensor, known: Tensor, vectors: tuple[Tensor, Tensor], turns: int
) -> float:
    """Seconds PyKEEN's evaluator takes to rank a split from ready vectors, the median.

    Args:
        task: the queries of the split.
        train: `(n, 3)` training triples.
        test: `(m, 3)` the split.
        known: `(k, 3)` triples of all splits.
        vectors: of the distinct queries of the task, and of the entities.
        turns: how often.
    """
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models.mocks import FixedModel
    from pykeen.triples import CoreTriplesFactory

    queries, entities = vectors
    places = np.full((task.num_entities, 2 * task.num_relations), -1, np.int64)
    places[task.distinct_heads, task.distinct_relations] = np.arange(len(task.distinct_heads))
    place_of = torch.from_numpy(places)

    class Scores(FixedModel):  # type: ignore[no-untyped-call]
        """Scores from the vectors."""

        def score_t(  # type: ignore[override]
            self, hr_batch: Tensor, *, slice_size: int | None = None, mode: Any = None, tails: Tensor | None = None
        ) -> Tensor:
            return queries[place_of[hr_batch[:, 0], hr_batch[:, 1]]] @ entities.T

        def score_h(  # type: ignore[override]
            self, rt_batch: Tensor, *, slice_size: int | None = None, mode: Any = None, heads: Tensor | None = None
        ) -> Tensor:
            return queries[place_of[rt_batch[:, 1], rt_batch[:, 0] + task.num_relations]] @ entities.T

    factory = CoreTriplesFactory(train.long(), num_entities=task.num_entities, num_relations=task.num_relations)
    model = Scores(triples_factory=factory)

    def evaluate() -> None:
        RankBasedEvaluator().evaluate(
            model, test.long(), additional_filter_triples=[known.long()], batch_size=256, use_tqdm=False
        )

    return statistics.median(seconds_of(evaluate, turns))
