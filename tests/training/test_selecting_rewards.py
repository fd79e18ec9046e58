"""Reinforced selection in a step of a trial: weights that go with their teachers, and one reward for a whole batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydistill.kg.store import Dataset
from raydistill.kg.triples import with_inverses
from raydistill.models.features import TowerOutput
from raydistill.objectives import selection
from raydistill.objectives.weighted import Weighted
from raydistill.training.outputs import Encoded, Side, StepOutputs
from raydistill.training.parts import TrialParts
from raydistill.training.randomness import mix
from raydistill.training.terms.policy import Policy
from raydistill.training.terms.selecting import SelectedTeachersTerm

sys.path.insert(0, str(Path(__file__).parents[1]))
from naive import ROWS, outputs_of

WIDTH, STEP = 16, 4


@pytest.fixture(scope="module")
def step(parts_of: Callable[..., TrialParts], dataset: Dataset) -> StepOutputs:
    """A step of a student of two teachers, of which the other one is wider."""
    trainer = parts_of("reinforced").trainer
    batch = trainer.builder.build(with_inverses(dataset.train, dataset.num_relations)[ROWS])
    assert not batch.valid_rows.all()
    trainer.teacher.at_epoch(0)
    return outputs_of(trainer, batch, 0, STEP)


def policy_with_an_opinion() -> Policy:
    """Between a tenth and one half here, and another for each teacher."""
    policy, generator = Policy(WIDTH), torch.Generator().manual_seed(2)
    for layer in (policy.features, policy.example):
        nn.init.normal_(layer.weight, std=0.4, generator=generator)
    return policy


def exchanged(step: StepOutputs) -> StepOutputs:
    """The same step under the same two teachers in the other order."""

    def side(one: Side) -> Side:
        assert one.teacher is not None
        [other] = one.teacher.others
        return replace(one, teacher=TowerOutput(other, {}, (one.teacher.vectors,)))

    encoded = step.clean
    clean = Encoded(encoded.batch, side(encoded.queries), side(encoded.candidates))
    [k] = step.other_inverse_temperatures
    return replace(
        step, clean=clean, teacher_inverse_temperature=k, other_inverse_temperatures=(step.teacher_inverse_temperature,)
    )


def test_weights_change_places_with_their_teachers(step: StepOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that learns most from whoever is listed first, or each teacher's scores with the other one's weight."""
    original, seen = selection.mixed, []

    def mixed(losses: list[Weighted], weights: Tensor) -> Weighted:
        seen.append((weights, torch.stack([one.values for one in losses], dim=1)))
        return original(losses, weights)

    monkeypatch.setattr(selection, "mixed", mixed)
    policy, pis = policy_with_an_opinion(), []
    policy.register_forward_hook(lambda _, __, output: pis.append(output.detach()))
    term = SelectedTeachersTerm(0.5, policy, 3.0, 0, weighting="probabilities")
    values, used = [], []
    for one in (step, exchanged(step)):
        values.append(term.value(one).detach())
        # The last of the two that are mixed is what the student learns from.
        used.append(seen[-1])
    (weights, losses), (others, other_losses) = used
    torch.testing.assert_close(others, weights.flip(1))
    torch.testing.assert_close(other_losses, losses.flip(1))
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(weights, torch.stack([pi / pi.sum() for pi in pis[0]]))
    assert ((weights[:, 0] - weights[:, 1]).abs() > 0.05).any()
    assert ((losses[:, 0] - losses[:, 1]).abs() > 0.01).any()


def test_reward_of_a_batch_is_shared_by_its_examples(step: StepOutputs) -> None:
    """REINFORCE by hand: a reward with each teacher's divergence in it, divided by a spread that is zero, or with the wrong sign."""
    policy, pis = policy_with_an_opinion(), []
    policy.register_forward_hook(lambda _, __, output: pis.append(output))
    policy.usual, policy.told_at = torch.tensor(-1.0), torch.tensor(STEP - 1)
    value = SelectedTeachersTerm(0.5, policy, 3.0, 11, reward="batch").value(step)
    [pi] = pis
    [gradient] = torch.autograd.grad(value, [pi])
    encoded, batch = step.clean, step.clean.batch
    missed: list[float] = []
    for b, allowed in enumerate(batch.valid_rows):
        logits = (step.inverse_temperature * encoded.scores[batch.rows[b]]).detach()
        missed.append(float(logits[allowed].logsumexp(0) - logits[batch.columns[b]]))
    advantage = -float(np.mean(missed)) - -1.0
    drawn = torch.rand(pi.shape, generator=torch.Generator().manual_seed(mix(11, "teachers", STEP)))
    expected = torch.zeros_like(pi)
    for b in range(len(pi)):
        for k in range(2):
            p = float(pi[b, k].detach())
            expected[b, k] = -advantage / len(pi) * (1 / p if drawn[b, k] < p else -1 / (1 - p))
    assert abs(advantage) > 0.1
    assert (expected > 0).any()
    assert (expected < 0).any()
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(step.notes["policy/reward"], torch.tensor(-float(np.mean(missed))))
    torch.testing.assert_close(policy.usual, torch.tensor(0.9 * -1.0 - 0.1 * float(np.mean(missed))))
