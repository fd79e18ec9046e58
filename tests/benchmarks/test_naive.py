"""The baseline does the same work: the same texts, the same loss, the same ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.benchmarks.naive import NaiveDistillation, NaiveTexts, naive_ranks
from raydistill.config.trial import TrialConfig
from raydistill.data.assembly import TextAssembler
from raydistill.evaluation.ranking import rank_candidates
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.kg.triples import with_inverses
from raydistill.models.loading import load_encoder
from raydistill.teachers.views import LiveTeacher
from raydistill.training.gather import World
from raydistill.training.parts import build_parts


def test_naive_texts_are_those_of_the_fast_way(
    dataset: Dataset, tokenizers: dict[str, Any], assembler_of: Callable[..., TextAssembler]
) -> None:
    """A baseline that reads shorter texts is beaten for the wrong reason, and one that reads longer ones too easily."""
    rule, tokenizer = TextRule(), tokenizers["bert"]
    assembler = assembler_of(tokenizer, dataset, max_tokens=24, rule=rule)
    naive = NaiveTexts(dataset, tokenizer, rule, 24)
    for head, relation, tail in with_inverses(dataset.train, dataset.num_relations).astype(np.int64):
        query = assembler.query_texts(np.array([head]), np.array([relation]), np.array([tail]))
        entity = assembler.entity_texts(np.array([tail]), np.array([head]))
        assert naive.tokens(naive.entity(tail, head)) == (entity.tokens.tolist(), entity.types.tolist())
        found, segments = naive.tokens(naive.entity(head, tail), naive.phrases[relation])
        assert len(found) == int(query.lengths[0]) or len(found) == 24
        assert len(found) == 24 or (found, segments) == (query.tokens.tolist(), query.types.tolist())


def test_naive_ranks_are_ours() -> None:
    """A baseline that ranks otherwise proves nothing about speed."""
    generator = torch.Generator().manual_seed(0)
    queries, entities = (torch.randn(count, 16, generator=generator) for count in (40, 90))
    gold = torch.randint(0, 90, (40,), generator=generator)
    known = [sorted({int(one) for one in torch.randint(0, 90, (5,), generator=generator)}) for _ in range(40)]
    offsets = torch.tensor([0, *np.cumsum([len(one) for one in known])])
    flat = torch.tensor([one for some in known for one in some])
    ours = rank_candidates(queries, entities, gold, offsets, flat).realistic.tolist()
    assert naive_ranks(queries, entities, gold.tolist(), known) == ours


def test_naive_steps_learn(dataset: Dataset, tokenizers: dict[str, Any], encoder_folder: Callable[..., Any]) -> None:
    """A baseline whose gradients are thrown away is fast."""
    student, teacher = (load_encoder(encoder_folder("bert")) for _ in range(2))
    texts = NaiveTexts(dataset, tokenizers["bert"], TextRule(), 24)
    naive = NaiveDistillation(student, teacher, texts, dataset.train, dataset.num_relations, mask_ratio=0.0)
    naive.optimizer.param_groups[0]["lr"] = 3e-3
    triples = [tuple(row) for row in with_inverses(dataset.train, dataset.num_relations)[:6].tolist()]
    losses = [naive.step(triples) for _ in range(40)]  # type: ignore[arg-type]
    assert min(losses[-5:]) < 0.8 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_naive_step_has_our_loss(
    dataset: Dataset,
    tokenizers: dict[str, Any],
    trial_config: Callable[..., TrialConfig],
    teacher_checkpoint: Callable[..., Path],
) -> None:
    """A baseline that learns something else: what it takes longer for is not our work."""
    shared = {"shared_towers": True}
    config = trial_config(
        layers=2,
        method={"name": "pmd", "alpha": 0.2, "beta": 0.3},
        encoder=shared,
        teacher=teacher_checkpoint(**shared),
        data={"max_tokens": 24},
        contrastive={"margin": 0.02},
        training={"remember_teacher": False},
    )
    parts = build_parts(config, World.alone())
    trainer, teacher = parts.trainer, parts.trainer.teacher
    assert isinstance(teacher, LiveTeacher)
    # The baseline has one temperature, for both.
    parts.student.log_inverse_temperature.data.copy_(teacher.model.log_inverse_temperature)
    triples = with_inverses(dataset.train, dataset.num_relations)[[0, 3, 7]]
    batch = trainer.builder.build(triples)
    found = trainer.losses(batch, 0)
    student = parts.student.query_encoder
    naive = NaiveDistillation(
        student,
        teacher.model.query_encoder,
        NaiveTexts(dataset, tokenizers["bert"], TextRule(), 24),
        dataset.train,
        dataset.num_relations,
        mask_ratio=0.0,
        alpha=0.2,
        beta=0.3,
        margin=0.02,
        inverse_temperature=float(parts.student.inverse_temperature.detach()),
    )
    expected = 0.5 * float(found["ce"].detach()) + 0.2 * float(found["score"].detach())
    rows: Any = [tuple(row) for row in triples.tolist()]
    assert naive.step(rows) == pytest.approx(expected, rel=1e-5)
