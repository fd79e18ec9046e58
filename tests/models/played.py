"""A GPU's way through an encoder, played by a processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from raydistill.models import biencoder, fused, packed
from raydistill.models.attention import operands_of


def of_one_text(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    bounds_of_keys: Tensor,
    longest: int,
    longest_of_keys: int,
    drop: float,
    causal: bool,
    debug: bool,
    *,
    scale: float,
) -> tuple[Tensor]:
    """What `aten::_flash_attention_forward` gives: `(tokens, heads, width)`, each token having seen those of its own text."""
    assert bounds.dtype == torch.int32
    assert not causal
    text = torch.searchsorted(bounds[1:].contiguous(), torch.arange(query.shape[0], dtype=torch.int32), right=True)
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    scores = scores.masked_fill(text[:, None] != text[None, :], -torch.inf)
    return (torch.einsum("hqk,khd->qhd", scores.softmax(-1), value),)


def played(states: Tensor, bounds: Tensor, longest: int, scale: float, drop: float) -> Tensor:
    """`short_attention.attended`, played by a processor."""
    [seen] = of_one_text(*states.unbind(1), bounds, bounds, longest, longest, drop, False, False, scale=scale)
    return seen


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have encoders of known parts go the way of a GPU from here on, heads of any width too."""

    def can_be_fused(model: Any, device: torch.device) -> bool:
        return all(operands_of(layer.attention.self) is None for layer in model.encoder.layer)

    monkeypatch.setattr(biencoder, "can_be_fused", can_be_fused)
    monkeypatch.setattr(packed, "compiled_layer", lambda: fused.fused_layer)
    monkeypatch.setattr(fused, "attention_for", lambda longest, width: played)
