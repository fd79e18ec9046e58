from __future__ import annotations

import numpy as np
import torch

from raydistill.training.progress import PreBatch


def test_only_the_newest_batches_are_kept_in_order() -> None:
    """Vectors given to other entities, or a memory that grows with every step."""
    memory = PreBatch(2)
    assert memory.earlier() is None
    assert memory.entities_ahead().all_entities() is None
    for number in range(4):
        memory.push(torch.full((number + 1, 3), float(number), requires_grad=True), np.full(number + 1, number))
    earlier, entities = memory.earlier(), memory.entities_ahead().all_entities()
    assert earlier is not None
    assert entities is not None
    assert entities.tolist() == [2, 2, 2, 3, 3, 3, 3]
    assert earlier.vectors[:, 0].tolist() == [2, 2, 2, 3, 3, 3, 3]
    assert not earlier.vectors.requires_grad


def test_limit_zero_keeps_nothing() -> None:
    """Negatives of earlier batches where none were asked for."""
    memory = PreBatch(0)
    memory.push(torch.ones(2, 3), np.zeros(2, np.int64))
    assert memory.earlier() is None
