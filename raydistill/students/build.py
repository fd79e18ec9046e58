"""Making the model of a trial: encoders with the layers a layer map names, taken from the pre-trained encoder or from the teacher."""

from __future__ import annotations

import copy

from torch import nn

from raydistill.models.biencoder import BiEncoder, Pooling, Precision
from raydistill.students.quantized import uninstall


def take_layers(encoder: nn.Module, layer_map: tuple[int, ...]) -> nn.Module:
    """A copy of `encoder` that has only the layers `layer_map`, bit-equal to what the originals compute with; embeddings and pooler come along."""
    # Only the wanted layers are copied: a deep copy of a 12-layer encoder for 3 layers would triple the peak memory.
    layers: nn.ModuleList = encoder.encoder.layer  # type: ignore[union-attr, assignment]
    encoder.encoder.layer = nn.ModuleList()  # type: ignore[union-attr]
    try:
        student = copy.deepcopy(encoder)
    finally:
        encoder.encoder.layer = layers  # type: ignore[union-attr]
    student.encoder.layer = nn.ModuleList(copy.deepcopy(layers[index]) for index in layer_map)  # type: ignore[union-attr]
    # Of a quantised source a student takes what it computes with, not its number format.
    uninstall(student)
    student.config.num_hidden_layers = len(layer_map)  # type: ignore[union-attr]
    return student


def build_model(
    query_source: nn.Module,
    entity_source: nn.Module,
    layer_map: tuple[int, ...],
    *,
    shared_towers: bool,
    pooling: Pooling,
    temperature: float,
    train_temperature: bool,
    tokens_per_micro_batch: int,
    precision: Precision,
    dropout: float | None = None,
) -> BiEncoder:
    """A model whose towers have the layers `layer_map` of their sources. The poolers take no part in training: no loss reaches them."""
    query = take_layers(query_source, layer_map)
    entity = query if shared_towers else take_layers(entity_source, layer_map)
    for encoder in (query, entity):
        pooler = getattr(encoder, "pooler", None)
        if pooler is not None:
            pooler.requires_grad_(False)
        if dropout is not None:
            _set_dropout(encoder, dropout)
    return BiEncoder(
        query,
        entity,
        pooling=pooling,
        temperature=temperature,
        train_temperature=train_temperature,
        tokens_per_micro_batch=tokens_per_micro_batch,
        precision=precision,
    )


def _set_dropout(encoder: nn.Module, rate: float) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
