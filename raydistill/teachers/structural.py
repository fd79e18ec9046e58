"""Structural models: entities and relations as rows of two tables, and scores that are products of rows. They read no text, and teach beside models that do.

A query's vector is made of the rows of its head and its relation so that its product with an entity's row is the model's score. A relation seen from the tail has
a row of its own (reciprocal relations), numbered as everywhere: from num_relations on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from raydistill.data.texts import Texts
from raydistill.devices import sent
from raydistill.errors import CapabilityError, ShapeError
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.features import Needs, TowerOutput
from raydistill.teachers.views import AskedAboutAll, Stop, never

Interaction = Literal["complex", "distmult"]


def product(heads: Tensor, relations: Tensor) -> Tensor:
    """Query vectors of DistMult, whose score is the sum of h * r * t over the width.

    Args:
        heads: `(queries, width)`.
        relations: `(queries, width)`.

    Returns:
        `(queries, width)`.

    Source:
        Yang et al. 2015, arXiv 1412.6575.
    """
    return heads * relations


def complex_product(heads: Tensor, relations: Tensor) -> Tensor:
    """Query vectors of ComplEx, whose score is Re <h, r, conj(t)>: with (a, b) for a + ib, the real product of h * r with t.

    Args:
        heads: `(queries, 2 * dimension)`, real parts first, then imaginary ones.
        relations: `(queries, 2 * dimension)`, likewise.

    Returns:
        `(queries, 2 * dimension)`, likewise.

    Source:
        Trouillon et al. 2016, arXiv 1606.06357, Eq. 9-11.
    """
    real, imaginary = heads.chunk(2, dim=1)
    relation_real, relation_imaginary = relations.chunk(2, dim=1)
    return torch.cat(
        [
            real * relation_real - imaginary * relation_imaginary,
            real * relation_imaginary + imaginary * relation_real,
        ],
        dim=1,
    )


INTERACTIONS: Mapping[Interaction, Callable[[Tensor, Tensor], Tensor]] = {
    "complex": complex_product,
    "distmult": product,
}


class StructuralModel(nn.Module):
    """Two tables and how a score is made of them; nothing of it is trained here.

    Args:
        interaction: how.
        entities: `(entities, width)` float32.
        relations: `(2 * num_relations, width)` float32, inverses from num_relations on.
        inverse_temperature: by which scores are multiplied before a softmax makes the model's distribution of them.

    Raises:
        ShapeError: tables that do not belong together.
    """

    entities: Tensor
    relations: Tensor

    def __init__(
        self, interaction: Interaction, entities: Tensor, relations: Tensor, inverse_temperature: float = 1.0
    ) -> None:
        super().__init__()
        _check_tables(interaction, entities, relations)
        self.interaction, self.inverse_temperature = interaction, inverse_temperature
        self.register_buffer("entities", entities)
        self.register_buffer("relations", relations)

    @property
    def num_relations(self) -> int:
        """Relations, inverses not counted."""
        return len(self.relations) // 2

    def entity_vectors(self, entities: Tensor) -> Tensor:
        """Vectors of entities, `(n,)` int64, as `(n, width)`."""
        return self.entities[entities]

    def query_vectors(self, heads: Tensor, relations: Tensor) -> Tensor:
        """Vectors of queries, `(n,)` int64 each, inverse relations from num_relations on, as `(n, width)`."""
        return INTERACTIONS[self.interaction](self.entities[heads], self.relations[relations])


OtherTeacher = BiEncoder | StructuralModel
"""Who may teach beside the grade above."""


class StructuralTeacher(AskedAboutAll):
    """Answers with rows of a structural model's tables. Nothing is kept of it: a look into a table takes less time than one into a file."""

    other_inverse_temperatures: tuple[float, ...] = ()
    num_layers = 0

    def __init__(self, model: StructuralModel) -> None:
        self.model, self.inverse_temperature = model, model.inverse_temperature

    def at_epoch(self, epoch: int, stop: Stop = never) -> bool:
        """All epochs are the same to it."""
        return True

    def encode(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """The rows of what the texts are of, whatever they say; vectors as long as the model has them, not normalised.

        Raises:
            CapabilityError: states are wanted, or nobody knows what the texts are of.
        """
        if needs.layers:
            raise CapabilityError(
                "a term asked a structural model for states or attention",
                expected="a term that looks at scores",
                consequence="there are none: it has a row for each entity, and reads nothing",
                remedy="let it teach beside others, by method reinforced",
            )
        if texts.ids is None:
            raise CapabilityError(
                "texts of which it is not known whose they are",
                expected="texts of the graph's own entities",
                consequence="a structural model has no rows for them",
                remedy="use a source of examples of the dataset's own triples",
            )
        entities, relations = sent(texts.ids, self.model.entities.device).unbind(1)
        if tower == "entity":
            return TowerOutput(self.model.entity_vectors(entities), {})
        return TowerOutput(self.model.query_vectors(entities, relations), {})

    def encode_at_most(self, tokens: int) -> None:
        """It encodes no tokens."""


def _check_tables(interaction: Interaction, entities: Tensor, relations: Tensor) -> None:
    shapes = tuple(entities.shape), tuple(relations.shape)
    fits = entities.ndim == relations.ndim == 2 and shapes[0][1] == shapes[1][1] and shapes[1][0] % 2 == 0
    if not fits or (interaction == "complex" and shapes[0][1] % 2):
        raise ShapeError(
            f"tables of shapes {shapes[0]} and {shapes[1]} for {interaction}",
            expected="entities and relations of one width, two rows for each relation; for complex an even width",
            consequence="scores would be of other rows than their own",
            remedy="train the structural model anew (jobs/structural.py)",
        )
    if not (entities.isfinite().all() and relations.isfinite().all()):
        raise ShapeError(
            f"tables of {interaction} that are not finite",
            expected="finite numbers",
            consequence="a student would learn nothing from them",
            remedy="train the structural model anew (jobs/structural.py), with another seed or fewer epochs",
        )
