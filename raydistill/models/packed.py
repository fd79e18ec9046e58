"""BERT-like encoders over texts laid end to end: no padding anywhere but in attention, and there hardly any.

All of an encoder but its attention looks at one token at a time, so the tokens of all texts go through it as one long matrix: large products are what a
processor is fast at, and each weight is converted to bfloat16 once. How the tokens of a text see each other is the business of `attention.py`. The simple twin
is `transformers`' own forward pass over padded texts, which is also what any other kind of encoder takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.texts import Texts
from raydistill.models.attention import in_groups
from raydistill.models.conditioning import CONDITIONING
from raydistill.models.features import EMBEDDINGS, QKV, Feature
from raydistill.models.fused import compiled_layer, fused_layers
from raydistill.models.kinds import KINDS


def can_be_packed(encoder: nn.Module) -> bool:
    """Whether an encoder is of a kind whose parts we know."""
    config: Any = encoder.config
    return config.model_type in KINDS and not config.is_decoder and hasattr(encoder, "encoder")


def packed_states(
    encoder: nn.Module, texts: Texts, wanted: frozenset[Feature], *, fused: bool
) -> tuple[Tensor, dict[Feature, Tensor]]:
    """Token states after the last layer, and what is asked for of others, each in the order of the texts' tokens.

    Args:
        encoder: one that `can_be_packed`.
        texts: on the CPU; in falling order of length unless `fused`.
        wanted: of which layers, and what.
        fused: whether layers are computed as `can_be_fused` says; else in groups of texts of like length.

    Raises:
        IndexError: a layer, or a type of tokens, that the encoder does not have.
    """
    model: Any = encoder
    hidden = _embedded(model, texts)
    states: dict[Feature, Tensor] = {EMBEDDINGS: hidden} if EMBEDDINGS in wanted else {}
    if fused:
        through = fused_layers(texts, hidden.device, compiled_layer())
    else:
        through = in_groups(texts, hidden.device)
    for number, layer in enumerate(model.encoder.layer):
        hidden, seen = through(layer, hidden, QKV(number) in wanted)
        if seen is not None:
            states[QKV(number)] = seen
        if number in wanted:
            states[number] = hidden
    if len(states) < len(wanted):
        missing = ", ".join(sorted(map(str, wanted - states.keys())))
        raise IndexError(f"layers {missing} of an encoder with {len(model.encoder.layer)}")
    return hidden, states


def _embedded(model: Any, texts: Texts) -> Tensor:
    parts = model.embeddings
    device = parts.word_embeddings.weight.device
    words = parts.word_embeddings(texts.there("tokens", device)) + _places(model, texts, device)
    if texts.times is not None and hasattr(parts, CONDITIONING):
        # Each text's own vector: what a student that is being trained is told beside the tokens.
        told = getattr(parts, CONDITIONING)(texts.there("times", device))
        words = words + told.index_select(0, texts.there("text_of_token", device))
    embedded: Tensor = parts.dropout(parts.LayerNorm(words))
    return embedded


def _places(model: Any, texts: Texts, device: torch.device) -> Tensor:
    """What tells tokens of their places and types, `(tokens, hidden)`.

    From one table of all places with all types: nearly all tokens are of one type, and on a GPU what belongs to one row is added up one after another. An encoder that knows one
    type takes all tokens to be of it, whatever its tokenizer says.
    """
    parts, types = model.embeddings, model.config.type_vocab_size
    # RoBERTa counts from one beyond its padding token.
    first = 0 if model.config.model_type == "bert" else parts.padding_idx + 1
    places = parts.position_embeddings(torch.arange(first, first + texts.longest, device=device))
    table = places[:, None] + parts.token_type_embeddings(torch.arange(types, device=device))
    row = texts.there("place_of_token", device)
    if types > 1:
        if texts.types_told_apart > types:
            raise IndexError(f"a token of type {texts.types_told_apart - 1} for an encoder of {types} types")
        row = row * types + texts.there("types", device)
    return nn.functional.embedding(row, table.flatten(0, 1))
