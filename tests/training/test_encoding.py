"""Queries and candidates read in one pass, as a GPU has them where one encoder reads both, against a pass for each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
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
from worker import SMALL_STEPS, take_steps

SHARED = {"shared_towers": True, "dropout": 0.0}


def check_equal_steps(
    config: TrialConfig, monkeypatch: pytest.MonkeyPatch, steps: int = 2
) -> tuple[list[str], list[str]]:
    """The same gradients either way; the towers that a student was asked for, with a pass for each and with one."""
    original, asked = BiEncoder.encode, list[str]()

    def encode(self: BiEncoder, texts: Texts, tower: Any, *rest: Any) -> TowerOutput:
        if self.training:
            asked.append(tower)
        return original(self, texts, tower, *rest)

    monkeypatch.setattr(BiEncoder, "encode", encode)
    found = []
    for at_once in (False, True):
        monkeypatch.setattr(BiEncoder, "reads_at_once", property(partial(_as_on_a_gpu, at_once=at_once)))
        asked.clear()
        found.append((take_steps(config, steps, World.alone())["gradients"], list(asked)))
    (apart, first), (together, second) = found
    for expected, received in zip(apart, together, strict=True):
        assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
        for parameter, gradient in expected.items():
            torch.testing.assert_close(received[parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter)
    return first, second


def _as_on_a_gpu(model: BiEncoder, *, at_once: bool) -> bool:
    return at_once and model.shared_towers and not len(model.tops)


@pytest.mark.parametrize("view", ["shared", "separate"])
def test_one_pass_teaches_what_two_teach(
    config_of: Callable[..., TrialConfig], each_method: str, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors or states of queries that are taken for those of candidates; a teacher of two encoders that reads entities with the wrong one."""
    if each_method in ("homodistil", "amd", "homodistil+tinybert", "amd, narrower"):
        pytest.skip("its student has its teacher's two towers")
    changes: dict[str, Any] = {"init": "pretrained"} if each_method == "none" else {}
    training = {**SMALL_STEPS, "remember_teacher": False}
    config = config_of(each_method, view=view, encoder=SHARED, training=training, **changes)
    apart, together = check_equal_steps(config, monkeypatch)
    assert len(apart) >= len(together)


@pytest.mark.parametrize("way", ["never", "always"])
def test_one_pass_is_one_and_its_gradients_may_be_cached(
    config_of: Callable[..., TrialConfig], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes after all; or leaves of one pass whose gradients are those of one tower alone."""
    training = {**SMALL_STEPS, "gradient_cache": way, "remember_teacher": False}
    apart, together = check_equal_steps(config_of("pmd", view="shared", encoder=SHARED, training=training), monkeypatch)
    assert (apart, together) == (["query", "entity"] * 2, ["query"] * 2)


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
