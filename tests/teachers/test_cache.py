from __future__ import annotations

from typing import Any

import pytest
import torch

from raydistill.data.texts import Texts, fingerprints
from raydistill.models.biencoder import BiEncoder
from raydistill.models.features import Needs
from raydistill.teachers.cache import RememberingTeacher
from raydistill.teachers.views import LiveTeacher


def test_remembered_vectors_are_the_teachers(model: BiEncoder, texts: tuple[Texts, Texts]) -> None:
    """Vectors remembered for another text or the other tower: the student imitates a stranger."""
    live = LiveTeacher(model)
    remembering = RememberingTeacher(live, *texts)
    order = torch.tensor([5, 0, 3, 3, 7])
    for tower, known in (("query", texts[0]), ("entity", texts[1])):
        some = known.select(order)
        expected = live.encode(some, tower, Needs()).vectors  # type: ignore[arg-type]
        remembered = remembering.encode(some, tower, Needs()).vectors  # type: ignore[arg-type]
        torch.testing.assert_close(remembered, expected, atol=1e-6, rtol=0)
    assert (remembering.num_layers, remembering.inverse_temperature) == (live.num_layers, live.inverse_temperature)


def test_memory_is_used_where_it_can_be_and_only_there(
    model: BiEncoder, texts: tuple[Texts, Texts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory that saves nothing; or that answers for masked texts, unknown texts or wanted states."""
    live = LiveTeacher(model)
    remembering = RememberingTeacher(live, *texts)
    asked: list[int] = []

    def encode(some: Texts, tower: Any, needs: Needs) -> Any:
        asked.append(len(some))
        return LiveTeacher.encode(live, some, tower, needs)

    monkeypatch.setattr(live, "encode", encode)
    remembering.encode(texts[0], "query", Needs())
    assert asked == []
    masked = texts[0].with_tokens(texts[0].tokens.clone())
    masked.tokens[2] = 4
    output = remembering.encode(masked, "query", Needs())
    assert asked == [8]
    torch.testing.assert_close(output.vectors, LiveTeacher.encode(live, masked, "query", Needs()).vectors)
    assert set(remembering.encode(texts[1], "entity", Needs(frozenset({1}))).states) == {1}
    remembering.encode(texts[1], "query", Needs())
    assert asked == [8, 8, 8]


def test_shortage_of_memory_reaches_the_live_teacher(model: BiEncoder, texts: tuple[Texts, Texts]) -> None:
    """A student in ever smaller parts beside a teacher that takes all the memory; or one that grows again later."""
    remembering = RememberingTeacher(LiveTeacher(model), *texts)
    for tokens, expected in ((40, 40), (80, 40), (1, 1)):
        remembering.encode_at_most(tokens)
        assert model.tokens_per_micro_batch == expected


def test_memory_does_not_depend_on_the_order_of_the_texts(model: BiEncoder, texts: tuple[Texts, Texts]) -> None:
    """A resumed trial whose teacher differs in the last bit."""
    turned = [part.select(torch.arange(len(part)).flip(0)) for part in texts]
    one, other = RememberingTeacher(LiveTeacher(model), *texts), RememberingTeacher(LiveTeacher(model), *turned)
    for tower, part in (("query", texts[0]), ("entity", texts[1])):
        first, second = (memory.encode(part, tower, Needs()).vectors for memory in (one, other))  # type: ignore[arg-type]
        assert torch.equal(first, second)


def test_fingerprint_tells_texts_apart() -> None:
    """Two texts of the same words in another order, cut elsewhere, or with other segments, taken for one."""
    parts = [[2, 5, 6, 3], [2, 6, 5, 3], [2, 5, 6], [2, 5, 6, 3, 3], [5, 2, 6, 3], [2, 5, 6, 4], [2, 5, 6, 3]]
    tokens = torch.tensor([token for part in parts for token in part])
    types = torch.zeros_like(tokens)
    types[-1] = 1
    texts = Texts(tokens, types, types.bool(), torch.tensor([len(part) for part in parts]))
    assert len(set(fingerprints(texts).tolist())) == len(parts)
    again = texts.select(torch.tensor([3, 0]))
    assert fingerprints(again).tolist() == fingerprints(texts)[[3, 0]].tolist()


def test_fingerprints_of_many_short_texts_do_not_collide() -> None:
    """Sums of weak hashes of few small numbers, which meet far more often than 64 random bits."""
    pairs = torch.cartesian_prod(torch.arange(300), torch.arange(300), torch.arange(2))
    lengths = torch.full((len(pairs),), 3)
    tokens = pairs.reshape(-1)
    texts = Texts(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens).bool(), lengths)
    assert len(set(fingerprints(texts).tolist())) == len(pairs)
