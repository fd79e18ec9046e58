"""Students of a few layers with random weights, and texts of random tokens for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from raydistill.data.texts import Texts
from raydistill.models.biencoder import BiEncoder


@pytest.fixture
def student_of() -> Callable[..., BiEncoder]:
    """A BERT-like student: `student_of("roberta", shared=True, hidden_size=...)`, its biases and norms random too."""

    def make(
        kind: str = "bert",
        *,
        shared: bool = False,
        pooling: Any = "mean",
        seed: int = 5,
        initializer: float = 0.3,
        **sizes: int,
    ) -> BiEncoder:
        from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

        configuration, model = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}[kind]
        wanted = {
            "vocab_size": 50,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "max_position_embeddings": 40,
            **sizes,
        }
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = configuration(**wanted, **dropout, initializer_range=initializer)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoders = [model(config) for _ in range(1 if shared else 2)]
            for encoder in encoders:
                for parameter in encoder.parameters():
                    if parameter.ndim == 1:
                        parameter.data += 0.3 * torch.randn(parameter.shape)
        for encoder in encoders:
            encoder.pooler.requires_grad_(False)
        return BiEncoder(encoders[0], encoders[-1], pooling=pooling).eval()

    return make


@pytest.fixture
def texts_of() -> Callable[..., Texts]:
    """Texts of these lengths: `texts_of(5, 3, seed=1)`."""

    def make(*lengths: int, seed: int = 0, vocabulary: int = 50) -> Texts:
        count = sum(lengths)
        tokens = torch.randint(5, vocabulary, (count,), generator=torch.Generator().manual_seed(seed))
        return Texts(
            tokens, torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool), torch.tensor(lengths)
        )

    return make
