"""Models of two tiny towers, and texts for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_encoder

KINDS = ("bert", "roberta")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of encoder in turn."""
    name: str = request.param
    return name


@pytest.fixture
def model_of(encoder_folder: Callable[..., Any]) -> Callable[..., BiEncoder]:
    """A new model in evaluation mode, its towers of different weights: `model_of("bert", pooling="cls")`."""

    def make(kind: str = "bert", *, shared: bool = False, **settings: Any) -> BiEncoder:
        query = load_encoder(encoder_folder(kind))
        entity = query if shared else load_encoder(encoder_folder(kind))
        if not shared:
            for parameter in entity.parameters():
                parameter.data *= 1.1
        return BiEncoder(query, entity, **settings).eval()

    return make


@pytest.fixture
def queries(
    kind: str, tokenizers: dict[str, Any], dataset: Dataset, assembler_of: Callable[..., TextAssembler]
) -> Texts:
    """Twelve queries of different lengths, some of them equally long."""
    assembler = assembler_of(tokenizers[kind], dataset, max_tokens=40)
    heads = np.array([2, 0, 5, 1, 1, 6, 7, 3, 4, 5, 0, 2])
    return assembler.query_texts(heads, np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]))
