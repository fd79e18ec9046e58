"""What a student remembers of texts: of earlier steps only, whole after a way through a checkpoint."""

from __future__ import annotations

import torch

from raydistill.training.own import load_own, own_tensors
from raydistill.training.remembered import RememberedVectors

KEYS = torch.tensor([7, -3, 12])
FIRST, SECOND = torch.eye(3, 4), torch.full((2, 4), 0.5)


def test_a_step_does_not_see_itself() -> None:
    """A step that is taken again, for want of memory, would learn from its own first attempt."""
    memory = RememberedVectors(4)
    for _ in range(2):
        found, known = memory.recall(0, "query", KEYS)
        assert not known.any()
        assert not found.any()
        memory.remember(0, "query", KEYS, FIRST)
    found, known = memory.recall(1, "query", torch.tensor([12, 5, 7]))
    assert known.tolist() == [True, False, True]
    torch.testing.assert_close(found, torch.stack([FIRST[2], torch.zeros(4), FIRST[0]]))
    assert not memory.recall(1, "entity", KEYS)[1].any()


def test_the_last_time_counts_and_others_stay() -> None:
    """Rows that are written in another text's place."""
    memory = RememberedVectors(4)
    memory.remember(0, "entity", KEYS, FIRST)
    memory.recall(1, "entity", KEYS)
    memory.remember(1, "entity", torch.tensor([12, 99]), SECOND)
    found, known = memory.recall(2, "entity", torch.tensor([7, -3, 12, 99]))
    assert known.all()
    torch.testing.assert_close(found, torch.cat([FIRST[:2], SECOND]))


def test_memory_survives_a_checkpoint_with_its_last_step() -> None:
    """A resumed trial that has forgotten what the last step before its checkpoint saw."""
    memory, again = RememberedVectors(4), RememberedVectors(4)
    memory.remember(0, "query", KEYS, FIRST)
    memory.recall(1, "query", KEYS)
    memory.remember(1, "query", torch.tensor([99, 7]), SECOND)
    load_own({"self": again}, own_tensors({"self": memory}))
    asked = torch.tensor([7, -3, 12, 99])
    for one in (memory, again):
        found, known = one.recall(2, "query", asked)
        assert known.all()
        torch.testing.assert_close(found, torch.stack([SECOND[1], FIRST[1], FIRST[2], SECOND[0]]))
