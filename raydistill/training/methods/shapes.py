"""The shapes of the models that a method compares, and what it may ask of them."""

from __future__ import annotations

from dataclasses import dataclass

from raydistill.errors import CapabilityError
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder
from raydistill.models.kinds import BERT_LIKE


@dataclass(frozen=True)
class Shape:
    """A tower's shape; no layers = there is no such model.

    Attributes:
        layers: how deep.
        width: hidden units.
        heads: of each attention.
        opens: whether queries, keys and values can be had of it.
    """

    layers: int = 0
    width: int = 0
    heads: int = 0
    opens: bool = True

    @classmethod
    def of(cls, model: BiEncoder | None) -> Shape:
        """A model's."""
        return cls() if model is None else cls(model.num_layers, model.hidden_size, model.num_heads, model.packs)


@dataclass(frozen=True)
class Shapes:
    """The shapes of student and teacher, and the graph from which they learn, where that is known."""

    student: Shape
    teacher: Shape = Shape()
    dataset: Dataset | None = None

    def require_equal_heads(self, why: str) -> None:
        """Refuse what cannot be compared head by head.

        Raises:
            CapabilityError: unequal numbers of heads, or an encoder whose attention cannot be looked into.
        """
        self.require_open(why)
        if self.student.heads != self.teacher.heads:
            raise CapabilityError(
                f"{why}; the student has {self.student.heads} heads, its teacher {self.teacher.heads}",
                expected="equal numbers of heads",
                consequence="heads would be compared with others than their own",
                remedy="use method minilm with variant minilmv2 and relation_heads, which divides both alike",
            )

    def require_equal_widths(self, why: str, consequence: str, remedy: str) -> None:
        """Refuse what cannot be compared unit by unit.

        Raises:
            CapabilityError: unequal widths.
        """
        if self.student.width != self.teacher.width:
            raise CapabilityError(
                f"{why}; the student is {self.student.width} wide, its teacher {self.teacher.width}",
                expected="equal widths",
                consequence=consequence,
                remedy=remedy,
            )

    def require_open(self, why: str) -> None:
        """Refuse encoders whose attention cannot be looked into.

        Raises:
            CapabilityError: of another kind than BERT or RoBERTa.
        """
        if not (self.student.opens and self.teacher.opens):
            raise CapabilityError(
                f"{why}, and the encoder's queries, keys and values cannot be had",
                expected=BERT_LIKE,
                consequence="there would be nothing to compare",
                remedy="choose another method, such as pmd, logits or pkd, or another encoder",
            )
