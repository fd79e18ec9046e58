"""Making a pruned student small: parameters without the rows and columns of units that went, and modules that say their new sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.biencoder import BiEncoder
from raydistill.models.masked_norm import MaskedLayerNorm
from raydistill.models.vocabulary import TrimmedEmbedding
from raydistill.students.reshaping import Kept, StructureChange, narrowed
from raydistill.students.units import WIDTH, Part, encoders_of


def compact(student: BiEncoder, parts: Sequence[Part], kept: Mapping[str, Tensor]) -> StructureChange:
    """Leave out of a student what is not kept, in place: afterwards each encoder is an ordinary one of smaller width, and encodes as the masked one did.

    Args:
        student: whose pruned units are zero.
        parts: of it.
        kept: of each group of units, the positions that stay, `(kept,)` int64, rising; of each head equally many.
    """
    for encoder in encoders_of(student).values():
        _fold_scaling(encoder, len(kept[WIDTH]))
    changes = narrow(parts, kept)
    for encoder in encoders_of(student).values():
        _resize(encoder, kept[WIDTH])
    return StructureChange(changes, kept[WIDTH])


def narrow(parts: Sequence[Part], kept: Mapping[str, Tensor]) -> dict[str, Kept]:
    """Leave rows and columns out of parameters, in place; modules still say their old sizes.

    Args:
        parts: of a student.
        kept: of each group of units that loses some, the positions that stay, `(kept,)` int64.

    Returns:
        What is kept of each parameter that lost some, by name.
    """
    changes = dict[str, Kept]()
    for part in parts:
        places: Kept = tuple(None if units is None else kept.get(units) for units in part.units)
        if any(positions is not None for positions in places):
            before = part.parameter
            after = nn.Parameter(narrowed(before.detach(), places), requires_grad=before.requires_grad)
            setattr(part.module, part.attribute, after)
            changes[part.name] = places
    return changes


def say_sizes(encoder: nn.Module, sizes: Mapping[str, int]) -> None:
    """Put sizes into an encoder's configuration. Layers were copied one by one, so each part may have one of its own."""
    for module in encoder.modules():
        if hasattr(module, "config"):
            for name, size in sizes.items():
                setattr(module.config, name, size)


def _fold_scaling(encoder: nn.Module, width: int) -> None:
    """Make up for what attention is divided by, the root of a head's dimensions, which are about to be fewer."""
    for layer in encoder.encoder.layer:  # type: ignore[union-attr]
        own: Any = layer.attention.self
        factor = math.sqrt(width / own.num_attention_heads) * own.scaling
        with torch.no_grad():
            own.query.weight.mul_(factor)
            own.query.bias.mul_(factor)


def _resize(encoder: Any, units: Tensor) -> None:
    """Say of every module what its parameters are now."""
    width, intermediate = len(units), len(encoder.encoder.layer[0].intermediate.dense.weight)
    for module in list(encoder.modules()):
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = width
        elif isinstance(module, TrimmedEmbedding):
            module.whole = module.whole.index_select(1, units.to(module.whole.device))
        for name, child in list(module.named_children()):
            if isinstance(child, MaskedLayerNorm):
                norm = child.compacted(units)
                norm.weight, norm.bias = child.weight, child.bias
                setattr(module, name, norm)
    say_sizes(encoder, {"hidden_size": width, "intermediate_size": intermediate})
    for layer in encoder.encoder.layer:
        own = layer.attention.self
        own.all_head_size, own.attention_head_size = width, width // own.num_attention_heads
        own.scaling = own.attention_head_size**-0.5
