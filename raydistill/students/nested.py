"""A student that is several models inside each other while it learns, and ends as the best of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from raydistill.errors import CapabilityError
from raydistill.models.biencoder import BiEncoder
from raydistill.students.assistants import InnerShape, Model, Scored, as_numbers, best, scored, standing_in_the_way
from raydistill.students.inner import (
    cut_off,
    first_layers,
    make_narrowable,
    parameters,
    put_most_important_first,
    train_first_units,
)
from raydistill.students.reshaping import Across, Standing, StructureChange, Succession
from raydistill.students.units import intermediate_of

logger = logging.getLogger(__name__)


class Assistants:
    """Lets a student's first layers compete to be the assistant between its teacher and the student below it; it ends as the best of them.

    Where they compete with fewer intermediate units, too, each step trains candidates of all depths and one width, and the next one those of the next.

    Args:
        depths: of the candidates, rising; the last one is the whole student.
        intermediate: units of each feed-forward layer with which every depth competes beside all of them.
        student_layers: how deep the student is that the assistant is to teach; 0 = there is none.
        include_embeddings: whether they count as size.
        layer_map: the layers of the initial model that the student has.
        teacher: its size where it is known, to refuse what could not end before it begins.
    """

    name = "assistants"

    def __init__(
        self,
        depths: Sequence[int],
        student_layers: int,
        *,
        intermediate: Sequence[int] = (),
        include_embeddings: bool = True,
        layer_map: Sequence[int] = (),
        teacher: Standing | None = None,
    ) -> None:
        self.depths, self.student_layers, self.include_embeddings = tuple(depths), student_layers, include_embeddings
        self.layer_map, self.teacher = tuple(layer_map), teacher
        self.intermediate = tuple(sorted(intermediate))
        self.candidates = [InnerShape(depth, width) for depth in self.depths for width in (*self.intermediate, None)]
        self.turn = 0
        self.chosen: InnerShape | None = None
        self.said: dict[str, Any] = {}

    @property
    def complete(self) -> bool:
        """Whether the assistant is chosen, and the student is nothing else any more."""
        return self.chosen is not None

    def prepare(self, student: BiEncoder) -> None:
        """Look whether one of the candidates can be chosen; where they are of several widths, put the units first that all have.

        Raises:
            CapabilityError: none lies between student and teacher, or one is as wide as the student.
        """
        if self.intermediate:
            _require_narrower(self.intermediate, intermediate_of(student))
        if self.teacher is not None:
            sizes, below = self._sizes(student)
            whole = self.teacher.size(embeddings=self.include_embeddings)
            reasons = {one: standing_in_the_way(sizes[one], whole, below) for one in self.candidates}
            if all(reasons.values()):
                # Says why, in the words that the end of the training would have.
                best([Scored(one, sizes[one], 0.0, 0.0, None, reason) for one, reason in reasons.items()])
        if self.intermediate:
            put_most_important_first(student)
            make_narrowable(student)

    def after_backward(self, student: BiEncoder, step: int, across: Across) -> None:
        """Nothing: all are trained alike."""

    def after_step(self, student: BiEncoder, step: int) -> StructureChange | None:
        """Have the next step train the next width. The choice is made at the end."""
        if self.intermediate and not self.complete:
            self._take_turn(student, (step + 1) % (1 + len(self.intermediate)))
        return None

    def variants(self, student: BiEncoder) -> dict[str, BiEncoder]:
        """The candidates, until one is chosen."""
        if self.complete:
            return {}
        return {one.name: first_layers(student, one.layers, one.intermediate) for one in self.candidates}

    def after_validation(
        self, student: BiEncoder, measured: Mapping[str, float], last: bool, teacher: Callable[[], Standing]
    ) -> Succession | None:
        """At the end of the last epoch: choose, and leave of the student what the one that was chosen has."""
        if not last or self.complete:
            return None
        (sizes, below), above = self._sizes(student), teacher()
        taught = Model(above.size(embeddings=self.include_embeddings), above.mrr)
        table = scored([(one, Model(sizes[one], measured[one.name])) for one in self.candidates], taught, below)
        chosen = best(table)
        self.chosen = chosen.shape
        self.said = {
            "teacher": {"parameters": taught.parameters, "mrr": taught.mrr},
            "candidates": [one.row for one in table],
        }
        _tell(table, taught, chosen)
        change = cut_off(student, self.chosen.layers, self.chosen.intermediate)
        return Succession(self.chosen.name, change, as_numbers(table, taught, below, self.chosen))

    def record(self) -> dict[str, Any]:
        """Who competed; and once it is chosen, the assistant and the table it was chosen from."""
        found: dict[str, Any] = {"depths": list(self.depths), "student_layers": self.student_layers}
        if self.intermediate:
            found |= {"intermediate": list(self.intermediate)}
        if self.chosen is None:
            return {**found, "turn": self.turn} if self.intermediate else found
        if self.intermediate:
            found |= {"chosen_intermediate": self.chosen.intermediate}
        return {
            **found,
            "layers": self.chosen.layers,
            "layer_map": list(self.layer_map[: self.chosen.layers]),
            **self.said,
        }

    def tensors(self) -> dict[str, Tensor]:
        """None: all is in the record."""
        return {}

    def restore(
        self, student: BiEncoder, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> StructureChange | None:
        """Leave of the student what was left, or go on with the width whose turn it was."""
        if "layers" not in record:
            self._take_turn(student, record.get("turn", 0))
            return None
        self.chosen = InnerShape(int(record["layers"]), record.get("chosen_intermediate"))
        self.said = {key: record[key] for key in ("teacher", "candidates")}
        return cut_off(student, self.chosen.layers, self.chosen.intermediate)

    def _take_turn(self, student: BiEncoder, turn: int) -> None:
        """First all units, then fewer and fewer."""
        self.turn = turn
        train_first_units(student, self.intermediate[-turn] if turn else None)

    def _sizes(self, student: BiEncoder) -> tuple[dict[InnerShape, int], int]:
        """Of every candidate, and of the student below, which counts as wide as this one began; 0 where there is none."""

        def size(layers: int, intermediate: int | None = None) -> int:
            return parameters(student, layers, intermediate, embeddings=self.include_embeddings)

        below = size(self.student_layers) if self.student_layers else 0
        return {one: size(one.layers, one.intermediate) for one in self.candidates}, below


def _require_narrower(widths: Sequence[int], whole: int) -> None:
    if widths[-1] >= whole:
        raise CapabilityError(
            f"candidates of {widths[-1]} intermediate units in a student of {whole}",
            expected=f"numbers below {whole}",
            consequence="units would have to be added, or the whole student would compete twice",
            remedy="name lower numbers in method.intermediate, or leave it out",
        )


def _tell(table: Sequence[Scored], teacher: Model, chosen: Scored) -> None:
    logger.info("the teacher: %d parameters, MRR %.2f %%", teacher.parameters, 100 * teacher.mrr)
    for one in table:
        what = one.reason if one.npsd is None else f"NPSD {one.npsd:.2f}"
        mark = "; chosen" if one is chosen else ""
        size = f"{one.parameters} parameters, {one.scale:.3f} of the teacher's size"
        logger.info("%s: %s, MRR %.2f %%, %s%s", one.shape.words, size, 100 * one.mrr, what, mark)
