"""Each tokenizer in turn, and graphs changed in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raydistill.kg.store import Dataset

KINDS = ("bert", "roberta")


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Any]) -> Any:
    """Each kind of tokenizer in turn."""
    return tokenizers[request.param]


@pytest.fixture(scope="session")
def graph_of(dataset: Dataset) -> Callable[..., Dataset]:
    """The nine-triple graph with other names, descriptions, phrases or training triples."""

    def make(
        *,
        names: list[str] | None = None,
        descriptions: list[str] | None = None,
        phrases: list[str] | None = None,
        train: np.ndarray | None = None,
    ) -> Dataset:
        return replace(
            dataset,
            entity_names=names or dataset.entity_names,
            entity_descriptions=descriptions or dataset.entity_descriptions,
            relation_phrases=phrases or dataset.relation_phrases,
            train=dataset.train if train is None else np.asarray(train, np.int32),
        )

    return make
