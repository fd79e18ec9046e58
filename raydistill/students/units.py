"""The units that a BERT-like student is made of, and which parameters read or write each: what pruning goes by.

There are four kinds. The residual width is one for embeddings, all layers and both towers, because the towers meet in a cosine. Each layer has its own intermediate units, and in
each of its heads query-key dimensions (queries and keys share them: they meet in a product) and value dimensions (which the attention's output reads). To prune a unit is to
leave out of every parameter the rows and columns that belong to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydistill.models.biencoder import BiEncoder

WIDTH = "width"
"""The units of the residual width; others are named after tower, layer and kind."""
INTERMEDIATE, QUERIES, VALUES = "intermediate", "queries", "values"
Masks = dict[str, Tensor]
"""Of each group of units, `(units,)` bool, True = kept."""


@dataclass(frozen=True)
class Part:
    """A parameter, and whose units its dimensions run over.

    Args:
        name: as the student names it.
        module: whose it is.
        attribute: under what name.
        units: a group's name for each dimension; None = no group's, such as a vocabulary.
    """

    name: str
    module: nn.Module
    attribute: str
    units: tuple[str | None, ...]

    @property
    def parameter(self) -> nn.Parameter:
        """As it is now."""
        found = getattr(self.module, self.attribute)
        assert isinstance(found, nn.Parameter)
        return found


def encoders_of(student: BiEncoder) -> dict[str, nn.Module]:
    """Its encoders by name, each once."""
    towers = {"query_encoder": student.query_encoder, "entity_encoder": student.entity_encoder}
    return {"query_encoder": student.query_encoder} if student.shared_towers else towers


def intermediate_of(model: BiEncoder) -> int:
    """Units of each feed-forward layer."""
    return int(model.query_encoder.config.intermediate_size)  # type: ignore[union-attr, arg-type]


def parts_of(student: BiEncoder) -> tuple[Part, ...]:
    """Every parameter that has units."""
    return tuple(
        Part(f"{tower}.{path}.{attribute}", module, attribute, units if parameter.ndim == 2 else units[:1])
        for tower, encoder in encoders_of(student).items()
        for path, units in _modules(encoder, tower)
        for module in (encoder.get_submodule(path),)
        for attribute, parameter in module.named_parameters(recurse=False)
    )


def _modules(encoder: nn.Module, tower: str) -> Iterator[tuple[str, tuple[str | None, str | None]]]:
    """Paths of an encoder's modules, and the units that their outputs and inputs run over."""
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        yield f"embeddings.{table}", (None, WIDTH)
    yield "embeddings.LayerNorm", (WIDTH, None)
    for number in range(len(encoder.encoder.layer)):  # type: ignore[union-attr, arg-type]
        layer, own = f"encoder.layer.{number}", f"{tower}.{number}"
        for path, rows, columns in (
            ("attention.self.query", f"{own}.{QUERIES}", WIDTH),
            ("attention.self.key", f"{own}.{QUERIES}", WIDTH),
            ("attention.self.value", f"{own}.{VALUES}", WIDTH),
            ("attention.output.dense", WIDTH, f"{own}.{VALUES}"),
            ("attention.output.LayerNorm", WIDTH, None),
            ("intermediate.dense", f"{own}.{INTERMEDIATE}", WIDTH),
            ("output.dense", WIDTH, f"{own}.{INTERMEDIATE}"),
            ("output.LayerNorm", WIDTH, None),
        ):
            yield f"{layer}.{path}", (rows, columns)
    if getattr(encoder, "pooler", None) is not None:
        yield "pooler.dense", (WIDTH, WIDTH)


def whole_masks(parts: Sequence[Part]) -> Masks:
    """Nothing pruned yet, on the parameters' device."""
    masks = Masks()
    for part in parts:
        for units, size in zip(part.units, part.parameter.shape, strict=True):
            if units is not None:
                masks.setdefault(units, torch.ones(size, dtype=torch.bool, device=part.parameter.device))
    return masks


def importance(parts: Sequence[Part]) -> dict[str, Tensor]:
    """How much the loss would feel each unit's absence, to first order: `(units,)` of each group.

        I_i = sum |w dL/dw| over all weights w that read or write unit i

    Parameters without a gradient count nothing.

    Source:
        HomoDistil (arXiv 2302.09632): the sensitivity of a column, on the current batch. There each matrix has its own units; here what has to fall together is judged together.
    """
    found = dict[str, Tensor]()
    for part in parts:
        parameter = part.parameter
        if parameter.grad is None:
            continue
        felt = (parameter.detach() * parameter.grad).abs()
        for dimension, units in enumerate(part.units):
            if units is not None:
                own = felt if felt.ndim == 1 else felt.sum(1 - dimension)
                found[units] = found[units] + own if units in found else own
    return found


def most_important(scores: Tensor, kept: Tensor, count: int, groups: int) -> Tensor:
    """The mask of the units that stay: of those that are still there, in each of `groups` equal runs the `count / groups` most important ones.

    Args:
        scores: (units,).
        kept: (units,) bool, True = is still there; none that is not comes back.
        count: units that stay, a multiple of `groups`.
        groups: heads, or 1.
    """
    runs = scores.masked_fill(~kept, -torch.inf).view(groups, -1)
    # Stable, so that equals are decided alike on all workers.
    best = runs.argsort(dim=1, descending=True, stable=True)[:, : count // groups]
    return torch.zeros_like(runs, dtype=torch.bool).scatter_(1, best, True).view(-1)


def zero_pruned_(parts: Sequence[Part], masks: Mapping[str, Tensor]) -> None:
    """Set what belongs to pruned units to zero: then nothing is read from them or written to them, and they get no gradient."""
    with torch.no_grad():
        for part in parts:
            for dimension, units in enumerate(part.units):
                if units is not None and units in masks:
                    shape = [-1 if one == dimension else 1 for one in range(len(part.units))]
                    part.parameter.mul_(masks[units].view(shape))
