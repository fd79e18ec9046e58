"""How grades chose an assistant: the candidates of each, what they were chosen by, and who it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from raydistill.planning.state import CampaignState
from raydistill.reporting.table import ABSENT, Table, count, number
from raydistill.students.assistants import Model, Scored, best, from_numbers


@dataclass(frozen=True)
class AssistantChoice:
    """The candidates of one promoted grade.

    Attributes:
        lineage: the ladder; the first of those that promoted the same checkpoint.
        grade: its number.
        folder: its name on disk.
        teacher: size and validation MRR of the grade's teacher.
        candidates: rising in depth, and in width.
        chosen: the one that was promoted.
    """

    lineage: str
    grade: int
    folder: str
    teacher: Model
    candidates: tuple[Scored, ...]
    chosen: Scored

    @property
    def row(self) -> dict[str, Any]:
        """In types JSON knows."""
        candidates = [{**one.row, "chosen": one is self.chosen} for one in self.candidates]
        place = {"lineage": self.lineage, "grade": self.grade, "folder": self.folder}
        return {**place, "teacher": asdict(self.teacher), "candidates": candidates}


def choices(state: CampaignState) -> list[AssistantChoice]:
    """Every choice of an assistant that was promoted, lineage by lineage; one that several lineages share is there once."""
    order = {lineage: index for index, lineage in enumerate(state.lineages)}
    found, seen = list[AssistantChoice](), set[str]()
    for lineage, grade in sorted(state.promotions, key=lambda key: (order.get(key[0], len(order)), key[1])):
        promotion = state.promotions[lineage, grade]
        told = from_numbers(promotion.metrics)
        if told is None or promotion.digest in seen:
            continue
        seen.add(promotion.digest)
        table, teacher = told
        folder = state.grades[grade] if grade < len(state.grades) else str(grade)
        found.append(AssistantChoice(lineage, grade, folder, teacher, tuple(table), best(table)))
    return found


def assistant_table(state: CampaignState) -> Table | None:
    """One row per candidate, after one for the teacher that all are held against. None where no grade chose an assistant."""
    found, several = choices(state), len(state.lineages) > 1
    rows = tuple(
        ((one.lineage,) if several else ()) + (one.folder, *cells) for one in found for cells in _cells_of(one)
    )
    lineage = ("lineage",) if several else ()
    columns = (*lineage, "grade", "layers", "parameters", "scale", "valid MRR", "NPSD", "chosen", "why not")
    title = "Candidates of grades that chose an assistant: the highest NPSD (points of MRR for the whole of the teacher's size) is chosen"
    return Table(title, columns, rows, left=2 + several) if rows else None


def _cells_of(choice: AssistantChoice) -> list[tuple[str, ...]]:
    teacher = ("teacher", count(choice.teacher.parameters), number(1.0), number(choice.teacher.mrr, 4), ABSENT, "", "")
    candidates = (
        (
            _shape(one),
            count(one.parameters),
            number(one.scale),
            number(one.mrr, 4),
            number(one.npsd, 2),
            "yes" if one is choice.chosen else "",
            one.reason,
        )
        for one in choice.candidates
    )
    return [teacher, *candidates]


def _shape(one: Scored) -> str:
    """Its layers, and where it is narrower than the student was, its intermediate units."""
    width = one.candidate.intermediate
    return str(one.layers) if width is None else f"{one.layers}, intermediate {width}"
