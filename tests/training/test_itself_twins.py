"""The twins of the terms of a student that teaches itself: one example, one text, one pair of tokens at a time, over two epochs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydistill.config.trial import TrialConfig
from raydistill.data.batches import TripleBatch
from raydistill.data.texts import Texts
from raydistill.kg.store import Dataset
from raydistill.kg.triples import with_inverses
from raydistill.models.biencoder import BiEncoder
from raydistill.teachers.views import NoTeacher
from raydistill.training.gather import World
from raydistill.training.outputs import StepOutputs
from raydistill.training.parts import TrialParts, build_parts
from raydistill.training.terms.itself import SelfTransportTerm
from raydistill.training.terms.states import projection

sys.path.insert(0, str(Path(__file__).parents[1]))
from naive import ROWS, check_equal, outputs_of

NEARLY = {"rtol": 1e-3, "gradient_rtol": 5e-3}
Known = dict[tuple[str, tuple[int, ...]], Tensor]


def step_of(parts: TrialParts, batch: TripleBatch, epoch: int) -> StepOutputs:
    """The first step of an epoch."""
    parts.trainer.progress.epoch = epoch
    return outputs_of(parts.trainer, batch, epoch, epoch)


def moved(student: nn.Module) -> None:
    """A student that learnt something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def keys_of(tower: str, texts: Texts) -> list[tuple[str, tuple[int, ...]]]:
    return [(tower, tuple(tokens.tolist())) for tokens in texts.tokens.split(texts.lengths.tolist())]


def seen_in(step: StepOutputs) -> Known:
    """What the student made of each text, as it is kept."""
    encoded, batch = step.clean, step.clean.batch
    pairs = [
        *zip(keys_of("query", batch.queries), encoded.query_vectors, strict=True),
        *zip(keys_of("entity", batch.candidates)[: batch.num_columns], encoded.candidate_vectors, strict=False),
    ]
    return {key: vector.detach().half().float() for key, vector in pairs}


def opinion(step: StepOutputs, known: Known, b: int) -> dict[int, Tensor]:
    """What the student thought of an example's candidates in the epoch before, of those that were seen."""
    batch = step.clean.batch
    query = known.get(keys_of("query", batch.queries)[int(batch.rows[b])])
    columns = keys_of("entity", batch.candidates)[: batch.num_columns]
    if query is None:
        return {}
    allowed = [c for c, key in enumerate(columns) if batch.valid_rows[b, c] and key in known]
    logits = [step.inverse_temperature.detach() * (query @ known[columns[c]]) for c in allowed]
    return dict(zip(allowed, torch.stack(logits).softmax(0), strict=True)) if allowed else {}


def naive_earlier_self(step: StepOutputs, known: Known) -> Tensor:
    """Half the mean over examples of whose candidates something was thought."""
    encoded, values = step.clean, []
    for b in range(len(encoded.batch)):
        earlier = opinion(step, known, b)
        if not earlier:
            continue
        query = encoded.query_vectors[encoded.batch.rows[b]]
        logits = torch.stack([step.inverse_temperature * (query @ encoded.candidate_vectors[c]) for c in earlier])
        log_q = logits - logits.exp().sum().log()
        values.append(torch.stack([p * (p.log() - log_q[i]) for i, p in enumerate(earlier.values())]).sum())
    return torch.stack(values).mean() / 2


@pytest.fixture
def examples(dataset: Dataset) -> Any:
    return with_inverses(dataset.train, dataset.num_relations)[ROWS]


def test_earlier_self_is_that_of_one_candidate_at_a_time(parts_of: Callable[..., TrialParts], examples: Any) -> None:
    """An opinion of this epoch or of another text, with a margin, with known answers, or of candidates that nobody had seen."""
    parts = parts_of("self-feature", contrastive={"self_negatives": True})
    [term] = [one for one in parts.trainer.terms if one.name == "earlier_self"]
    builder = parts.trainer.builder
    first = step_of(parts, builder.build(examples[:6]), 0)
    assert term.value(first) == 0
    known = seen_in(first)
    moved(parts.student)
    second = step_of(parts, builder.build(examples), 1)
    batch = second.clean.batch
    assert not batch.valid_rows.all()
    for tower, texts in (("query", batch.queries), ("entity", batch.candidates)):
        assert not set(keys_of(tower, texts)) <= known.keys()
    sides = second.clean.queries, second.clean.candidates
    leaves = [*(side.student.vectors for side in sides), second.inverse_temperature]
    check_equal(term.value(second), naive_earlier_self(second, known), leaves, **NEARLY)


def test_target_of_a_row_is_a_distribution_over_its_candidates(
    parts_of: Callable[..., TrialParts], examples: Any
) -> None:
    """Labels that are softened twice or by half, or with a share for a known other answer: read back from the gradient of both terms."""
    parts = parts_of("self-feature", contrastive={"margin": 0.0})
    terms = {one.name: one for one in parts.trainer.terms}
    batch = parts.trainer.builder.build(examples)
    assert len(set(batch.rows.tolist())) == len(batch)
    # Columns are not smoothed; without rivals they have no gradient that would be in the way.
    batch = replace(batch, valid_columns=torch.zeros_like(batch.valid_columns))
    first = step_of(parts, batch, 0)
    terms["earlier_self"].value(first)
    moved(parts.student)
    step = step_of(parts, batch, 1)
    loss = sum((terms[name].weight_at(1) * terms[name].value(step) for name in ("ce", "earlier_self")), torch.zeros(()))
    share = terms["earlier_self"].weight_at(1)
    assert share == 0.5
    k, scores = step.inverse_temperature.detach(), step.clean.scores
    [gradient] = torch.autograd.grad(loss, [scores])
    now = (k * scores.detach()[batch.rows]).masked_fill(~batch.valid_rows, float("-inf")).softmax(1)
    targets = now - gradient[batch.rows] * 2 * len(batch) / k
    expected = torch.zeros_like(targets)
    for b in range(len(batch)):
        for c, p in opinion(step, seen_in(first), b).items():
            expected[b, c] = share * p
        expected[b, batch.columns[b]] += 1 - share
    torch.testing.assert_close(targets, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(batch)), atol=1e-5, rtol=0)
    assert not batch.valid_rows.all()
    assert not targets[~batch.valid_rows].any()
    assert (targets.sort(1).values[:, -2] > 1e-3).any()


def naive_cost(x: list[Tensor], target: list[Tensor]) -> Tensor:
    """What it costs to carry the states x to the others: Sinkhorn's plan by its kernel, and all pairs by themselves."""
    middles = [torch.stack(states).mean(0) for states in (x, target)]
    sources = torch.stack([(one.detach() @ middles[1]).clamp(min=0) for one in x]).detach()
    sinks = torch.stack([(one @ middles[0].detach()).clamp(min=0) for one in target])
    rows, columns = (weights.nonzero().flatten().tolist() for weights in (sources, sinks))
    sources, sinks = sources[rows] / sources.sum(), sinks[columns] / sinks.sum()
    costs = torch.stack([torch.stack([(x[i] - target[j]).square().mean() for j in columns]) for i in rows])
    apart = costs.detach()
    kernel = (-apart / (0.05 * apart.flatten().sort().values[(apart.numel() - 1) // 2])).exp()
    right = torch.ones_like(sinks)
    for _ in range(50):
        left = sources / (kernel @ right)
        right = sinks / (kernel.T @ left)
    return (left[:, None] * kernel * right[None, :] * costs).sum()


def naive_transport(step: StepOutputs, groups: int | None, carried: nn.Linear | None) -> Tensor:
    """Mean over a tower's texts and shallow layers, summed over towers."""
    total = torch.zeros((), dtype=torch.float64)

    def grouped(state: Tensor) -> Tensor:
        if groups is None:
            return state
        size = len(state) // groups
        return torch.stack([state[size * g : size * (g + 1)].mean() for g in range(groups)])

    for side in (step.clean.queries, step.clean.candidates):
        states, costs = side.student.states, []
        for t, first in enumerate(side.texts.starts.tolist()):
            tokens = range(first, first + int(side.texts.lengths[t]))
            deep = [grouped(states[2][i].detach().double()) for i in tokens]
            for layer in (0, 1):
                shallow = [states[layer][i] if carried is None else carried(states[layer][i]) for i in tokens]
                costs.append(naive_cost([grouped(one.double()) for one in shallow], deep))
        total = total + torch.stack(costs).mean()
    return total


@pytest.mark.parametrize("groups", [None, 8])
@pytest.mark.parametrize("projected", [False, True], ids=["as they are", "projected"])
def test_transport_is_that_of_one_pair_of_tokens_at_a_time(
    parts_of: Callable[..., TrialParts], examples: Any, groups: int | None, projected: bool
) -> None:
    """Texts that are carried into each other, padding with a share, groups across channels, a projection of the wrong side."""
    parts = parts_of("self-feature", layers=3)
    [assembled] = [one for one in parts.trainer.terms if isinstance(one, SelfTransportTerm)]
    assert (assembled.shallow, assembled.deep) == ((0, 1), 2)
    step = step_of(parts, parts.trainer.builder.build(examples[[0, 3, 6]]), 0)
    carried = projection(16, 16) if projected else None
    fast = SelfTransportTerm(1.0, (0, 1), 2, groups, carried).value(step)
    sides = step.clean.queries, step.clean.candidates
    leaves = [side.student.states[layer] for side in sides for layer in (0, 1)]
    leaves += [] if carried is None else list(carried.parameters())
    check_equal(fast, naive_transport(step, groups, carried), leaves, **NEARLY)


@pytest.mark.parametrize(("smoothing", "epoch"), [(0.5, 0), (0.0, 0), (0.0, 1)])
def test_contrastive_part_is_that_of_no_method_where_nothing_is_smoothed(
    trial_config: Callable[..., TrialConfig], examples: Any, smoothing: float, epoch: int
) -> None:
    """Labels that are softened from the beginning on, or a term of weight 0 that moves the last bit."""
    found = []
    for method in ({"name": "self-feature", "smoothing": smoothing}, {"name": "none"}):
        parts = build_parts(trial_config(method=method), World.alone())
        step = step_of(parts, parts.trainer.builder.build(examples), epoch)
        contrastive = [one for one in parts.trainer.terms if not isinstance(one, SelfTransportTerm)]
        loss = torch.stack([one.weight_at(epoch) * one.value(step) for one in contrastive]).sum()
        trained = [one for one in parts.student.parameters() if one.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        found.append((loss, *gradients))
    assert found[0][0] > 0.1
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "init"), [("self-feature", "pretrained"), ("self-feature", "teacher"), ("kl", "teacher")]
)
def test_nobody_but_the_student_reads(
    parts_of: Callable[..., TrialParts], monkeypatch: pytest.MonkeyPatch, name: str, init: str
) -> None:
    """A teacher that is there for its layers alone, and reads every text of every epoch for nobody."""
    parts, readers = parts_of(name, init=init), []
    assert isinstance(parts.trainer.teacher, NoTeacher) == (init == "pretrained")
    original = BiEncoder.encode

    def encode(model: BiEncoder, *given: Any, **options: Any) -> Any:
        readers.append(model)
        return original(model, *given, **options)

    monkeypatch.setattr(BiEncoder, "encode", encode)
    for _ in range(2):
        list(parts.trainer.run_epoch())
    parts.validate(last=True)
    others = sum(model is not parts.student for model in readers)
    assert len(readers) - others >= 2 * 2 * parts.steps_per_epoch
    assert others == 0 if name == "self-feature" else others > 0
