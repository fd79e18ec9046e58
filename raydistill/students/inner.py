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
from raydistill.students.reshaping import Kept, StructureChange
from raydistill.students.units import encoders_of

LAYERS, EMBEDDINGS = "encoder.layer.", "embeddings."
INTO, OUT_OF = "intermediate", "output"
"""The parts of a layer that write its intermediate units, and that read them."""
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
    changes = dict[str, Kept]()
    for tower, encoder in encoders_of(model).items():
        stack: Any = encoder.encoder
        stack.layer = stack.layer[:depth]
        encoder.config.num_hidden_layers = depth  # type: ignore[union-attr]
        for number, layer in enumerate(stack.layer):
            for part, linear in _feed_forward(layer):
                if intermediate is not None:
                    changes |= _kept(f"{tower}.{LAYERS}{number}.{part}.dense", part, torch.arange(intermediate))
                if intermediate is not None or isinstance(linear, NarrowableLinear):
                    getattr(layer, part).dense = _ordinary(linear, *_ends(part, intermediate), own=True)
        if intermediate is not None:
            _say_intermediate(encoder, intermediate)
    return StructureChange(changes)


def put_most_important_first(model: BiEncoder) -> None:
    """Put every layer's intermediate units in the order of their importance, so that its first ones are its best. The model computes what it did.

    Importance is the product of the norms of what a unit reads with and of what it is read with: without either the unit does nothing. Ours; needs no data.
    """
    with torch.no_grad():
        for layer in _layers(model):
            into, out_of = layer.intermediate.dense, layer.output.dense
            # Stable, so that equals come alike on all workers.
            order = (into.weight.norm(dim=1) * out_of.weight.norm(dim=0)).argsort(descending=True, stable=True)
            for tensor, dimension in ((into.weight, 0), (into.bias, 0), (out_of.weight, 1)):
                tensor.copy_(tensor.index_select(dimension, order))


def make_narrowable(model: BiEncoder) -> None:
    """Let every layer's intermediate units be left out while it trains."""
    for layer in _layers(model):
        for part, linear in _feed_forward(layer):
            getattr(layer, part).dense = NarrowableLinear(linear, outputs=part == INTO)


def train_first_units(model: BiEncoder, units: int | None) -> None:
    """Use, in training, the first intermediate units of every layer of a model that is narrowable; None = all."""
    for module in model.modules():
        if isinstance(module, NarrowableLinear):
            module.keep(units)


def intermediate_of(model: BiEncoder) -> int:
    """Units of each feed-forward layer."""
    return int(model.query_encoder.config.intermediate_size)  # type: ignore[union-attr, arg-type]


def parameters(model: BiEncoder, depth: int, intermediate: int | None = None, *, embeddings: bool = True) -> int:
    """Parameters of a model's first `depth` layers as a checkpoint has them: both towers, the whole vocabulary where `embeddings` count, the temperature.

    `depth` may be beyond the model: layers are alike. `intermediate` units of each are counted; None = all.
    """
    total = 1
    for encoder in encoders_of(model).values():
        for name, tensor in encoder.state_dict().items():
            if name.startswith(LAYERS):
                # Of a first layer, as often as there are layers.
                total += depth * _counted(name, tensor, intermediate) if name.startswith(f"{LAYERS}0.") else 0
            elif embeddings or not name.startswith(EMBEDDINGS):
                total += tensor.numel()
        table = encoder.embeddings.word_embeddings  # type: ignore[union-attr]
        if embeddings and isinstance(table, TrimmedEmbedding):
            total += table.whole.numel() - table.weight.numel()
    return total


def _counted(name: str, tensor: Tensor, intermediate: int | None) -> int:
    """Numbers of a first layer's parameter that are there with so many intermediate units."""
    part = name.removeprefix(f"{LAYERS}0.").partition(".dense.")[0]
    return tensor[_slices(*_ends(part, intermediate))[: tensor.ndim]].numel()


def _ends(part: str, intermediate: int | None) -> tuple[int | None, int | None]:
    """How many outputs and inputs are left of a layer's part; None = all."""
    return intermediate if part == INTO else None, intermediate if part == OUT_OF else None


def _slices(outputs: int | None, inputs: int | None) -> tuple[slice, slice]:
    return slice(outputs), slice(inputs)


def _kept(name: str, part: str, units: Tensor) -> dict[str, Kept]:
    if part == INTO:
        return {f"{name}.weight": (units, None), f"{name}.bias": (units,)}
    return {f"{name}.weight": (None, units)}


def _layers(model: BiEncoder) -> Iterator[Any]:
    for encoder in encoders_of(model).values():
        yield from encoder.encoder.layer  # type: ignore[union-attr, misc]


def _feed_forward(layer: Any) -> Iterator[tuple[str, nn.Linear]]:
    for part in (INTO, OUT_OF):
        yield part, getattr(layer, part).dense


def _ordinary(linear: nn.Linear, outputs: int | None, inputs: int | None, *, own: bool) -> nn.Linear:
    """A layer of the first outputs and inputs of another: with parameters of its `own`, or with views."""
    rows, columns = _slices(outputs, inputs)
    weight, bias = linear.weight, linear.bias
    if outputs is not None or inputs is not None:
        # A whole one keeps the parameters themselves, which an optimizer knows.
        cut = (linear.weight.detach()[rows, columns], linear.bias.detach()[rows])
        weight, bias = (nn.Parameter(one.clone() if own else one, requires_grad=own) for one in cut)
    part = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    part.weight, part.bias = weight, bias
    return part.train(linear.training)


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
    twin: Any = _sharing(layer)
    for part, linear in _feed_forward(layer):
        setattr(twin, part, _sharing(getattr(layer, part)))
        getattr(twin, part).dense = _ordinary(linear, *_ends(part, intermediate), own=False)
    module: nn.Module = twin
    return module


def _say_intermediate(encoder: nn.Module, intermediate: int) -> None:
    """Layers were copied one by one, so each part may have a configuration of its own."""
    for module in encoder.modules():
        if hasattr(module, "config"):
            module.config.intermediate_size = intermediate  # type: ignore[union-attr]


def _sharing(module: Module) -> Module:
    """A module of the same parameters and parts, whose parts can be replaced without replacing those of the first."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module.named_children())
    return twin
