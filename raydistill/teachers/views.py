"""Where the outputs come from that a student imitates: one live teacher, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from raydistill.data.batches import TripleBatch
from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.features import Needs, TowerOutput

Stop = Callable[[], bool]
BeforePart = Callable[[int], None]


def never() -> bool:
    """Whether to stop, where nobody is there to say so."""
    return False


class TeacherSource(Protocol):
    """Gives a teacher's outputs for the texts a student sees. No gradient ever reaches a teacher."""

    @property
    def inverse_temperature(self) -> float:
        """The teacher's frozen inverse temperature, the unit of the score term."""
        ...

    @property
    def other_inverse_temperatures(self) -> tuple[float, ...]:
        """Those of the teachers beside it, which `Needs.others` asks for."""
        ...

    @property
    def num_layers(self) -> int:
        """Layers a term may ask for."""
        ...

    @property
    def reads_at_once(self) -> bool:
        """Whether it may be asked for the queries of a batch and its candidates together, as texts of the query tower."""
        ...

    def at_epoch(self, epoch: int, stop: Stop = never) -> bool:
        """Hear which epoch (from 0) comes now, before its first batch.

        Args:
            epoch: which.
            stop: asked before each micro-batch that has to be encoded for it: whether to leave the rest.

        Returns:
            Whether all is ready for the epoch.
        """
        ...

    def of_batch(self, batch: TripleBatch) -> TeacherSource:
        """Who is asked about the texts of a batch."""
        ...

    def encode(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """The teacher's outputs for `texts`, in their order."""
        ...

    def encode_at_most(self, tokens: int) -> None:
        """From now on encode no more than so many padded tokens at a time, where memory is short."""
        ...


class AskedAboutAll:
    """A source that gives the outputs for all batches alike, and unless it says otherwise for each tower by itself."""

    @property
    def reads_at_once(self) -> bool:
        """No."""
        return False

    def of_batch(self: TeacherSource, batch: TripleBatch) -> TeacherSource:
        """This one."""
        return self


class LiveTeacher(AskedAboutAll):
    """A frozen model that encodes what it is asked for, in evaluation mode and without gradient."""

    other_inverse_temperatures: tuple[float, ...] = ()

    def __init__(self, model: BiEncoder) -> None:
        self.model = model.eval().requires_grad_(False)
        self.inverse_temperature = float(model.inverse_temperature.detach())

    @property
    def num_layers(self) -> int:
        """Layers of the teacher."""
        return self.model.num_layers

    @property
    def reads_at_once(self) -> bool:
        """What its model says."""
        return self.model.reads_at_once

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.log_inverse_temperature.device

    def at_epoch(self, epoch: int, stop: Stop = never) -> bool:
        """All epochs are the same to it."""
        return True

    def encode(self, texts: Texts, tower: Tower, needs: Needs, before_part: BeforePart | None = None) -> TowerOutput:
        """The teacher's outputs for `texts`; `before_part` is called before each micro-batch."""
        # no_grad rather than inference_mode: terms save teacher outputs for the student's backward pass, which inference tensors forbid.
        with torch.no_grad():
            return self.model.encode(texts, tower, needs, before_part)

    def encode_at_most(self, tokens: int) -> None:
        """Make micro-batches smaller, never larger."""
        self.model.tokens_per_micro_batch = min(tokens, self.model.tokens_per_micro_batch)


class NoTeacher(AskedAboutAll):
    """For methods without a teacher: asking it is a mistake in the assembly of the method."""

    inverse_temperature = 1.0
    other_inverse_temperatures: tuple[float, ...] = ()
    num_layers = 0

    def at_epoch(self, epoch: int, stop: Stop = never) -> bool:
        """All epochs are the same to it."""
        return True

    def encode(self, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        """Refuse.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError(
            "a term asked for a teacher's outputs in a trial without a teacher",
            expected="a method without teacher terms",
        )

    def encode_at_most(self, tokens: int) -> None:
        """Nothing is encoded."""
