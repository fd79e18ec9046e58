"""A student that is told times, and is itself at time 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder
from raydistill.models.conditioning import CONDITIONING
from raydistill.models.loading import load_encoder
from raydistill.models.vocabulary import whole_state
from raydistill.students.conditioning import Conditioner


@pytest.fixture(params=["bert", "roberta"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of encoder in turn."""
    name: str = request.param
    return name


@pytest.fixture
def model_of(encoder_folder: Callable[..., Path]) -> Callable[..., BiEncoder]:
    """A new model of two towers, or of one for both sides."""

    def make(kind: str, *, shared: bool = False) -> BiEncoder:
        query = load_encoder(encoder_folder(kind))
        entity = query if shared else load_encoder(encoder_folder(kind))
        return BiEncoder(query, entity, tokens_per_micro_batch=50).eval()

    return make


@pytest.fixture
def texts(kind: str, tokenizers: dict[str, Any], dataset: Dataset, assembler_of: Callable[..., TextAssembler]) -> Texts:
    """Queries of different lengths."""
    return assembler_of(tokenizers[kind], dataset).query_texts(np.arange(8), np.arange(8))


def moved(conditioner: Conditioner) -> None:
    """As if it had learned something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in conditioner.embeddings.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)


def test_student_at_time_zero_is_the_plain_encoder_bit_for_bit(
    model_of: Callable[..., BiEncoder], kind: str, texts: Texts
) -> None:
    """A deployed model that is not the one that was trained at time 0."""
    model = model_of(kind)
    plain = model.encode(texts, "query").vectors
    conditioner = Conditioner(1)
    conditioner.prepare(model)
    later = torch.linspace(0.05, 0.9, len(texts))
    assert torch.equal(model.encode(texts.at(later), "query").vectors, plain), "it begins as if it were told nothing"
    moved(conditioner)
    assert torch.equal(model.encode(texts, "query").vectors, plain)
    assert torch.equal(model.encode(texts.at(torch.zeros(len(texts))), "query").vectors, plain)
    mixed = later.where(torch.arange(len(texts)) % 2 == 0, 0.0)
    told = model.encode(texts.at(mixed), "query").vectors
    assert torch.equal(told[1::2], plain[1::2])
    assert (told[::2] - plain[::2]).abs().amax(1).min().item() > 1e-3


def test_each_text_is_told_its_own_time(model_of: Callable[..., BiEncoder], kind: str, texts: Texts) -> None:
    """Times in the order of texts sorted by length: a text told another one's, and no shape to show it."""
    model, conditioner = model_of(kind), Conditioner(1)
    conditioner.prepare(model)
    moved(conditioner)
    times = torch.linspace(0.0, 0.9, len(texts))
    together = model.encode(texts.at(times), "entity").vectors
    alone = [
        model.encode(texts.at(times).select(torch.tensor([number])), "entity").vectors for number in range(len(texts))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_stored_is_the_plain_encoder(model_of: Callable[..., BiEncoder], kind: str, shared: bool) -> None:
    """A checkpoint with parameters that no encoder of its kind has, or one embedding trained for towers that are one."""
    model, conditioner = model_of(kind, shared=shared), Conditioner(1)
    names = set(whole_state(model.query_encoder))
    conditioner.prepare(model)
    assert set(conditioner.embeddings) == ({"query"} if shared else {"query", "entity"})
    assert set(whole_state(model.query_encoder)) == names
    trained = [name for name, _ in model.named_parameters() if CONDITIONING in name]
    assert len(trained) == (2 if shared else 4)
    assert conditioner.complete


def test_embeddings_come_back_and_begin_alike(model_of: Callable[..., BiEncoder], kind: str, texts: Texts) -> None:
    """A resumed trial whose student has forgotten times, or two workers that begin with different ones."""
    first, second, other = (Conditioner(seed) for seed in (1, 1, 2))
    models = [model_of(kind) for _ in range(3)]
    for conditioner, model in zip((first, second, other), models, strict=True):
        conditioner.prepare(model)
    kept = first.tensors()
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in kept.items())
    assert any(not torch.equal(tensor, other.tensors()[name]) for name, tensor in kept.items())
    moved(first)
    second.restore(models[1], first.record(), first.tensors())
    told = texts.at(torch.full((len(texts),), 0.4))
    assert torch.equal(models[0].encode(told, "query").vectors, models[1].encode(told, "query").vectors)
