"""What is kept of a teacher: its own outputs, shared, resumed, and never those of another text."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.data.masking import fixed_view
from raydistill.data.texts import Texts, fingerprints
from raydistill.errors import StorageError
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.features import EMBEDDINGS, QKV, Feature, Needs
from raydistill.teachers import cache
from raydistill.teachers.cache import CachedTeacher, KeptView
from raydistill.teachers.shards import claimed, read_shard
from raydistill.teachers.views import LiveTeacher

MASK = 4
SIDES: tuple[tuple[Tower, int], ...] = (("query", 0), ("entity", 1))
MASKED = Needs(frozenset({1}), masked_only=True)
Sides = tuple[Texts, Texts]


def corrupted(texts: Texts, epoch: int) -> Texts:
    return fixed_view(texts, 0.4, MASK, epoch % 2).texts


def clean(folder: Path | None = None) -> KeptView:
    return KeptView(lambda texts, epoch: texts, None if folder is None else lambda epoch: folder / "clean")


def masked(folder: Path | None = None) -> KeptView:
    folders = None if folder is None else lambda epoch: folder / str(epoch % 2)
    return KeptView(corrupted, folders, lambda epoch: epoch % 2, (1,))


def cached(live: LiveTeacher, texts: Sides, *views: KeptView, epoch: int = 0) -> CachedTeacher:
    teacher = CachedTeacher(live, lambda: texts, views, MASK)
    teacher.at_epoch(epoch)
    return teacher


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts live teachers were asked for, call by call."""
    calls: list[int] = []
    original = LiveTeacher.encode

    def encode(self: LiveTeacher, texts: Texts, tower: Any, needs: Needs, *before_part: Any) -> Any:
        calls.append(len(texts))
        return original(self, texts, tower, needs, *before_part)

    monkeypatch.setattr(LiveTeacher, "encode", encode)
    return calls


@pytest.mark.parametrize("on_disk", [False, True])
def test_kept_outputs_are_the_teachers(
    model: BiEncoder, texts: Sides, asked: list[int], tmp_path: Path, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs kept for another text, tower, corruption or token: the student imitates a stranger."""
    monkeypatch.setattr(cache, "TEXTS_OF_A_SHARD", 3)
    live, folder = LiveTeacher(model), tmp_path if on_disk else None
    teacher = cached(live, texts, clean(folder), masked(folder))
    for epoch in (0, 1, 2):
        teacher.at_epoch(epoch)
        for tower, side in SIDES:
            some = texts[side].select(torch.tensor([5, 0, 3, 3, 7]))
            seen = corrupted(some, epoch)
            expected, there = live.encode(seen, tower, MASKED), seen.tokens == MASK
            plain = live.encode(some, tower, Needs()).vectors
            asked.clear()
            found = teacher.encode(seen, tower, MASKED)
            torch.testing.assert_close(teacher.encode(some, tower, Needs()).vectors, plain, atol=1e-6, rtol=0)
            assert asked == []
            torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-6, rtol=0)
            torch.testing.assert_close(found.states[1][there], expected.states[1][there], atol=1e-5, rtol=0)
            assert bool(there.any())


EVERYTHING: tuple[Feature, ...] = (EMBEDDINGS, 0, 1, QKV(0), QKV(1))


def test_kept_states_of_all_tokens_are_the_teachers(
    model: BiEncoder, texts: Sides, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """States of another token, layer or text, or queries where keys are looked for: nothing but a worse student would show it."""
    monkeypatch.setattr(cache, "TEXTS_OF_A_SHARD", 3)
    live = LiveTeacher(model)
    teacher = cached(live, texts, KeptView(lambda texts, epoch: texts, features=EVERYTHING, whole=True))
    for features in (EVERYTHING, (1,), (QKV(1), EMBEDDINGS), ()):
        for masked_only in (False, True):
            needs = Needs(frozenset(features), masked_only)
            for tower, side in SIDES:
                some = texts[side].select(torch.tensor([5, 0, 3, 3, 7]))
                expected = live.encode(some, tower, needs)
                asked.clear()
                found = teacher.encode(some, tower, needs)
                assert asked == []
                torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-6, rtol=0)
                assert found.states.keys() == expected.states.keys() == set(features)
                for feature in features:
                    torch.testing.assert_close(found.states[feature], expected.states[feature], atol=1e-5, rtol=0)
    asked.clear()
    teacher = cached(live, texts, KeptView(lambda texts, epoch: texts, features=(1,), whole=True))
    asked.clear()
    teacher.encode(texts[0], "query", Needs(frozenset({0, 1})))
    teacher.encode(corrupted(texts[0], 0), "query", Needs(frozenset({1})))
    assert asked == [8, 8]


def test_kept_outputs_are_used_where_they_can_be_and_only_there(
    model: BiEncoder, texts: Sides, asked: list[int]
) -> None:
    """A memory that answers for masked texts, unknown texts, or for states it does not have."""
    teacher = cached(LiveTeacher(model), texts, clean())
    asked.clear()
    teacher.encode(texts[0], "query", Needs())
    assert asked == []
    other = texts[0].with_tokens(texts[0].tokens.clone())
    other.tokens[2] = MASK
    teacher.encode(other, "query", Needs())
    teacher.encode(texts[1], "entity", Needs(frozenset({1})))
    teacher.encode(texts[1], "entity", MASKED)
    teacher.encode(texts[1], "query", Needs())
    assert asked == [8, 8, 8, 8]
    teacher = cached(LiveTeacher(model), texts, masked())
    asked.clear()
    teacher.encode(corrupted(texts[0], 0), "query", Needs(frozenset({1})))
    teacher.encode(corrupted(texts[0], 0), "query", Needs(frozenset({0}), masked_only=True))
    teacher.encode(corrupted(texts[0], 1), "query", MASKED)
    assert asked == [8, 8, 8]


def test_second_trial_computes_nothing(model: BiEncoder, texts: Sides, asked: list[int], tmp_path: Path) -> None:
    """Every trial of a grade, and every resumed one, would run the teacher over all texts again."""
    cached(LiveTeacher(model), texts, clean(tmp_path), masked(tmp_path))
    assert len(asked) == 4
    asked.clear()
    turned: Sides = tuple(side.select(torch.arange(len(side)).flip(0)) for side in texts)  # type: ignore[assignment]
    cached(LiveTeacher(model), turned, clean(tmp_path), masked(tmp_path), epoch=2)
    assert asked == []
    cached(LiveTeacher(model), turned, masked(tmp_path), epoch=1)
    assert len(asked) == 2


def test_kept_outputs_do_not_depend_on_the_order_of_the_texts(model: BiEncoder, texts: Sides) -> None:
    """A resumed trial whose teacher differs in the last bit."""
    turned: Sides = tuple(part.select(torch.arange(len(part)).flip(0)) for part in texts)  # type: ignore[assignment]
    one, other = (cached(LiveTeacher(model), some, clean()) for some in (texts, turned))
    for tower, side in SIDES:
        first, second = (teacher.encode(texts[side], tower, Needs()).vectors for teacher in (one, other))
        assert torch.equal(first, second)


def test_damaged_and_foreign_files_are_computed_again(
    model: BiEncoder, texts: Sides, asked: list[int], tmp_path: Path
) -> None:
    """Bits that fell over, or a file of other texts under this name, taught to a student."""
    live = LiveTeacher(model)
    cached(live, texts, clean(tmp_path))
    [path] = (tmp_path / "clean").glob("query-*.arrow")
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 60)):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert read_shard(path) is None
    path.write_bytes(content[: len(content) // 2])
    asked.clear()
    expected = live.encode(texts[0], "query", Needs()).vectors
    found = cached(live, texts, clean(tmp_path)).encode(texts[0], "query", Needs()).vectors
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    (tmp_path / "clean" / "entity-00000.arrow").replace(path)
    found = cached(live, texts, clean(tmp_path)).encode(texts[0], "query", Needs()).vectors
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_texts_are_put_together_once_and_let_go_where_no_epoch_needs_them_again(
    model: BiEncoder, texts: Sides, asked: list[int], tmp_path: Path
) -> None:
    """Gigabytes of texts that stay beside outputs which are complete; or texts put together in every epoch, which takes minutes each time."""
    put_together: list[int] = []

    def together() -> Sides:
        put_together.append(1)
        return texts

    live, folders = LiveTeacher(model), (None, tmp_path)
    for view, stays in ((clean, False), (masked, True)):
        for folder in folders:
            teacher = CachedTeacher(live, together, [view(folder)], MASK)
            assert put_together == []
            for epoch in range(3):
                teacher.at_epoch(epoch)
                assert bool(teacher._parts) == stays
            assert put_together == [1]
            put_together.clear()
            some = texts[0] if view is clean else corrupted(texts[0], 2)
            expected = live.encode(some, "query", Needs()).vectors
            asked.clear()
            torch.testing.assert_close(teacher.encode(some, "query", Needs()).vectors, expected, atol=1e-6, rtol=0)
            assert asked == []


def _hold(path: str, told: Any) -> None:
    with claimed(Path(path), wait=True):
        told.set()
        time.sleep(60)


def test_workers_share_the_work_and_survive_each_other(
    model: BiEncoder, texts: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that compute the same part; or one that waits for ever for a part whose process was killed."""
    monkeypatch.setattr(cache, "TEXTS_OF_A_SHARD", 4)
    context = multiprocessing.get_context("spawn")
    told, path = context.Event(), tmp_path / "clean" / "query-00000.arrow"
    other = context.Process(target=_hold, args=(str(path), told))
    other.start()
    try:
        assert told.wait(200)
        with claimed(path, wait=False) as mine:
            assert mine is None
        order: list[str] = []
        original = CachedTeacher._kept_file

        def look(self: CachedTeacher, view: Any, path: Path, *rest: Any) -> Any:
            order.append(path.name)
            return original(self, view, path, *rest)

        monkeypatch.setattr(CachedTeacher, "_kept_file", look)
        other.kill()
        other.join()
        cached(LiveTeacher(model), texts, clean(tmp_path))
        assert order[:2] == ["query-00000.arrow", "query-00001.arrow"]
    finally:
        other.kill()


def test_pass_that_is_left_keeps_what_it_has_and_is_gone_on_with(
    model: BiEncoder, texts: Sides, asked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is taken away every hour from a pass of two, which would begin anew each time; or a part that was left in its middle, and is
    kept as if it were whole."""
    monkeypatch.setattr(cache, "TEXTS_OF_A_SHARD", 3)
    model.tokens_per_micro_batch = 8
    live = LiveTeacher(model)
    expected = cached(live, texts, clean(tmp_path / "straight"))
    teacher = CachedTeacher(live, lambda: texts, [clean(tmp_path)], MASK)
    written: list[int] = []
    for _ in range(20):
        asked.clear()
        # In the middle of the second part that it computes.
        if teacher.at_epoch(0, lambda: len(asked) > 1):
            break
        assert len(asked) == 2
        written.append(len(list((tmp_path / "clean").glob("*.arrow"))))
    assert written == [1, 2, 3, 4, 5]
    asked.clear()
    for tower, side in SIDES:
        found, whole = (one.encode(texts[side], tower, Needs()).vectors for one in (teacher, expected))
        assert torch.equal(found, whole)
    assert asked == []


def test_pass_is_left_while_another_process_is_waited_for(model: BiEncoder, texts: Sides, tmp_path: Path) -> None:
    """A worker that was told to end, and waits for the minutes that another trial takes for a part of the teacher's outputs."""
    teacher = CachedTeacher(LiveTeacher(model), lambda: texts, [clean(tmp_path)], MASK)
    told = iter([False] * 5)
    with claimed(tmp_path / "clean" / "query-00000.arrow", wait=True):
        assert not teacher.at_epoch(0, lambda: next(told, True))
    assert teacher.at_epoch(0)


def test_files_that_cannot_be_written_are_told(model: BiEncoder, texts: Sides, tmp_path: Path) -> None:
    """A trial that goes on without what is kept, or ends with a traceback."""
    (tmp_path / "clean").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="remember_teacher"):
        cached(LiveTeacher(model), texts, clean(tmp_path))


def test_shortage_of_memory_reaches_the_live_teacher(model: BiEncoder, texts: Sides) -> None:
    """A student in ever smaller parts beside a teacher that takes all the memory; or one that grows again later."""
    teacher = cached(LiveTeacher(model), texts, clean())
    for tokens, expected in ((40, 40), (80, 40), (1, 1)):
        teacher.encode_at_most(tokens)
        assert model.tokens_per_micro_batch == expected
    assert (teacher.num_layers, teacher.inverse_temperature) == (4, pytest.approx(10.0))


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
