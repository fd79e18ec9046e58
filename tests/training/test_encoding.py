"""Queries and candidates read in one pass, as a GPU has them where one encoder reads both, against a pass for each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.masking import clean_view
from raydistill.data.texts import Texts
from raydistill.models.biencoder import BiEncoder
from raydistill.models.features import Needs, TowerOutput
from raydistill.training.encoding import Reader, encode_view
from raydistill.training.gather import World
from raydistill.training.outputs import Wanted
from raydistill.training.parts import TrialParts

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from played import on_a_gpu
from worker import SMALL_STEPS, take_steps

SHARED = {"shared_towers": True, "dropout": 0.0}


def check_equal_steps(config: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """The same gradients either way; who was asked for which tower, with a pass for each and with one."""
    original, asked = BiEncoder.encode, list[tuple[str, Any]]()

    def encode(self: BiEncoder, texts: Texts, tower: Any, *rest: Any) -> TowerOutput:
        asked.append(("student" if self.training else "teacher", tower))
        return original(self, texts, tower, *rest)

    monkeypatch.setattr(BiEncoder, "encode", encode)
    found = []
    for at_once in (False, True):
        if at_once:
            on_a_gpu(monkeypatch)
        asked.clear()
        found.append((take_steps(config, 2, World.alone())["gradients"], list(asked)))
    (apart, first), (together, second) = found
    for expected, received in zip(apart, together, strict=True):
        assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
        for parameter, gradient in expected.items():
            torch.testing.assert_close(received[parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter)
    return first, second


@pytest.mark.parametrize("view", ["shared", "separate"])
def test_one_pass_teaches_what_two_teach(
    config_of: Callable[..., TrialConfig], each_method: str, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors or states of queries that are taken for those of candidates; a teacher of two encoders that reads entities with the wrong one."""
    training = {**SMALL_STEPS, "remember_teacher": False}
    config = config_of(each_method, view=view, encoder=SHARED, training=training)
    apart, together = check_equal_steps(config, monkeypatch)
    towers = [tower for who, tower in together if who == "student"]
    if set(towers) == {"query"}:
        assert 2 * len(towers) == sum(who == "student" for who, _ in apart)
    else:
        assert each_method in ("dq", "education") or config.init == "teacher", (
            "a student of one encoder was asked twice"
        )
    assert [one for one in together if one[0] == "teacher"] == [one for one in apart if one[0] == "teacher"]


@pytest.mark.parametrize("way", ["never", "always"])
@pytest.mark.parametrize("tokens", [64, 10_000])
def test_one_pass_is_one_and_its_gradients_may_be_cached(
    config_of: Callable[..., TrialConfig], way: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes after all; leaves of one pass whose gradients are those of one tower alone; parts of it that are put together in another order."""
    training = {**SMALL_STEPS, "gradient_cache": way, "remember_teacher": False, "tokens_per_micro_batch": tokens}
    config = config_of("pmd", view="shared", encoder=SHARED, training=training)
    apart, together = (
        [tower for who, tower in one if who == "student"] for one in check_equal_steps(config, monkeypatch)
    )
    assert (apart, together) == (["query", "entity"] * 2, ["query"] * 2)


@pytest.mark.parametrize("kept", [False, True])
def test_teacher_of_one_encoder_is_asked_at_once_unless_its_outputs_are_kept(
    config_of: Callable[..., TrialConfig],
    teacher_checkpoint: Callable[..., Path],
    kept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A teacher that is asked twice a step all the same; or what is kept of it by tower, and looked for in the other's."""
    training = {**SMALL_STEPS, "corruptions": 1, "remember_teacher": kept}
    teacher = teacher_checkpoint(shared_towers=True)
    config = config_of("pmd", teacher=teacher, view="shared", encoder=SHARED, training=training)
    apart, together = (
        [tower for who, tower in one if who == "teacher"] for one in check_equal_steps(config, monkeypatch)
    )
    assert together == (apart if kept else ["query"] * 2)
    assert set(apart) == {"query", "entity"}


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_worker_reads_its_share_at_once(parts_of: Callable[..., TrialParts], rank: int) -> None:
    """A worker's share cut where another's ends, or a small batch of which one has no query."""
    parts = parts_of("none", encoder=SHARED)
    batch = parts.trainer.builder.build(parts.trainer.source.triples[:2])
    views = clean_view(batch.queries), clean_view(batch.candidates)
    needs = Needs(frozenset({0}))
    apart, together = (
        encode_view(
            batch,
            views,
            Reader(parts.student.eval().encode, at_once),
            Reader(parts.student.encode, at_once),
            Wanted(needs, needs),
            World(rank, 3),
        )
        for at_once in (False, True)
    )
    for mine, own in ((apart.queries, together.queries), (apart.candidates, together.candidates)):
        assert torch.equal(mine.texts.tokens, own.texts.tokens)
        assert own.teacher is not None
        torch.testing.assert_close(own.student.vectors, mine.student.vectors)
        torch.testing.assert_close(own.student.states[0], mine.student.states[0])
        torch.testing.assert_close(own.teacher.vectors, mine.student.vectors)
