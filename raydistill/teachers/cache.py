"""A teacher's clean vectors, encoded once per trial instead of once per epoch. Nothing but time changes: the teacher is frozen and sees the same texts.

All training texts are encoded up front, in one fixed order and in fixed micro-batches, so that the vectors do not depend on where in the
epochs a text turns up first: a resumed trial gets the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydistill.data.texts import Texts, fingerprints
from raydistill.models.biencoder import Tower
from raydistill.models.features import Needs, TowerOutput
from raydistill.teachers.views import TeacherSource

_TEXTS_AT_ONCE = 8192


class RememberingTeacher:
    """Answers from memory where a text was encoded before and only vectors are wanted; else asks the live teacher.

    Args:
        live: the teacher.
        queries: all distinct training queries.
        candidates: all distinct training candidates.
    """

    def __init__(self, live: TeacherSource, queries: Texts, candidates: Texts) -> None:
        self.live = live
        self.inverse_temperature, self.num_layers = live.inverse_temperature, live.num_layers
        self._memory = {"query": _remember(live, queries, "query"), "entity": _remember(live, candidates, "entity")}

    def encode(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """The teacher's outputs for `texts`."""
        if needs.layers:
            return self.live.encode(texts, tower, needs)
        known, vectors = self._memory[tower]
        keys = fingerprints(texts)
        place = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
        if not bool((known[place] == keys).all()):
            return self.live.encode(texts, tower, needs)
        return TowerOutput(vectors[place.to(vectors.device)], {})

    def encode_at_most(self, tokens: int) -> None:
        """Make the live teacher's micro-batches smaller; what is remembered stays."""
        self.live.encode_at_most(tokens)


def _remember(live: TeacherSource, texts: Texts, tower: Tower) -> tuple[Tensor, Tensor]:
    keys, order = torch.sort(fingerprints(texts), stable=True)
    parts = [
        live.encode(texts.select(order[start : start + _TEXTS_AT_ONCE]), tower, Needs()).vectors
        for start in range(0, len(order), _TEXTS_AT_ONCE)
    ]
    return keys, torch.cat(parts)
