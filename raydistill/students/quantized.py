"""An encoder that computes with rounded numbers: what takes the place of its products' modules, and how it is put there and taken away again.

Rounded are the weights and inputs of every linear layer of the encoder's layers, what its attention multiplies (queries, keys, values and shares), and the
rows of its three embeddings. Layer normalisation, softmax, biases and what comes after the last layer stay as they are. Parameters keep their
names and their full precision; so an optimizer and a checkpoint see the encoder that was there before. Integer arithmetic is simulated: the numbers are those
that integers and scales would give, computed in float32, or in bfloat16 under autocast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.vocabulary import TrimmedEmbedding
from raydistill.students.quantizers import FLOAT, clipped, rounded

EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_FORMATS = "number_formats"


@dataclass(frozen=True)
class Formats:
    """How many bits numbers have: 2 = ternary, 8, 16, or 32 = as they are.

    Args:
        weights: of linear layers, one scale for each.
        embeddings: of embeddings, one scale for each row.
        activations: of what is multiplied; not ternary.
    """

    weights: int = 8
    embeddings: int = 8
    activations: int = 8


class Range(nn.Module):
    """Rounds what goes through it between limits that it was told. While it trains (or `observes`) it notes the largest magnitude that it sees.

    The limits change by `learn` alone: what an encoder makes of a text then does not depend on what else is encoded with it. Until they are known nothing is
    rounded.
    """

    limit: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.known, self.observes = bits, False, False
        self.seen: Tensor | None = None
        # No part of the weights: a checkpoint keeps it beside them.
        self.register_buffer("limit", torch.zeros(()), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """The values, rounded."""
        if self.bits == FLOAT:
            return values
        if self.training or self.observes:
            largest = values.detach().abs().amax().float()
            self.seen = largest if self.seen is None else torch.maximum(self.seen, largest)
        if not self.known:
            return values
        return clipped(values.float(), self.limit, self.bits).to(values.dtype)

    def learn(self, largest: Tensor, memory: float) -> None:
        """Move the limit towards the largest magnitude that was seen: all the way at first, then by 1 - memory of it; 0 = nothing was seen, or nothing but zeros."""
        before = self.limit if self.known else largest
        self.limit.copy_(torch.where(largest > 0, before * memory + largest * (1 - memory), self.limit))
        # Looked at until it is known alone: each look waits for a GPU.
        self.known, self.seen = self.known or bool(self.limit > 0), None

    def know(self, limit: Tensor) -> None:
        """Take a limit as it is; 0 = it is not known yet."""
        self.limit.copy_(limit)
        self.known, self.seen = bool(limit > 0), None


class QuantizedLinear(nn.Linear):
    """A linear layer of rounded weights and inputs; it takes over the parameters of the one that was there."""

    def __init__(self, plain: nn.Linear, formats: Formats) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.bits, self.inputs = formats.weights, Range(formats.activations)

    def forward(self, input: Tensor) -> Tensor:  # its name in torch
        """The product."""
        return nn.functional.linear(self.inputs(input), rounded(self.weight, self.bits), self.bias)


class QuantizedEmbedding(nn.Embedding):
    """An embedding whose rows are rounded, each by itself."""

    def __init__(self, plain: nn.Embedding, bits: int) -> None:
        super().__init__(plain.num_embeddings, plain.embedding_dim, padding_idx=plain.padding_idx, device="meta")
        self.weight, self.bits = plain.weight, bits

    def forward(self, input: Tensor) -> Tensor:  # its name in torch
        """Rows of the tokens."""
        return _rounded_rows(super().forward(input), self.bits)


class QuantizedTrimmedEmbedding(TrimmedEmbedding):
    """The same of a trimmed vocabulary."""

    def __init__(self, plain: TrimmedEmbedding, bits: int) -> None:
        super().__init__(plain.whole, plain.kept, None)
        self.to(plain.weight.device)
        self.weight, self.padding_idx, self.bits = plain.weight, plain.padding_idx, bits

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows of the tokens."""
        return _rounded_rows(super().forward(tokens), self.bits)


def _rounded_rows(rows: Tensor, bits: int) -> Tensor:
    """Each token's row by itself, whatever the shape of the tokens."""
    return rounded(rows.flatten(0, -2), bits, by_row=True).view_as(rows)


class QuantizedOperands(nn.Module):
    """What attention multiplies, rounded (`models/attention.py` asks for it)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.queries, self.keys, self.values, self.shares = (Range(bits) for _ in range(4))

    def before(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those of all tokens, `(tokens, hidden)` each."""
        return self.queries(queries), self.keys(keys), self.values(values)

    def weighed(self, shares: Tensor) -> Tensor:
        """What each token takes of each; before dropout, whose zeros and larger shares are no part of the format."""
        rounded_shares: Tensor = self.shares(shares)
        return rounded_shares


def formats_of(encoder: nn.Module) -> Formats | None:
    """The number formats of a quantised encoder; None = it is none."""
    return getattr(encoder, _FORMATS, None)


def install(encoder: nn.Module, formats: Formats) -> None:
    """Have an encoder compute with rounded numbers, in place.

    Args:
        encoder: one that `can_be_packed`, and that is not quantised yet.
        formats: of its numbers; what has 32 bits is left alone.
    """
    assert formats_of(encoder) is None, "it would be rounded twice"
    model: Any = encoder
    training, device = model.training, next(model.parameters()).device
    for layer in model.encoder.layer:
        for parent in list(layer.modules()):
            for name, plain in list(parent.named_children()):
                if isinstance(plain, nn.Linear):
                    setattr(parent, name, QuantizedLinear(plain, formats))
        # Of 32 bits too: it keeps the layer from kernels that read weights by themselves.
        layer.attention.self.operands = QuantizedOperands(formats.activations)
    for name in EMBEDDINGS if formats.embeddings != FLOAT else ():
        plain = getattr(model.embeddings, name)
        kind = QuantizedTrimmedEmbedding if isinstance(plain, TrimmedEmbedding) else QuantizedEmbedding
        setattr(model.embeddings, name, kind(plain, formats.embeddings))
    setattr(model, _FORMATS, formats)
    model.to(device).train(training)


def uninstall(encoder: nn.Module) -> None:
    """Make a quantised encoder a plain one, in place: its weights are what it computed with; its activations are no longer rounded."""
    if formats_of(encoder) is None:
        return
    model: Any = encoder
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, QuantizedLinear):
                plain: Any = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
                plain.weight = nn.Parameter(rounded(module.weight.detach(), module.bits))
                plain.bias = module.bias
            elif isinstance(module, QuantizedEmbedding):
                weight = rounded(module.weight.detach(), module.bits, by_row=True)
                rows, width = weight.shape
                plain = nn.Embedding(rows, width, padding_idx=module.padding_idx, _weight=weight)
            else:
                assert not isinstance(module, QuantizedTrimmedEmbedding), "a whole vocabulary is what is made plain"
                continue
            setattr(parent, name, plain.train(module.training))
    for layer in model.encoder.layer:
        del layer.attention.self.operands
    delattr(model, _FORMATS)


def ranges_of(encoder: nn.Module) -> Iterator[tuple[str, Range]]:
    """All ranges of an encoder that round, by their places."""
    for name, module in encoder.named_modules():
        if isinstance(module, Range) and module.bits != FLOAT:
            yield name, module
