"""Quantising a student: while it is trained (the reshaper), or after (`quantize`). Either way the same modules stand in its encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.kinds import BERT_LIKE
from raydistill.students.quantized import Formats, Range, install, ranges_of
from raydistill.students.reshaping import Across, StructureChange
from raydistill.students.units import encoders_of

Calibration = Iterable[tuple[Tower, Texts]]
"""Texts that a tower reads to learn how large its activations become."""


def quantize(model: BiEncoder, formats: Formats, calibration: Calibration) -> None:
    """Quantise a model that is trained already, in place; its weights keep their full precision until it is stored.

    Args:
        model: one whose encoders' parts are known.
        formats: of its numbers.
        calibration: texts like those that it will read; the largest magnitudes that are met in them, unrounded, become the ranges.

    Raises:
        CapabilityError: encoders of unknown parts, or a range that no text of the calibration reached.
    """
    ranges = _install(model, formats)
    training = model.training
    model.eval()
    _observe(ranges, True)
    try:
        with torch.no_grad():
            for tower, texts in calibration:
                model.encode(texts, tower)
    finally:
        _observe(ranges, False)
        model.train(training)
    for name, one in ranges.items():
        if one.seen is None:
            raise CapabilityError(
                f"no text of the calibration went through {name}",
                expected="texts for the query tower and for the entity tower",
                consequence="its activations would not be rounded",
                remedy="give both towers some texts",
            )
        one.learn(one.seen, 0.0)


class Quantization:
    """The reshaper: a student learns with rounded numbers from its first step on.

    In the very first step activations are not rounded, only looked at, for the range of a part of a batch would be another for another division into parts.
    After each step every range moves towards the largest magnitude that any worker met in it.

    Args:
        formats: of the student's numbers.
        memory: share of a range that stays from step to step.
    """

    name = "quantization"

    def __init__(self, formats: Formats, memory: float) -> None:
        self.formats, self.memory = formats, memory
        self._ranges: dict[str, Range] = {}

    @property
    def complete(self) -> bool:
        """Whether the ranges are known."""
        return all(one.known for one in self._ranges.values())

    def prepare(self, student: BiEncoder) -> None:
        """Put the modules in."""
        self._ranges = _install(student, self.formats)

    def forget(self) -> None:
        """What an attempt at a step met that is made again counts for nothing."""
        for one in self._ranges.values():
            one.seen = None

    def after_backward(self, student: BiEncoder, step: int, across: Across) -> None:
        """Learn from what all workers met in this step; one exchange."""
        if not self._ranges:
            return
        ranges = list(self._ranges.values())
        # Texts encoded a second time, for their gradients, have met nothing larger.
        met = torch.stack([one.limit.new_zeros(()) if one.seen is None else one.seen for one in ranges])
        for one, largest in zip(ranges, across.largest(met), strict=True):
            one.learn(largest, self.memory)

    def after_step(self, student: BiEncoder, step: int) -> StructureChange | None:
        """Its parameters are what they were."""
        return None

    def record(self) -> dict[str, Any]:
        """Bits of its numbers."""
        return asdict(self.formats)

    def tensors(self) -> dict[str, Tensor]:
        """The ranges; the weights in full precision are kept with the training state as they are (`storing.master_weights`)."""
        return {name: one.limit.detach().to("cpu").clone() for name, one in self._ranges.items()}

    def restore(self, student: BiEncoder, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take the ranges back."""
        for name, one in self._ranges.items():
            one.know(tensors[name])


def _install(model: BiEncoder, formats: Formats) -> dict[str, Range]:
    """Put the modules into a model's encoders; its ranges by name."""
    if not model.packs:
        raise CapabilityError(
            "an encoder of unknown parts is to be quantised",
            expected=BERT_LIKE,
            consequence="what its attention multiplies could not be rounded",
            remedy="choose another method, or another encoder",
        )
    towers = encoders_of(model)
    for encoder in towers.values():
        install(encoder, formats)
    return {f"{tower}.{name}": one for tower, encoder in towers.items() for name, one in ranges_of(encoder)}


def _observe(ranges: Mapping[str, Range], observes: bool) -> None:
    for one in ranges.values():
        one.observes = observes
