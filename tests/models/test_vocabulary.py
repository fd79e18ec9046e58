from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from raydistill.data.texts import Texts
from raydistill.models.biencoder import BiEncoder
from raydistill.models.vocabulary import TrimmedEmbedding, trim_embeddings, whole_state

TABLE = "embeddings.word_embeddings.weight"


@pytest.fixture
def towers(model_of: Callable[..., BiEncoder], kind: str, queries: Texts) -> tuple[BiEncoder, BiEncoder, torch.Tensor]:
    """A model, its copy with a trimmed vocabulary, and the rows that were kept."""
    whole = model_of(kind, tokens_per_micro_batch=100)
    trimmed = copy.deepcopy(whole)
    pad = whole.query_encoder.config.pad_token_id  # type: ignore[union-attr]
    kept = torch.unique(torch.cat([queries.tokens, torch.tensor([pad])]))
    assert 10 < len(kept) < whole.query_encoder.state_dict()[TABLE].shape[0]
    trim_embeddings(trimmed.query_encoder, kept)
    return whole, trimmed, kept


def test_trimmed_vocabulary_gives_the_same_vectors_and_gradients(
    towers: tuple[BiEncoder, BiEncoder, torch.Tensor], queries: Texts
) -> None:
    """Smaller tables that train something else."""
    whole, trimmed, kept = towers
    gradients = []
    for model in (whole, trimmed):
        vectors = model.encode(queries, "query").vectors
        (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
        gradients.append({name: p.grad for name, p in model.query_encoder.named_parameters() if p.grad is not None})
    assert torch.equal(whole.encode(queries, "query").vectors, trimmed.encode(queries, "query").vectors)
    assert gradients[0].keys() == gradients[1].keys()
    full = gradients[0].pop(TABLE)
    assert torch.equal(full[kept], gradients[1].pop(TABLE))
    unused = torch.ones(len(full), dtype=torch.bool)
    unused[kept] = False
    assert not full[unused].any()
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_whole_table_comes_back_bit_for_bit(towers: tuple[BiEncoder, BiEncoder, torch.Tensor]) -> None:
    """A checkpoint whose unused words were lost, moved or rounded: new entities would be read wrongly."""
    whole, trimmed, kept = towers
    before = whole.query_encoder.state_dict()
    table = trimmed.query_encoder.embeddings.word_embeddings  # type: ignore[union-attr]
    assert isinstance(table, TrimmedEmbedding)
    assert torch.equal(table.restored(), before[TABLE])
    with torch.no_grad():
        table.weight += 0.25
    after = whole_state(trimmed.query_encoder)
    assert after.keys() == before.keys()
    expected = before[TABLE].clone()
    expected[kept] += 0.25
    assert torch.equal(after.pop(TABLE), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_token_outside_the_trimmed_vocabulary_is_an_error(
    towers: tuple[BiEncoder, BiEncoder, torch.Tensor], queries: Texts
) -> None:
    """A word that was trimmed away and is read as another one."""
    _, trimmed, kept = towers
    outside = next(token for token in range(1000) if token not in kept.tolist())
    tokens = queries.tokens.clone()
    tokens[3] = outside
    with pytest.raises(IndexError):
        trimmed.encode(queries.with_tokens(tokens), "query")


def test_trimming_twice_trims_once(towers: tuple[BiEncoder, BiEncoder, torch.Tensor]) -> None:
    """Shared towers, or a teacher that is also the source of the student, trimmed to rows of rows."""
    _, trimmed, kept = towers
    table = trimmed.query_encoder.embeddings.word_embeddings  # type: ignore[union-attr]
    trim_embeddings(trimmed.query_encoder, kept[:3])
    assert trimmed.query_encoder.embeddings.word_embeddings is table  # type: ignore[union-attr]


def test_copy_of_a_trimmed_encoder_trains_apart() -> None:
    """A student whose embedding rows are the teacher's."""
    whole = torch.arange(12.0).view(6, 2)
    table = TrimmedEmbedding(whole, torch.tensor([0, 2, 5]), 0)
    other = copy.deepcopy(table)
    with torch.no_grad():
        other.weight += 1
    assert torch.equal(table.restored(), whole)
    assert torch.equal(other.restored()[[0, 2, 5]], whole[[0, 2, 5]] + 1)
    assert isinstance(other, nn.Module)
    assert torch.equal(table(torch.tensor([[5, 0]])), whole[[5, 0]][None])
