"""A policy that finds the teacher worth listening to, and does not touch the student on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydistill.data.batches import TripleBatch
from raydistill.models.features import Needs, TowerOutput
from raydistill.objectives import logits, selection
from raydistill.students.reshaping import StructureChange
from raydistill.training.gather import World
from raydistill.training.optimizer import Optimizer
from raydistill.training.outputs import Encoded, Side, StepOutputs
from raydistill.training.randomness import mix
from raydistill.training.terms.policy import Policy
from raydistill.training.terms.scores import DivergenceTerm, ScoreTerm
from raydistill.training.terms.selecting import SelectedTeachersTerm

WIDTH, CANDIDATES, BATCH, SCALE = 16, 64, 32, 20.0


def unit(tensor: Tensor) -> Tensor:
    return nn.functional.normalize(tensor, dim=-1)


class Toy:
    """Queries that lie near their answers; a student that learns where, a teacher that knows, and one that says anything."""

    def __init__(self, seed: int, *, depends: bool, steps: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.entities, self.theirs = unit(drawn(CANDIDATES, WIDTH)), unit(drawn(CANDIDATES, WIDTH))
        self.student = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.student.weight, generator=generator)
        self.answers = torch.randint(CANDIDATES, (steps, BATCH), generator=generator)
        self.seen = self.entities[self.answers] + 0.1 * drawn(steps, BATCH, WIDTH)
        good = unit(self.theirs[self.answers] + 0.1 * drawn(steps, BATCH, WIDTH))
        noise = unit(drawn(steps, BATCH, WIDTH))
        # Whether the first teacher is the good one shows in the example itself.
        first = self.seen[..., :1] > 0 if depends else torch.ones(steps, BATCH, 1, dtype=torch.bool)
        self.teachers = torch.where(first, good, noise), torch.where(first, noise, good)
        self.good = (~first[..., 0]).long()

    def step(self, number: int) -> StepOutputs:
        """A step's outputs."""
        vectors = unit(self.student(self.seen[number]))
        teachers = tuple(one[number] for one in self.teachers)
        return outputs(vectors, self.entities, teachers, self.theirs, self.answers[number], number)


def outputs(
    queries: Tensor,
    candidates: Tensor,
    teachers: tuple[Tensor, ...],
    theirs: Tensor,
    answers: Tensor,
    step: int,
    epoch: int = 1,
) -> StepOutputs:
    """What a term sees of a student and of teachers, each with its vectors of the queries and all with the same of the candidates."""
    valid = torch.ones(len(queries), len(candidates), dtype=torch.bool)
    texts: Any = None
    batch = TripleBatch(
        texts,
        texts,
        rows=torch.arange(len(queries)),
        columns=answers,
        valid_rows=valid,
        valid_columns=torch.ones(len(queries), len(queries), dtype=torch.bool),
        column_entities=np.arange(len(candidates)),
        relations=np.zeros(len(queries), np.int64),
    )

    def side(student: Tensor, taught: tuple[Tensor, ...]) -> Side:
        share = World.alone().share(torch.ones(len(student)))
        teacher = TowerOutput(taught[0], {}, taught[1:])
        return Side(texts, torch.zeros(0), TowerOutput(student, {}), teacher, share)

    encoded = Encoded(batch, side(queries, teachers), side(candidates, (theirs,) * len(teachers)))
    return StepOutputs(
        encoded,
        encoded,
        torch.tensor(SCALE),
        SCALE,
        epoch=epoch,
        step=step,
        other_inverse_temperatures=(SCALE,) * (len(teachers) - 1),
    )


def term(policy: Policy | None = None, **changes: Any) -> SelectedTeachersTerm:
    return replace(SelectedTeachersTerm(0.5, policy or Policy(WIDTH), 1.0, 0), **changes)


def trained(seed: int, *, depends: bool, steps: int = 800, **changes: Any) -> float:
    """p(good) - p(noise) of a policy that was trained beside a student, as trials train it."""
    toy = Toy(seed, depends=depends, steps=steps + 20)
    chooser = term(seed=seed, **changes)
    optimizer = Optimizer(
        toy.student,
        learning_rate=1e-2,
        weight_decay=0.0,
        warmup_steps=0,
        total_steps=steps,
        own={"selected": chooser.policy},
    )
    for number in range(steps):
        step = toy.step(number)
        missed = nn.functional.cross_entropy(step.clean.scores * SCALE, step.clean.batch.columns)
        (0.5 * missed + 0.5 * chooser.value(step)).backward()
        optimizer.step(number)
    found = []
    for number in range(steps, steps + 20):
        pi, good = probabilities(chooser.policy, toy.step(number)).detach(), toy.good[number]
        found.append((pi.gather(1, good[:, None]) - pi.gather(1, 1 - good[:, None])).mean())
    return float(torch.stack(found).mean())


def probabilities(policy: Policy, step: StepOutputs) -> Tensor:
    """What a policy thinks of the teachers of a step."""
    encoded, batch = step.clean, step.clean.batch
    teachers = torch.stack(
        [encoded.scores_of_teacher(k) * SCALE for k in range(1 + len(encoded.queries.teacher.others))], dim=1
    )
    features = selection.teacher_features(encoded.scores * SCALE, teachers, batch.columns, batch.valid_rows)
    return policy(features, encoded.query_vectors)


@pytest.mark.slow
@pytest.mark.parametrize("depends", [False, True], ids=["fixed noise teacher", "noise depends on the example"])
def test_policy_finds_the_teacher_that_knows(depends: bool) -> None:
    """A policy that is told too little to tell teachers apart: with one number for a whole batch it ends anywhere between -0.3 and 0.2 here; 0.96 is the most there is."""
    found = [trained(seed, depends=depends) for seed in range(5)]
    assert min(found) >= 0.9, found


def gradients(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    return list(found)


def drawn_step(teachers: int, step: int = 0, epoch: int = 1) -> tuple[StepOutputs, Tensor]:
    """A step of random vectors, and the student's leaf."""
    generator = torch.Generator().manual_seed(7)
    queries, candidates, theirs = (torch.randn(n, WIDTH, generator=generator) for n in (9, 12, 12))
    leaf = queries.requires_grad_()
    taught = tuple(unit(torch.randn(9, WIDTH, generator=generator)) for _ in range(teachers))
    answers = torch.randint(12, (9,), generator=generator)
    return outputs(unit(leaf), unit(candidates), taught, unit(theirs), answers, step, epoch), leaf


def undecided(seed: int = 3) -> Policy:
    """A policy with an opinion on everything."""
    policy = Policy(WIDTH)
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(seed))
    return policy


@pytest.mark.parametrize("weighting", ["chosen", "probabilities"])
@pytest.mark.parametrize("objective", ["kl", "mse"])
def test_lone_teacher_is_plain_distillation_bit_for_bit(objective: Any, weighting: Any) -> None:
    """A method that is something else than what it is compared with, where there is nothing to choose."""
    plain: Any = DivergenceTerm(0.5, 3.0) if objective == "kl" else ScoreTerm(0.5)
    policy = undecided()
    chooser = term(policy, temperature=3.0, objective=objective, weighting=weighting)
    step, leaf = drawn_step(1)
    expected, value = plain.value(step), chooser.value(step)
    assert torch.equal(value, expected)
    assert torch.equal(gradients(value, leaf)[0], gradients(expected, leaf)[0])
    assert gradients(value, leaf)[0].any()
    assert all(not gradient.any() for gradient in gradients(chooser.value(step), *policy.parameters()))


@pytest.mark.parametrize("weighting", ["chosen", "probabilities"])
def test_no_gradient_crosses_between_student_and_policy(weighting: Any) -> None:
    """A student that is trained to please its policy, or a policy that makes the loss small by choosing the teacher that asks least."""
    policy, (step, leaf) = undecided(), drawn_step(3)
    value = term(policy, weighting=weighting).value(step)
    policy_gradients = gradients(value, *policy.parameters())
    pi = probabilities(policy, step)
    chosen = torch.rand(pi.shape, generator=torch.Generator().manual_seed(mix(0, "teachers", 0))) < pi
    weights = selection.shares(selection.taught_by(chosen).float())
    student = step.clean.scores * SCALE
    losses = [
        logits.kl_divergence(
            student, step.clean.scores_of_teacher(k) * SCALE, step.clean.batch.valid_rows, temperature=1.0
        )
        for k in range(3)
    ]
    rewards = -selection.missed(student, step.clean.batch.columns, step.clean.batch.valid_rows)
    rewards = rewards - selection.mixed(losses, weights).values.detach()
    surrogate = selection.policy_loss(chosen, pi, selection.advantages(rewards, rewards.mean()))
    for gradient, expected in zip(policy_gradients, gradients(surrogate, *policy.parameters()), strict=True):
        assert expected.any()
        torch.testing.assert_close(gradient, expected)
    weights = selection.shares(pi.detach()) if weighting == "probabilities" else weights
    alone = selection.mixed(losses, weights).mean()
    torch.testing.assert_close(value, alone)
    torch.testing.assert_close(
        gradients(term(policy, weighting=weighting).value(step), leaf)[0], gradients(alone, leaf)[0]
    )


def test_teachers_that_change_places_change_their_probabilities_alike() -> None:
    """A policy that prefers whoever is listed first."""
    policy, (step, _) = undecided(), drawn_step(3)
    pi = probabilities(policy, step)
    assert float((pi.max(1).values - pi.min(1).values).detach().max()) > 0.1
    encoded = step.clean
    order = [2, 0, 1]

    def swapped(side: Side) -> Side:
        assert side.teacher is not None
        vectors = [side.teacher.vectors, *side.teacher.others]
        moved = [vectors[k] for k in order]
        return replace(side, teacher=TowerOutput(moved[0], {}, tuple(moved[1:])))

    other = replace(step, clean=Encoded(encoded.batch, swapped(encoded.queries), swapped(encoded.candidates)))
    torch.testing.assert_close(probabilities(policy, other), pi[:, order])


def test_all_teachers_are_on_while_the_policy_waits() -> None:
    """A policy that judges teachers by a student that knows nothing yet, and is paid for choices it did not make."""
    policy, (step, _) = undecided(), drawn_step(3, epoch=1)
    value = term(policy, warmup_epochs=2).value(step)
    assert [float(step.notes[f"policy/chosen{k}"]) for k in range(3)] == [1.0, 1.0, 1.0]
    assert all(not gradient.any() for gradient in gradients(value, *policy.parameters()))
    late, _ = drawn_step(3, epoch=2)
    value = term(policy, warmup_epochs=2).value(late)
    assert any(gradient.any() for gradient in gradients(value, *policy.parameters()))
    assert min(float(late.notes[f"policy/chosen{k}"]) for k in range(3)) < 1


def test_draws_are_those_of_seed_and_step_alone() -> None:
    """Workers that learn from different teachers, or a step that is taken again with other ones."""
    policy = undecided()

    def shares(step: int, seed: int = 0) -> list[float]:
        given, _ = drawn_step(3, step)
        term(policy, seed=seed).value(given)
        return [float(given.notes[f"policy/chosen{k}"]) for k in range(3)]

    torch.manual_seed(1)
    first = [shares(0), shares(1), shares(0, seed=5)]
    torch.manual_seed(2)
    assert [shares(0), shares(1), shares(0, seed=5)] == first
    assert len({tuple(one) for one in first}) == 3


def test_usual_reward_counts_each_step_once_and_survives_a_resumption() -> None:
    """A step that ran out of memory and was taken again, which would be compared with itself; or a baseline that begins anew."""
    policy, reward = Policy(WIDTH), torch.tensor
    assert float(policy.before(reward(-4.0), 0)) == -4.0
    assert float(policy.before(reward(-4.0), 0)) == -4.0
    assert float(policy.before(reward(-2.0), 1)) == -4.0
    assert float(policy.before(reward(-2.0), 1)) == -4.0
    saved = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    resumed = Policy(WIDTH)
    resumed.load_state_dict(saved)
    for one in (policy, resumed):
        assert float(one.before(reward(-2.0), 1)) == -4.0
        assert float(one.before(reward(0.0), 2)) == pytest.approx(-3.8)
    assert float(policy.usual) == pytest.approx(0.9 * -3.8)


def test_policy_follows_a_student_that_becomes_narrower() -> None:
    """A policy that weighs units which are not there any more, or that cannot be resumed at the width it was saved at."""
    policy, units = undecided(), torch.tensor([5, 2, 9])
    before = policy.example.weight.detach().clone()
    assert term(policy).follow(StructureChange()) == {}
    [(name, kept)] = term(policy).follow(StructureChange(units=units)).items()
    assert dict(policy.named_parameters())[name] is policy.example.weight
    assert torch.equal(policy.example.weight, before[:, units])
    assert kept[1] is units
    resumed = Policy(WIDTH)
    resumed.load_state_dict(policy.state_dict())
    assert torch.equal(resumed.example.weight, policy.example.weight)


def test_term_asks_for_all_teachers() -> None:
    """Vectors of one teacher alone, and a policy with nothing to choose."""
    needs = term().teacher_needs
    assert needs is not None
    assert needs.others
    assert (needs | Needs(frozenset({1}))).others
