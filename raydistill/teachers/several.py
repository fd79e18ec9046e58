"""Several teachers as one source: the first is asked for whatever terms want, the others for vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raydistill.data.texts import Texts
from raydistill.models.biencoder import Tower
from raydistill.models.features import Needs, TowerOutput
from raydistill.teachers.views import Stop, TeacherSource, never


class SeveralTeachers:
    """The teacher of a trial and those beside it, each live or kept.

    Args:
        first: the grade above.
        others: in the order in which terms see them.
    """

    def __init__(self, first: TeacherSource, others: Sequence[TeacherSource]) -> None:
        self.first, self.others = first, tuple(others)
        self.inverse_temperature, self.num_layers = first.inverse_temperature, first.num_layers
        self.other_inverse_temperatures = tuple(one.inverse_temperature for one in others)

    def at_epoch(self, epoch: int, stop: Stop = never) -> bool:
        """Have all of them ready."""
        return all(one.at_epoch(epoch, stop) for one in (self.first, *self.others))

    def encode(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """The first one's outputs, and the others' vectors where they are wanted."""
        output = self.first.encode(texts, tower, needs)
        if not needs.others:
            return output
        return replace(output, others=tuple(one.encode(texts, tower, Needs()).vectors for one in self.others))

    def encode_at_most(self, tokens: int) -> None:
        """Make the micro-batches of all of them smaller."""
        for one in (self.first, *self.others):
            one.encode_at_most(tokens)
