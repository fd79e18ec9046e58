"""The two towers: one encoder for queries, one for entities (or one for both), pooled and normalised, with a trainable temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from raydistill.data.micro_batches import longest_first, micro_batches
from raydistill.data.texts import Texts, is_in_place
from raydistill.devices import sent
from raydistill.models.features import QKV, Needs, TowerOutput
from raydistill.models.fused import can_be_fused
from raydistill.models.packed import can_be_packed, packed_states

Tower = Literal["query", "entity"]
Pooling = Literal["mean", "cls", "max"]
Precision = Literal["fp32", "bf16"]


class BiEncoder(nn.Module):
    """Query and entity towers whose cosine scores a triple.

    Args:
        query_encoder: a BERT- or RoBERTa-like `transformers` model.
        entity_encoder: another one, or the same object for shared towers.
        pooling: how token states become one vector; `mean` runs over all real tokens, specials included (SimKGC).
        temperature: start of the trainable temperature.
        tokens_per_micro_batch: tokens encoded at a time, padding included; bounds memory, changes no result.
        precision: bf16 runs matrix products in bfloat16 under autocast; weights and vectors stay float32.

    Source: SimKGC (arXiv 2203.02167) section 3.2.
    """

    def __init__(
        self,
        query_encoder: nn.Module,
        entity_encoder: nn.Module,
        *,
        pooling: Pooling = "mean",
        temperature: float = 0.05,
        train_temperature: bool = True,
        tokens_per_micro_batch: int = 16384,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.query_encoder, self.entity_encoder = query_encoder, entity_encoder
        # By tower, what token states go through before they are pooled: in a student that is not whole yet. No part of an encoder, nor of its checkpoint.
        self.tops = nn.ModuleDict()
        self.pooling, self.precision = pooling, precision
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.packs = can_be_packed(query_encoder) and can_be_packed(entity_encoder)
        self.log_inverse_temperature = nn.Parameter(
            torch.tensor(-math.log(temperature)), requires_grad=train_temperature
        )

    @property
    def shared_towers(self) -> bool:
        """Whether one encoder serves both sides."""
        return self.query_encoder is self.entity_encoder

    @property
    def reads_at_once(self) -> bool:
        """Whether queries and entities are better read in one pass than in two: one encoder reads both, on a GPU that takes them in any order (`fused.py`), and each pass
        has a price of its own."""
        with self._autocast():
            device = self.log_inverse_temperature.device
            return self.shared_towers and not len(self.tops) and self.packs and can_be_fused(self.query_encoder, device)

    @property
    def inverse_temperature(self) -> Tensor:
        """Scalar that multiplies cosines into logits."""
        return self.log_inverse_temperature.exp()

    @property
    def num_layers(self) -> int:
        """Transformer layers of a tower."""
        return int(self.query_encoder.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]

    @property
    def num_heads(self) -> int:
        """Attention heads of a layer."""
        return int(self.query_encoder.config.num_attention_heads)  # type: ignore[union-attr, arg-type]

    @property
    def hidden_size(self) -> int:
        """Width of a tower."""
        return int(self.query_encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def encoder(self, tower: Tower) -> nn.Module:
        """The encoder of one side."""
        return self.query_encoder if tower == "query" else self.entity_encoder

    def encode(
        self,
        texts: Texts,
        tower: Tower,
        needs: Needs = Needs(),  # noqa: B008 - frozen
        before_part: Callable[[int], None] | None = None,
    ) -> TowerOutput:
        """Vectors and captured states of `texts`.

        Texts are encoded `tokens_per_micro_batch` tokens at a time, those of like length together, laid end to end where the encoder's kind is known
        (`packed.py`), else padded a little; the outputs come back in the order of `texts`.

        Args:
            texts: what to read.
            tower: which encoder reads it.
            needs: layers to capture.
            before_part: called with the number of each micro-batch before it is encoded, to set what its dropout draws.

        Raises:
            IndexError: a token outside a trimmed vocabulary, or a layer the encoder does not have.
        """
        device = self.log_inverse_temperature.device
        if not len(texts):
            return self._nothing(self.encoder(tower), needs)
        if torch.is_inference_mode_enabled():
            # What is worked out of them here would be of no use to a step with gradient.
            texts = texts.afresh()
        order, outputs = [], []
        for number, part in enumerate(self.micro_batches(texts.lengths)):
            if before_part is not None:
                before_part(number)
            order.append(part)
            outputs.append(self.encode_part(texts.select(part), tower, needs))
        return _in_order(_together(outputs), texts.lengths, torch.cat(order), device)

    def micro_batches(self, lengths: Tensor) -> Iterator[Tensor]:
        """Positions of texts of these lengths, in the parts in which they are encoded."""
        return micro_batches(lengths, self.tokens_per_micro_batch, padded=not self.packs)

    def _nothing(self, encoder: nn.Module, needs: Needs) -> TowerOutput:
        """Outputs for no text: a worker's share of a small batch may be empty, and its part of the loss still needs a gradient."""
        empty = next(encoder.parameters()).reshape(-1)[:0].reshape(0, 1).expand(0, self.hidden_size)
        states = {
            wanted: empty[:, None].expand(0, 3, -1) if isinstance(wanted, QKV) else empty for wanted in needs.layers
        }
        return TowerOutput(empty, states)

    def encode_part(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """Vectors and captured states of one micro-batch, which is encoded at once; arguments and errors as in `encode`."""
        if self.packs:
            return self._encode_packed(texts, tower, needs)
        layers = [layer for layer in needs.layers if isinstance(layer, int)]
        assert len(layers) == len(needs.layers), "the assembly refuses terms on attention for encoders of unknown parts"
        encoder, device = self.encoder(tower), self.log_inverse_temperature.device
        longest = texts.longest
        real = torch.arange(longest)[None, :] < texts.lengths[:, None]
        pad = int(encoder.config.pad_token_id or 0)  # type: ignore[union-attr, arg-type]
        tokens = sent(torch.full(real.shape, pad).masked_scatter_(real, texts.tokens), device)
        types = torch.zeros(real.shape, dtype=torch.int64)
        if getattr(encoder.config, "type_vocab_size", 2) > 1:
            types.masked_scatter_(real, texts.types)
        real = sent(real, device)
        with self._autocast():
            output = encoder(
                input_ids=tokens,
                attention_mask=None if bool((texts.lengths == longest).all()) else real.long(),
                token_type_ids=sent(types, device),
                output_hidden_states=bool(layers),
            )
            hidden = self._topped(output.last_hidden_state, tower)
        vectors = normalized(pool(hidden.float(), real, self.pooling))
        # hidden_states[0] are the embeddings, so layer j is at j + 1.
        return TowerOutput(vectors, {layer: output.hidden_states[layer + 1][real] for layer in sorted(layers)})

    def _encode_packed(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        encoder, device = self.encoder(tower), self.log_inverse_temperature.device
        with self._autocast():
            fused = can_be_fused(encoder, device)
            order = torch.arange(len(texts)) if fused else longest_first(texts.lengths)
            ordered = texts.select(order)
            hidden, states = packed_states(encoder, ordered, needs.layers, fused=fused)
            hidden = self._topped(hidden, tower)
        vectors = normalized(pool_packed(hidden.float(), ordered, self.pooling))
        return _in_order(TowerOutput(vectors, states), texts.lengths, order, device)

    def _topped(self, hidden: Tensor, tower: Tower) -> Tensor:
        return self.tops[tower](hidden) if tower in self.tops else hidden

    def _autocast(self) -> AbstractContextManager[object]:
        device = self.log_inverse_temperature.device
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def normalized(vectors: Tensor) -> Tensor:
    """Vectors of length 1."""
    return nn.functional.normalize(vectors, dim=-1)


def pool_packed(hidden: Tensor, texts: Texts, how: Pooling) -> Tensor:
    """Token states of texts laid end to end, `(tokens, hidden)`, to one vector per text."""
    device = hidden.device
    if how == "cls":
        return hidden.index_select(0, texts.there("starts", device))
    # Not checked again: to look at lengths on a device would be to wait for it.
    return torch.segment_reduce(hidden, how, lengths=texts.there("lengths", device), axis=0, unsafe=True)


def pool(hidden: Tensor, real: Tensor, how: Pooling) -> Tensor:
    """Token states `(texts, length, hidden)` to one vector per text; `real` `(texts, length)`, True = real token."""
    if how == "cls":
        return hidden[:, 0]
    if how == "max":
        return hidden.masked_fill(~real[:, :, None], -torch.inf).max(dim=1).values
    weights = real.to(hidden.dtype)
    return torch.einsum("tlh,tl->th", hidden, weights) / weights.sum(1, keepdim=True)


def _together(parts: list[TowerOutput]) -> TowerOutput:
    """The outputs of micro-batches, one after another."""
    if len(parts) == 1:
        return parts[0]
    states = {layer: torch.cat([part.states[layer] for part in parts]) for layer in parts[0].states}
    return TowerOutput(torch.cat([part.vectors for part in parts]), states)


def _in_order(output: TowerOutput, lengths: Tensor, order: Tensor, device: torch.device) -> TowerOutput:
    """The outputs of texts of these `lengths` in their own order, from those of the texts taken in `order`."""
    if is_in_place(order):
        return output
    states = output.states
    if states:
        tokens = sent(_token_order(lengths, order), device)
        states = {layer: state.index_select(0, tokens) for layer, state in states.items()}
    return TowerOutput(output.vectors.index_select(0, sent(torch.argsort(order), device)), states)


def _token_order(lengths: Tensor, order: Tensor) -> Tensor:
    """Where each token of the texts stands in the flat states of the texts taken in `order`."""
    sizes = lengths[order]
    starts = torch.empty_like(lengths)
    starts[order] = torch.cumsum(sizes, 0) - sizes
    shift = starts - (torch.cumsum(lengths, 0) - lengths)
    return torch.repeat_interleave(shift, lengths) + torch.arange(int(lengths.sum()))
