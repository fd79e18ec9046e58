"""What a student remembers of texts: of the epoch before only, whole after a way through a checkpoint."""

from __future__ import annotations

import pytest
import torch

from raydistill.training.own import load_own, own_tensors
from raydistill.training.terms.remembered import RememberedVectors

KEYS = torch.tensor([7, -3, 12])
FIRST, SECOND = torch.eye(3, 4), torch.full((2, 4), 0.5)


def test_an_epoch_does_not_see_itself() -> None:
    """A step that is taken again, for want of memory, would learn from its own first attempt; a text that comes twice from a moment ago."""
    memory = RememberedVectors(4)
    memory.turn_to(0)
    for _ in range(2):
        memory.remember("query", KEYS, FIRST)
        found, known = memory.recall("query", KEYS)
        assert not known.any()
        assert not found.any()
    memory.turn_to(1)
    found, known = memory.recall("query", torch.tensor([12, 5, 7]))
    assert known.tolist() == [True, False, True]
    torch.testing.assert_close(found, torch.stack([FIRST[2], torch.zeros(4), FIRST[0]]))
    assert not memory.recall("entity", KEYS)[1].any()


def test_the_last_time_in_an_epoch_counts_and_older_ones_are_gone() -> None:
    """Rows that are written in another text's place, or that nobody forgets."""
    memory = RememberedVectors(4)
    memory.remember("entity", KEYS, FIRST)
    memory.remember("entity", torch.tensor([12, 99]), SECOND)
    memory.turn_to(1)
    found, known = memory.recall("entity", torch.tensor([7, -3, 12, 99]))
    assert known.all()
    torch.testing.assert_close(found, torch.cat([FIRST[:2], SECOND]))
    memory.turn_to(2)
    assert not memory.recall("entity", KEYS)[1].any()


def test_of_equal_texts_the_last_one_stays() -> None:
    """Two writes to one row, of which either may win: entities of the same name and description, under dropout."""
    memory, many = RememberedVectors(1), torch.arange(3).repeat(400)
    memory.remember("entity", many, torch.arange(1200.0)[:, None])
    memory.turn_to(1)
    assert memory.recall("entity", torch.tensor([0, 1, 2]))[0].flatten().tolist() == [1197, 1198, 1199]


def test_memory_survives_a_checkpoint_inside_an_epoch() -> None:
    """A resumed trial that has forgotten either epoch."""
    memory, again = RememberedVectors(4), RememberedVectors(4)
    memory.remember("query", KEYS, FIRST)
    memory.turn_to(1)
    memory.remember("query", torch.tensor([99, 7]), SECOND)
    load_own({"self": again}, own_tensors({"self": memory}))
    for one in (memory, again):
        one.turn_to(1)
        torch.testing.assert_close(one.recall("query", KEYS)[0], FIRST)
        one.turn_to(2)
        found, known = one.recall("query", torch.tensor([7, 99, 12]))
        assert known.tolist() == [True, True, False]
        torch.testing.assert_close(found[:2], SECOND)


def test_what_does_not_fit_into_memory_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are known and have no place."""
    memory = RememberedVectors(4)
    memory.remember("query", KEYS, FIRST)
    original, failures = torch.cat, [torch.OutOfMemoryError("no room")]

    def full(*given: torch.Tensor) -> torch.Tensor:
        if failures:
            raise failures.pop()
        return original(*given)

    monkeypatch.setattr(torch, "cat", full)
    more = torch.arange(100, 110)
    with pytest.raises(torch.OutOfMemoryError):
        memory.remember("query", more, torch.ones(10, 4))
    memory.remember("query", more, torch.ones(10, 4))
    memory.turn_to(1)
    found, known = memory.recall("query", torch.cat([KEYS, more]))
    assert known.all()
    torch.testing.assert_close(found, original([FIRST, torch.ones(10, 4)]))
