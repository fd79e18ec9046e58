"""Models inside a model: its first layers, which share all parameters with it, and a student that ends as the best of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from raydistill.models.biencoder import BiEncoder
from raydistill.models.vocabulary import TrimmedEmbedding
from raydistill.students.assistants import Model, Scored, as_numbers, best, scored, standing_in_the_way
from raydistill.students.reshaping import Across, Standing, StructureChange, Succession
from raydistill.students.units import encoders_of

logger = logging.getLogger(__name__)
LAYERS, EMBEDDINGS = "encoder.layer.", "embeddings."
Module = TypeVar("Module", bound=nn.Module)


class Assistants:
    """Lets a student's first layers compete to be the assistant between its teacher and the student below it; it ends as the best of them.

    Args:
        depths: of the candidates, rising; the last one is the whole student.
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
        include_embeddings: bool = True,
        layer_map: Sequence[int] = (),
        teacher: Standing | None = None,
    ) -> None:
        self.depths, self.student_layers, self.include_embeddings = tuple(depths), student_layers, include_embeddings
        self.layer_map, self.teacher = tuple(layer_map), teacher
        self.chosen: int | None = None
        self.said: dict[str, Any] = {}

    @property
    def complete(self) -> bool:
        """Whether the assistant is chosen, and the student is nothing else any more."""
        return self.chosen is not None

    def prepare(self, student: BiEncoder) -> None:
        """Look whether one of the candidates can be chosen.

        Raises:
            CapabilityError: none lies between student and teacher.
        """
        if self.teacher is not None:
            sizes = self._sizes(student)
            bounds = self.teacher.size(embeddings=self.include_embeddings), sizes[self.student_layers]
            reasons = {depth: standing_in_the_way(sizes[depth], *bounds) for depth in self.depths}
            if all(reasons.values()):
                # Says why, in the words that the end of the training would have.
                best([Scored(depth, sizes[depth], 0.0, 0.0, None, reason) for depth, reason in reasons.items()])

    def after_backward(self, student: BiEncoder, step: int, across: Across) -> None:
        """Nothing: all are trained alike."""

    def after_step(self, student: BiEncoder, step: int) -> StructureChange | None:
        """Nothing: the choice is made at the end."""
        return None

    def variants(self, student: BiEncoder) -> dict[str, BiEncoder]:
        """The candidates, until one is chosen."""
        if self.complete:
            return {}
        return {f"layers{depth}": first_layers(student, depth) for depth in self.depths}

    def after_validation(
        self, student: BiEncoder, measured: Mapping[str, float], last: bool, teacher: Callable[[], Standing]
    ) -> Succession | None:
        """At the end of the last epoch: choose, and cut the student off after the layers of the one that was chosen."""
        if not last or self.complete:
            return None
        sizes, above = self._sizes(student), teacher()
        taught = Model(above.size(embeddings=self.include_embeddings), above.mrr)
        models = [(depth, Model(sizes[depth], measured[f"layers{depth}"])) for depth in self.depths]
        below = sizes[self.student_layers]
        table = scored(models, taught, below)
        chosen = best(table)
        self.chosen = chosen.layers
        self.said = {
            "teacher": {"parameters": taught.parameters, "mrr": taught.mrr},
            "candidates": [one.row for one in table],
        }
        _tell(table, taught, chosen)
        cut_off(student, chosen.layers)
        return Succession(f"layers{chosen.layers}", StructureChange(), as_numbers(table, taught, below))

    def record(self) -> dict[str, Any]:
        """Who competed; and once it is chosen, the assistant and the table it was chosen from."""
        found: dict[str, Any] = {"depths": list(self.depths), "student_layers": self.student_layers}
        if self.chosen is None:
            return found
        return {
            **found,
            "layers": self.chosen,
            "layer_map": list(self.layer_map[: self.chosen]),
            **self.said,
        }

    def tensors(self) -> dict[str, Tensor]:
        """None: all is in the record."""
        return {}

    def restore(self, student: BiEncoder, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Cut the student off where it was."""
        if "layers" in record:
            self.chosen, self.said = int(record["layers"]), {key: record[key] for key in ("teacher", "candidates")}
            cut_off(student, self.chosen)

    def _sizes(self, student: BiEncoder) -> dict[int, int]:
        """Of every candidate, and of the student below; 0 where there is none."""
        depths = {*self.depths, self.student_layers} - {0}
        return {0: 0} | {depth: parameters(student, depth, embeddings=self.include_embeddings) for depth in depths}


def first_layers(model: BiEncoder, depth: int) -> BiEncoder:
    """A model that ends after the first `depth` layers of `model` and shares all parameters with it; the model itself where it has no more."""
    if depth == model.num_layers:
        return model
    twin, towers = _sharing(model), dict[int, nn.Module]()
    for name in ("query_encoder", "entity_encoder"):
        tower = getattr(model, name)
        # Towers that are one stay one.
        setattr(twin, name, towers.setdefault(id(tower), _ends_after(tower, depth)))
    return twin


def cut_off(model: BiEncoder, depth: int) -> None:
    """Keep the first `depth` layers of both towers, in place."""
    for encoder in encoders_of(model).values():
        encoder.encoder.layer = encoder.encoder.layer[:depth]  # type: ignore[union-attr, index]
        encoder.config.num_hidden_layers = depth  # type: ignore[union-attr]


def parameters(model: BiEncoder, depth: int, *, embeddings: bool = True) -> int:
    """Parameters of a model's first `depth` layers as a checkpoint has them: both towers, the whole vocabulary where `embeddings` count, the temperature.

    `depth` may be beyond the model: layers are alike.
    """
    total = 1
    for encoder in encoders_of(model).values():
        for name, tensor in encoder.state_dict().items():
            if name.startswith(LAYERS):
                # Of a first layer, as often as there are layers.
                total += depth * tensor.numel() if name.startswith(f"{LAYERS}0.") else 0
            elif embeddings or not name.startswith(EMBEDDINGS):
                total += tensor.numel()
        table = encoder.embeddings.word_embeddings  # type: ignore[union-attr]
        if embeddings and isinstance(table, TrimmedEmbedding):
            total += table.whole.numel() - table.weight.numel()
    return total


def _ends_after(encoder: nn.Module, depth: int) -> nn.Module:
    twin: Any = _sharing(encoder)
    twin.encoder, twin.config = _sharing(twin.encoder), copy.copy(twin.config)
    twin.encoder.layer = twin.encoder.layer[:depth]
    twin.config.num_hidden_layers = depth
    module: nn.Module = twin
    return module


def _sharing(module: Module) -> Module:
    """A module of the same parameters and parts, whose parts can be replaced without replacing those of the first."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module.named_children())
    return twin


def _tell(table: Sequence[Scored], teacher: Model, chosen: Scored) -> None:
    logger.info("the teacher: %d parameters, MRR %.2f %%", teacher.parameters, 100 * teacher.mrr)
    for one in table:
        what = one.reason if one.npsd is None else f"NPSD {one.npsd:.2f}"
        mark = "; chosen" if one is chosen else ""
        size = f"{one.parameters} parameters, {one.scale:.3f} of the teacher's size"
        logger.info("%d layers: %s, MRR %.2f %%, %s%s", one.layers, size, 100 * one.mrr, what, mark)
