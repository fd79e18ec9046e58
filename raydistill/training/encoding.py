"""Both models read this worker's texts of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from raydistill.data.batches import TripleBatch
from raydistill.data.masking import View
from raydistill.data.texts import Texts
from raydistill.models.biencoder import Tower
from raydistill.models.features import Needs, TowerOutput
from raydistill.training.gather import Share, World
from raydistill.training.outputs import Encoded, Side, Wanted

Encode = Callable[[Texts, Tower, Needs], TowerOutput]
"""How a model reads texts."""


@dataclass(frozen=True)
class Reader:
    """A model that reads.

    Args:
        encode: how.
        at_once: whether it reads queries and candidates in one pass: to one encoder they are all texts, and each pass has a price of its own.
    """

    encode: Encode
    at_once: bool = False


def encode_view(
    batch: TripleBatch,
    views: tuple[View, View],
    student: Reader,
    teacher: Reader,
    wanted: Wanted,
    world: World,
) -> Encoded:
    """Run both models over this worker's share of the queries and candidates of a view."""
    shares = [world.share(view.texts.lengths) for view in views]
    queries, candidates = (_mine(view, share) for view, share in zip(views, shares, strict=True))
    pairs = (student, wanted.student), (teacher, wanted.teacher)
    # Put together once, for whoever reads both at once.
    at_once = any(reader.at_once and needs is not None for reader, needs in pairs)
    both = queries.texts.followed_by(candidates.texts) if at_once else None

    def read(reader: Reader, needs: Needs | None) -> tuple[TowerOutput | None, TowerOutput | None]:
        if needs is None:
            return None, None
        if both is not None and reader.at_once:
            return _apart(reader.encode(both, "query", needs), queries.texts, candidates.texts)
        return reader.encode(queries.texts, "query", needs), reader.encode(candidates.texts, "entity", needs)

    learned, taught = (read(*pair) for pair in pairs)
    sides = [
        Side(view.texts, view.masked, own, theirs, share)
        for view, own, theirs, share in zip((queries, candidates), learned, taught, shares, strict=True)
    ]
    return Encoded(batch, sides[0], sides[1])


def _mine(view: View, share: Share) -> View:
    """This worker's share of a view."""
    if share.world.size == 1:
        return view
    flags = Texts(view.masked.long(), view.texts.types, view.texts.special, view.texts.lengths)
    return View(view.texts.select(share.mine), flags.select(share.mine).tokens.to(torch.bool))


def _apart(output: TowerOutput, first: Texts, second: Texts) -> tuple[TowerOutput, TowerOutput]:
    """The outputs for the texts that come first, and for those after them."""
    vectors = torch.split(output.vectors, [len(first), len(second)])
    sizes = [len(first.tokens), len(second.tokens)]
    states = {name: torch.split(one, sizes) for name, one in output.states.items()}
    outputs = [TowerOutput(vectors[side], {name: parts[side] for name, parts in states.items()}) for side in (0, 1)]
    return outputs[0], outputs[1]
