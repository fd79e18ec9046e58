"""Models inside a model, which share its parameters: its first layers, and of their feed-forward parts the first units."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from raydistill.models.biencoder import BiEncoder
from raydistill.models.narrowable import NarrowableLinear
from raydistill.models.vocabulary import TrimmedEmbedding
from raydistill.students.compaction import narrow, say_sizes
from raydistill.students.reshaping import Kept, StructureChange
from raydistill.students.units import INTERMEDIATE, encoders_of, intermediate_of, parts_of

LAYERS, EMBEDDINGS = "encoder.layer.", "embeddings."
OF_UNITS = tuple(
    f"{LAYERS}0.{name}" for name in ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight")
)
"""Parameters of a first layer that run over its intermediate units."""
Module = TypeVar("Module", bound=nn.Module)


def first_layers(model: BiEncoder, depth: int, intermediate: int | None = None) -> BiEncoder:
    """A model that ends after the first `depth` layers of `model`, each with its first `intermediate` units (None = all), and shares all parameters with it.

    It is the model itself where it has no more. Of narrower layers the parameters are views, without a gradient.
    """
    if depth == model.num_layers and intermediate is None:
        return model
    twin, towers = _sharing(model), dict[int, nn.Module]()
    for name in ("query_encoder", "entity_encoder"):
        tower = getattr(model, name)
        # Towers that are one stay one.
        setattr(twin, name, towers.setdefault(id(tower), _ends_after(tower, depth, intermediate)))
    return twin


def cut_off(model: BiEncoder, depth: int, intermediate: int | None = None) -> StructureChange:
    """Keep the first `depth` layers of both towers, and of each the first `intermediate` units (None = all), in place; afterwards all layers are ordinary ones."""
    for encoder in encoders_of(model).values():
        stack: Any = encoder.encoder
        stack.layer = stack.layer[:depth]
        encoder.config.num_hidden_layers = depth  # type: ignore[union-attr]
    changes = dict[str, Kept]()
    if intermediate is not None:
        parts, places = parts_of(model), torch.arange(intermediate)
        kept = {units: places for part in parts for units in part.units if units and units.endswith(f".{INTERMEDIATE}")}
        changes = narrow(parts, kept)
        for encoder in encoders_of(model).values():
            say_sizes(encoder, {"intermediate_size": intermediate})
    for layer in _layers(model):
        for part in (layer.intermediate, layer.output):
            if intermediate is not None or isinstance(part.dense, NarrowableLinear):
                part.dense = _ordinary(part.dense.weight, part.dense.bias, training=part.dense.training)
    return StructureChange(changes)


def put_most_important_first(model: BiEncoder) -> None:
    """Put every layer's intermediate units in the order of their importance, so that its first ones are its best. The model computes what it did.

    Importance is the product of the norms of what a unit reads with and of what it is read with: without either the unit does nothing. Ours; needs no data.
    """
    with torch.no_grad():
        for layer in _layers(model):
            into, out_of = layer.intermediate.dense, layer.output.dense
            # Workers may be of different machines, each of which adds in its own order, and a unit must not come before another on one of them alone: in
            # float64 what that changes is less than what two units differ by, and equals stay as they are.
            norms = into.weight.double().norm(dim=1) * out_of.weight.double().norm(dim=0)
            order = norms.argsort(descending=True, stable=True)
            for tensor, dimension in ((into.weight, 0), (into.bias, 0), (out_of.weight, 1)):
                tensor.copy_(tensor.index_select(dimension, order))


def make_narrowable(model: BiEncoder) -> None:
    """Let every layer's intermediate units be left out while it trains."""
    for layer in _layers(model):
        layer.intermediate.dense = NarrowableLinear(layer.intermediate.dense, outputs=True)
        layer.output.dense = NarrowableLinear(layer.output.dense, outputs=False)


def train_first_units(model: BiEncoder, units: int | None) -> None:
    """Use, in training, the first intermediate units of every layer of a model that is narrowable; None = all."""
    for module in model.modules():
        if isinstance(module, NarrowableLinear):
            module.units = units


def parameters(model: BiEncoder, depth: int, intermediate: int | None = None, *, embeddings: bool = True) -> int:
    """Parameters of a model's first `depth` layers as a checkpoint has them: both towers, the whole vocabulary where `embeddings` count, the temperature.

    `depth` may be beyond the model: layers are alike. `intermediate` units of each are counted; None = all.
    """
    total, share = 1, 1.0 if intermediate is None else intermediate / intermediate_of(model)
    for encoder in encoders_of(model).values():
        for name, tensor in encoder.state_dict().items():
            if name.startswith(LAYERS):
                # Of a first layer, as often as there are layers.
                total += depth * _counted(name, tensor, share) if name.startswith(f"{LAYERS}0.") else 0
            elif embeddings or not name.startswith(EMBEDDINGS):
                total += tensor.numel()
        table = encoder.embeddings.word_embeddings  # type: ignore[union-attr]
        if embeddings and isinstance(table, TrimmedEmbedding):
            total += table.whole.numel() - table.weight.numel()
    return total


def _counted(name: str, tensor: Tensor, share: float) -> int:
    """Numbers of a first layer's parameter that are there with a share of its intermediate units."""
    return round(tensor.numel() * (share if name in OF_UNITS else 1))


def _layers(model: BiEncoder) -> Iterator[Any]:
    for encoder in encoders_of(model).values():
        yield from encoder.encoder.layer  # type: ignore[union-attr, misc]


def _ordinary(weight: nn.Parameter, bias: nn.Parameter, *, training: bool) -> nn.Linear:
    """A linear layer of these parameters."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = weight, bias
    return linear.train(training)


def _ends_after(encoder: nn.Module, depth: int, intermediate: int | None) -> nn.Module:
    twin: Any = _sharing(encoder)
    twin.encoder, twin.config = _sharing(twin.encoder), copy.copy(twin.config)
    twin.encoder.layer = twin.encoder.layer[:depth]
    twin.config.num_hidden_layers = depth
    if intermediate is not None:
        twin.encoder.layer = nn.ModuleList(_narrower(layer, intermediate) for layer in twin.encoder.layer)
        twin.config.intermediate_size = intermediate
    module: nn.Module = twin
    return module


def _narrower(layer: nn.Module, intermediate: int) -> nn.Module:
    """A layer of the same parameters, of which those of the feed-forward part are views of the first units, without a gradient."""
    twin: Any = _sharing(layer)
    twin.intermediate, twin.output = _sharing(twin.intermediate), _sharing(twin.output)
    into, out_of = twin.intermediate.dense, twin.output.dense
    read, shift, written = into.weight[:intermediate], into.bias[:intermediate], out_of.weight[:, :intermediate]
    views = [nn.Parameter(one.detach(), requires_grad=False) for one in (read, shift, written)]
    twin.intermediate.dense = _ordinary(views[0], views[1], training=into.training)
    twin.output.dense = _ordinary(views[2], out_of.bias, training=out_of.training)
    module: nn.Module = twin
    return module


def _sharing(module: Module) -> Module:
    """A module of the same parameters and parts, whose parts can be replaced without replacing those of the first."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module.named_children())
    return twin
