"""Several teachers as one source: of one batch, the first for whatever terms want and the others for vectors; or each of the batches of its part alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from raydistill.data.batches import TripleBatch
from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError
from raydistill.models.biencoder import Tower
from raydistill.models.features import Needs, TowerOutput
from raydistill.teachers.views import AskedAboutAll, Stop, TeacherSource, never


class SeveralTeachers(AskedAboutAll):
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


class TeachersOfParts:
    """A teacher for each part of the graph. A batch is of one part, and nobody but the part's teacher is asked about it; it says nothing itself.

    Args:
        teachers: by their parts; one may be there for several.
        part_of: the part of a batch; the same for all workers of a trial.
    """

    inverse_temperature = 1.0
    other_inverse_temperatures: tuple[float, ...] = ()
    reads_at_once = False

    def __init__(self, teachers: Sequence[TeacherSource], part_of: Callable[[TripleBatch], int]) -> None:
        self.teachers, self.part_of = tuple(teachers), part_of
        self.num_layers = min(one.num_layers for one in teachers)

    def of_batch(self, batch: TripleBatch) -> TeacherSource:
        """Its part's teacher."""
        return self.teachers[self.part_of(batch)]

    def encode(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """Refuse.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError(
            "texts for a teacher of parts, without the batch they are of",
            expected="the teacher that it names for the batch (`of_batch`)",
            consequence="one part's teacher would answer for all",
        )

    def at_epoch(self, epoch: int, stop: Stop = never) -> bool:
        """Have all of them ready."""
        return all(one.at_epoch(epoch, stop) for one in self.teachers)

    def encode_at_most(self, tokens: int) -> None:
        """Make the micro-batches of all of them smaller."""
        for one in self.teachers:
            one.encode_at_most(tokens)
