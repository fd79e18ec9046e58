"""A teacher with dropout, and texts for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_encoder


@pytest.fixture
def model(encoder_folder: Callable[..., Path]) -> BiEncoder:
    """A model in training mode, with dropout and other weights in each tower."""
    entity = load_encoder(encoder_folder("bert", dropout=0.2))
    for parameter in entity.parameters():
        parameter.data *= 1.1
    query = load_encoder(encoder_folder("bert", dropout=0.2))
    return BiEncoder(query, entity, temperature=0.1, tokens_per_micro_batch=100).train()


@pytest.fixture
def texts(
    tokenizers: dict[str, Any], dataset: Dataset, assembler_of: Callable[..., TextAssembler]
) -> tuple[Texts, Texts]:
    """All queries of one relation, and all entities."""
    assembler, everything = assembler_of(tokenizers["bert"], dataset), np.arange(dataset.num_entities)
    return assembler.query_texts(everything, everything % 8), assembler.entity_texts(everything)
