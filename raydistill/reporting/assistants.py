"""How grades chose an assistant: the candidates of each, what they were chosen by, and who it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from raydistill.planning.records import LAYERS
from raydistill.planning.state import CampaignState
from raydistill.reporting.table import ABSENT, Table, count, number
from raydistill.students.assistants import CHOSEN_INTERMEDIATE, InnerShape, Model, Scored, from_numbers


@dataclass(frozen=True)
class AssistantChoice:
    """The candidates of one promoted grade.

    Attributes:
        lineage: the ladder; the first of those that promoted the same checkpoint.
        grade: its number.
        folder: its name on disk.
        teacher: size and validation MRR of the grade's teacher.
        candidates: rising in depth, and in width.
        chosen: the shape of the one that was promoted.
    """

    lineage: str
    grade: int
    folder: str
    teacher: Model
    candidates: tuple[Scored, ...]
    chosen: InnerShape

    @property
    def row(self) -> dict[str, Any]:
        """In types JSON knows."""
        candidates = [{**one.row, "chosen": one.shape == self.chosen} for one in self.candidates]
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
        folder = state.folder(grade)
        width = promotion.metrics.get(CHOSEN_INTERMEDIATE)
        chosen = InnerShape(int(promotion.metrics[LAYERS]), None if width is None else int(width))
        found.append(AssistantChoice(lineage, grade, folder, teacher, tuple(table), chosen))
    return found


def assistant_table(state: CampaignState) -> Table | None:
    """One row per candidate, after one for the teacher that all are held against. None where no grade chose an assistant."""
    found, several = choices(state), len(state.lineages) > 1
    narrower = any(candidate.shape.intermediate for one in found for candidate in one.candidates)
    rows = tuple(
        ((one.lineage,) if several else ()) + (one.folder, *cells)
        for one in found
        for cells in _cells_of(one, narrower=narrower)
    )
    lineage, width = ("lineage",) if several else (), ("feed-forward",) if narrower else ()
    columns = (*lineage, "grade", "layers", *width, "parameters", "scale", "valid MRR", "NPSD", "chosen", "why not")
    title = "Candidates of grades that chose an assistant: the highest NPSD (points of MRR for the whole of the teacher's size) is chosen"
    return Table(title, columns, rows, left=2 + several) if rows else None


def _cells_of(choice: AssistantChoice, *, narrower: bool) -> list[tuple[str, ...]]:
    """Its rows; with a column of feed-forward units where some candidates are `narrower`."""
    taught = (count(choice.teacher.parameters), number(1.0), number(choice.teacher.mrr, 4), ABSENT, "", "")
    candidates = (
        (
            str(one.layers),
            *((f"{one.shape.intermediate or 'all'}",) if narrower else ()),
            count(one.parameters),
            number(one.scale),
            number(one.mrr, 4),
            number(one.npsd, 2),
            "yes" if one.shape == choice.chosen else "",
            one.reason,
        )
        for one in choice.candidates
    )
    return [("teacher", *(("",) if narrower else ()), *taught), *candidates]
