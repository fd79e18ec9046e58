"""What is measured without a way to save work is really without it, and otherwise the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.benchmarks.naive import NaiveDistillation, NaiveTexts
from raydistill.benchmarks.savings import SAVINGS, Saving, _parts, as_often_as_read, assembly_saving, savings
from raydistill.config.trial import TrialConfig
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.kg.triples import with_inverses
from raydistill.models.loading import load_encoder
from raydistill.training.parts import TrialParts

Trial = Callable[[], TrialConfig]


@pytest.fixture
def trial(trial_config: Callable[..., TrialConfig], teacher_checkpoint: Callable[..., Any]) -> Trial:
    def make() -> TrialConfig:
        settings = {"batch_size": 6, "epochs": 2}
        return trial_config(
            method={"name": "pmd"}, mask_ratio=0.2, teacher=teacher_checkpoint("bert"), training=settings
        )

    return make


def without(trial: TrialConfig, saving: Saving) -> TrialParts:
    parts = _parts(trial, saving.settings)
    saving.undo(parts)
    return parts


def losses(parts: TrialParts) -> list[float]:
    return [parts.trainer.averages()["loss"] for _ in parts.trainer.run_epoch()]


@pytest.mark.parametrize("saving", SAVINGS, ids=lambda one: one.name)
def test_steps_without_a_saving_learn_the_same(trial: Trial, saving: Saving) -> None:
    """A measurement of other work."""
    with_it, without_it = losses(_parts(trial(), {})), losses(without(trial(), saving))
    if saving is SAVINGS[0]:
        # A text that stands there twice is its own rival: more of the same work, and another loss.
        assert len(without_it) == len(with_it)
        assert np.isfinite(without_it).all()
    else:
        assert without_it == pytest.approx(with_it, rel=1e-4)


def test_each_saving_is_undone(trial: Trial) -> None:
    """A switch that switches nothing, and a way that seems to give nothing."""
    usual, each = _parts(trial(), {}), [without(trial(), saving) for saving in SAVINGS]
    texts, padded, tokens, rows, update = each
    some = next(iter(usual.trainer.source.batches(0)))
    assert len(texts.trainer.builder.build(some).queries) == len(some)
    assert usual.student.packs
    assert not padded.student.packs
    assert not padded.trainer.teacher.model.packs  # type: ignore[attr-defined]
    assert tokens.student.tokens_per_micro_batch == 131072 > usual.student.tokens_per_micro_batch
    assert tokens.trainer.teacher.model.tokens_per_micro_batch == 131072  # type: ignore[attr-defined]
    sizes = [sum(one.numel() for one in parts.student.parameters()) for parts in (rows, usual)]
    assert sizes[0] > sizes[1]
    assert [group["fused"] for group in usual.optimizer.adamw.param_groups] == [True, True]
    assert [group["fused"] for group in update.optimizer.adamw.param_groups] == [False, False]


def test_texts_stand_in_a_batch_as_often_as_they_are_read(trial: Trial, dataset: Dataset) -> None:
    """Other texts than the examples', or fewer."""
    builder = _parts(trial(), {}).trainer.builder
    both = with_inverses(dataset.train, dataset.num_relations)
    batch = builder.build(np.concatenate([both, both[:7]]))
    repeated = as_often_as_read(batch)
    assert len(repeated.queries) == len(repeated.candidates) == repeated.num_columns == len(batch) > len(batch.queries)
    for row, place in enumerate(batch.rows.tolist()):
        own, theirs = (
            texts.select(torch.tensor([one])) for texts, one in ((repeated.queries, row), (batch.queries, place))
        )
        assert torch.equal(own.tokens, theirs.tokens)
    assert torch.equal(repeated.valid_rows, batch.valid_rows[:, batch.columns])


def test_rows_compare_steps_with_and_without(
    trial: Trial, dataset: Dataset, tokenizers: dict[str, Any], encoder_folder: Callable[..., Any]
) -> None:
    """A column of the other's seconds."""
    rows = list(savings(trial(), 1))
    student, teacher = (load_encoder(encoder_folder("bert")) for _ in range(2))
    texts = NaiveTexts(dataset, tokenizers["bert"], TextRule(), 24)
    naive = NaiveDistillation(student, teacher, texts, dataset.train, dataset.num_relations, mask_ratio=0.2)
    batch: Any = [tuple(row) for row in with_inverses(dataset.train, dataset.num_relations).tolist()]
    rows.append(assembly_saving(trial(), naive, iter([batch] * 4)))
    assert [row["saving"] for row in rows[:-1]] == [one.name for one in SAVINGS]
    for row in rows:
        assert row["times"] == pytest.approx(row["without s"] / row["with s"])
        assert row["with s"] > 0
