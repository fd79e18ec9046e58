"""A student that is told a time beside each text while it learns, and is itself at time 0 (BOOT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.biencoder import BiEncoder
from raydistill.models.conditioning import CONDITIONING, conditioned
from raydistill.students.reshaping import Across, StructureChange
from raydistill.students.units import encoders_of


class Conditioner:
    """Gives each tower an embedding of times, which is trained with the student and stored beside it, never in it.

    At time 0 the embedding is zero, so the stored weights alone are the student at time 0: nothing has to be folded into them, and a checkpoint may
    be promoted whenever it was written.

    Args:
        seed: of its first weights.
    """

    name = CONDITIONING
    complete = True

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.embeddings = nn.ModuleDict()

    def prepare(self, student: BiEncoder) -> None:
        """Add the embeddings; shared towers have one."""
        towers = {name.removesuffix("_encoder"): encoder for name, encoder in encoders_of(student).items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.embeddings = nn.ModuleDict({tower: conditioned(encoder) for tower, encoder in towers.items()})

    def after_backward(self, student: BiEncoder, step: int, across: Across) -> None:
        """Nothing to look at."""

    def after_step(self, student: BiEncoder, step: int) -> StructureChange | None:
        """Nothing changes but weights."""
        return None

    def record(self) -> dict[str, Any]:
        """Nothing: the weights are the whole of it."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The embeddings' weights."""
        state = self.embeddings.state_dict()
        return {name: tensor.detach().to("cpu").clone().contiguous() for name, tensor in state.items()}

    def restore(self, student: BiEncoder, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self.embeddings.load_state_dict(dict(tensors))
