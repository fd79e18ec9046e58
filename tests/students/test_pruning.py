from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError
from raydistill.models.biencoder import BiEncoder
from raydistill.models.features import EMBEDDINGS, QKV, Needs
from raydistill.models.masked_norm import MaskedLayerNorm
from raydistill.models.vocabulary import TrimmedEmbedding, trim_embeddings, whole_state
from raydistill.objectives import logits
from raydistill.students.keep_ratio import KeepSchedule
from raydistill.students.pruning import Pruning
from raydistill.students.reshaping import StructureChange
from raydistill.students.units import WIDTH, importance, most_important, parts_of

Make = Callable[..., Any]
EVERYTHING = Needs(frozenset({EMBEDDINGS, 0, 1, QKV(0), QKV(1)}))
TO = (12, 20)
"""The width and the intermediate units of the small one; 24 and 40 before."""
STUDENTS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"kind": "roberta"},
    "shared towers": {"shared": True},
    "first token": {"pooling": "cls"},
    "maximum": {"pooling": "max"},
}


def alone(tensor: Tensor) -> Tensor:
    return tensor.clone()


def backward(student: BiEncoder, texts: Texts, step: int) -> None:
    """A gradient for every trained weight: of cosines between the towers, and of states."""
    student.zero_grad()
    query, entity = (student.encode(texts, tower, EVERYTHING) for tower in ("query", "entity"))
    generator = torch.Generator().manual_seed(step)
    loss = (query.vectors * entity.vectors).sum()
    for output in (query, entity):
        for layer in (0, 1):
            states = output.states[layer]
            loss = loss + (states @ torch.randn(states.shape[1], generator=generator)).sin().mean()
    loss.backward()  # type: ignore[no-untyped-call]


def train(student: BiEncoder, pruning: Pruning, texts: Texts, steps: range) -> list[StructureChange | None]:
    """Steps of an optimizer that moves pruned weights, too, as one with moments does."""
    changes = []
    for step in steps:
        backward(student, texts, step)
        pruning.after_backward(student, step, alone)
        with torch.no_grad():
            for parameter in student.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad + 1e-3
        changes.append(pruning.after_step(student, step))
    return changes


def encoded(student: BiEncoder, texts: Texts) -> list[Any]:
    with torch.no_grad():
        return [student.encode(texts, tower, EVERYTHING) for tower in ("query", "entity")]


def masks_of(pruning: Pruning) -> dict[str, Tensor]:
    return {name.removeprefix("mask."): mask.clone() for name, mask in pruning.tensors().items()}


def test_kept_width_follows_the_cubic_of_the_paper() -> None:
    """The card's numbers, for 768 to 576 over 100 steps: a linear fall, or one that ends a unit too wide."""
    schedule = KeepSchedule(0, 100)
    assert [schedule.kept(768, 576, t) for t in (0, 10, 50, 99, 100, 1000)] == [768, 716, 600, 576, 576, 576]
    late = KeepSchedule.over(200, 0.25, 0.75)
    assert (late.first, late.last) == (50, 150)
    assert [late.kept(768, 576, t) for t in (0, 49, 50, 60, 100, 149, 150)] == [768, 768, 768, 716, 600, 576, 576]
    counts = [late.kept(64, 7, t) for t in range(200)]
    assert counts == sorted(counts, reverse=True)


def test_pruning_all_at_once_is_one_step() -> None:
    """A division by the length of nothing."""
    at_once = KeepSchedule.over(10, 0.2, 0.2)
    assert [at_once.kept(8, 4, t) for t in (0, 1, 2, 3)] == [8, 8, 4, 4]
    assert KeepSchedule.over(10, 0.0, 0.0).kept(8, 4, 0) == 4


@pytest.mark.parametrize("name", ["bert", "roberta", "shared towers"])
def test_every_parameter_has_its_units(student_of: Make, name: str) -> None:
    """A parameter that nobody knows stays wide, and the small model cannot be put together."""
    student = student_of(**STUDENTS[name])
    parts = {part.name: part for part in parts_of(student)}
    assert parts.keys() == {key for key, _ in student.named_parameters()} - {"log_inverse_temperature"}
    for key, part in parts.items():
        assert part.parameter is dict(student.named_parameters())[key]
        assert len(part.units) == part.parameter.ndim
        vocabularies = {"word_embeddings", "position_embeddings", "token_type_embeddings"} & set(key.split("."))
        assert (None in part.units) == bool(vocabularies)


def test_importance_is_the_sum_over_all_that_reads_or_writes_a_unit(student_of: Make, texts_of: Make) -> None:
    """A matrix left out, or rows taken for columns; a plain loop over weights is the twin."""
    student = student_of(num_hidden_layers=2)
    backward(student, texts_of(5, 3), 0)
    found, twin = importance(parts_of(student)), dict[tuple[str, int], float]()
    weights = dict(student.named_parameters())
    for part in parts_of(student):
        weight = weights[part.name]
        if weight.grad is None:
            assert "pooler" in part.name
            continue
        felt = (weight.detach() * weight.grad).abs()
        for place in (felt > 0).nonzero().tolist():
            for units, position in zip(part.units, place, strict=True):
                if units is not None:
                    twin[units, position] = twin.get((units, position), 0.0) + float(felt[tuple(place)])
    assert len(found) == 1 + 2 * 2 * 3
    for (units, position), value in twin.items():
        assert float(found[units][position]) == pytest.approx(value, rel=1e-3, abs=1e-7)


def test_most_important_units_stay_head_by_head() -> None:
    """A head that gives all its dimensions away, or a unit that comes back because it would matter now."""
    scores = torch.tensor([9.0, 8.0, 7.0, 1.0, 3.0, 2.0, 50.0, 0.5])
    there = torch.tensor([1, 1, 1, 1, 1, 1, 0, 1], dtype=torch.bool)
    assert most_important(scores, there, 4, 2).tolist() == [True, True, False, False, True, True, False, False]
    assert most_important(scores, there, 4, 1).tolist() == [True, True, True, False, True, False, False, False]
    assert most_important(torch.zeros(4), torch.ones(4, dtype=torch.bool), 2, 1).tolist() == [True, True, False, False]


@pytest.mark.parametrize("name", ["bert", "shared towers"])
def test_masks_are_monotone_and_as_large_as_scheduled(student_of: Make, texts_of: Make, name: str) -> None:
    """Units that come back with weights that were zeroed; heads of unequal width; more or fewer units than asked for."""
    student, texts = student_of(**STUDENTS[name]), texts_of(6, 5, 2)
    schedule = KeepSchedule(2, 12)
    pruning = Pruning(*TO, schedule)
    pruning.prepare(student)
    before = masks_of(pruning)
    for step in range(8):
        assert train(student, pruning, texts, range(step, step + 1)) == [None]
        masks = masks_of(pruning)
        for units, mask in masks.items():
            assert not bool((mask & ~before[units]).any())
            if units == WIDTH or units.endswith("intermediate"):
                whole, final = (24, 12) if units == WIDTH else (40, 20)
                assert int(mask.sum()) == schedule.kept(whole, final, step + 1)
            else:
                assert mask.view(3, 8).sum(1).tolist() == [schedule.kept(8, 4, step + 1)] * 3
        before = masks
    assert not pruning.complete


def before_compaction(pruning: Pruning, texts: Texts) -> list[Any]:
    """Filled, when the student is made small, with what the masked one makes of texts."""
    seen: list[Any] = []
    small = pruning._compact

    def look(student: BiEncoder) -> StructureChange:
        seen.extend(encoded(student, texts))
        return small(student)

    pruning._compact = look  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("name", STUDENTS)
def test_masked_student_is_the_compacted_one(student_of: Make, texts_of: Make, name: str) -> None:
    """Outputs that jump when units that were only zero are removed: LayerNorm that counted them, attention divided by another root, a column left behind."""
    student, texts = student_of(**STUDENTS[name]), texts_of(7, 7, 4, 1)
    trim_embeddings(student.query_encoder, torch.arange(50))
    pruning = Pruning(*TO, KeepSchedule(0, 4))
    pruning.prepare(student)
    masked = before_compaction(pruning, texts)
    *earlier, change = train(student, pruning, texts, range(3))
    assert earlier == [None] * 2
    assert change is not None
    assert change.units is not None
    assert pruning.complete
    for wide, narrow in zip(masked, encoded(student, texts), strict=True):
        torch.testing.assert_close(narrow.vectors, wide.vectors[:, change.units], atol=1e-5, rtol=0)
        gone = torch.ones(24, dtype=torch.bool).index_fill(0, change.units, False)
        assert not bool(wide.vectors[:, gone].any())
        for layer in (EMBEDDINGS, 0, 1):
            torch.testing.assert_close(narrow.states[layer], wide.states[layer][:, change.units], atol=1e-5, rtol=0)
        for layer in (QKV(0), QKV(1)):
            # Each model's own scores: products of its queries and keys by the root of its heads' dimensions.
            own, theirs = (
                torch.einsum("ihd,jhd->hij", *(one.states[layer][:, which].view(19, 3, -1) for which in (0, 1)))
                for one in (wide, narrow)
            )
            torch.testing.assert_close(theirs / math.sqrt(4), own / math.sqrt(8), atol=1e-4, rtol=1e-4)
    # And it is what the kind of encoder computes by itself, whose config says its new sizes.
    tokens = texts.tokens[:7][None]
    with torch.no_grad():
        states = student.query_encoder(input_ids=tokens, token_type_ids=texts.types[:7][None]).last_hidden_state
    torch.testing.assert_close(states[0], encoded(student, texts)[0].states[1][:7], atol=1e-5, rtol=0)


def test_norm_over_kept_units_is_the_norm_of_the_removed_ones_twin() -> None:
    """Values, and gradients of states and parameters: statistics over all units, or a gradient that reaches what is gone."""
    generator = torch.Generator().manual_seed(2)
    wide, mask = torch.nn.LayerNorm(8).double(), torch.tensor([1, 1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    for parameter in wide.parameters():
        parameter.data = torch.randn(8, generator=generator, dtype=torch.float64)
    narrow = torch.nn.LayerNorm(6).double()
    for name in ("weight", "bias"):
        getattr(narrow, name).data = getattr(wide, name).data[mask]
    masked = MaskedLayerNorm(wide)
    states = torch.randn(5, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.equal(masked(states), torch.nn.functional.layer_norm(states, (8,), wide.weight, wide.bias))
    masked.keep(mask)
    twin = states.detach()[:, mask].requires_grad_()
    out, expected = masked(states), narrow(twin)
    torch.testing.assert_close(out[:, mask], expected)
    ((out[:, mask] ** 3).sum() + out[:, ~mask].sum()).backward()
    (expected**3).sum().backward()
    for given, own in ((states, twin), (masked.weight, narrow.weight), (masked.bias, narrow.bias)):
        assert given.grad is not None
        torch.testing.assert_close(given.grad[..., mask], own.grad)
        assert not bool(given.grad[..., ~mask].any())


def test_zeroing_is_not_removing_under_an_ordinary_norm() -> None:
    """The card's pitfall, on unit-scale outputs, 6 of 8 kept: if this difference were small, nothing would need a norm of its own."""
    states = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([1, 1, 1, 0, 1, 1, 0, 1], dtype=torch.bool)
    zeroed = torch.nn.functional.layer_norm(states * mask, (8,))[:, mask]
    removed = torch.nn.functional.layer_norm(states[:, mask], (6,))
    assert 0.1 < float((zeroed - removed).abs().mean())


def test_pruned_weights_get_no_gradient(student_of: Make, texts_of: Make) -> None:
    """A norm of the gradient, by which all are clipped, that counts what is gone; moments that grow for it."""
    student, texts = student_of(), texts_of(7, 4)
    pruning = Pruning(*TO, KeepSchedule(0, 6))
    pruning.prepare(student)
    train(student, pruning, texts, range(3))
    backward(student, texts, 3)
    masks = masks_of(pruning)
    for part in parts_of(student):
        if part.parameter.grad is None:
            continue
        for dimension, units in enumerate(part.units):
            if units is not None:
                gone = (~masks[units]).nonzero().flatten()
                assert len(gone)
                assert not bool(part.parameter.detach().index_select(dimension, gone).any()), part.name
                assert not bool(part.parameter.grad.index_select(dimension, gone).any()), part.name


def test_final_shapes_are_exactly_those_asked_for(student_of: Make, texts_of: Make) -> None:
    """768 and 3072 to 576 and 2304, 12 heads of 48: a row too many, and transformers does not load it."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 2}
    student = student_of(shared=True, **sizes)
    pruning = Pruning(576, None, KeepSchedule(0, 1))
    pruning.prepare(student)
    assert pruning.intermediate == 2304
    [change] = train(student, pruning, texts_of(5), range(1))
    assert change is not None
    encoder: Any = student.query_encoder
    assert student.hidden_size == encoder.config.hidden_size == 576
    assert encoder.config.intermediate_size == 2304
    assert encoder.config.num_attention_heads == 12
    assert pruning.record() == {
        "width": 576,
        "intermediate": 2304,
        "units": {"width": 576, "queries": 576, "values": 576, "intermediate": 2304},
        "compacted": True,
    }
    expected = student_of(shared=True, **{**sizes, "hidden_size": 576, "intermediate_size": 2304})
    shapes = {name: tensor.shape for name, tensor in expected.state_dict().items()}
    assert {name: tensor.shape for name, tensor in student.state_dict().items()} == shapes
    facts = {name: (repr(module), getattr(module, "scaling", 0)) for name, module in expected.named_modules() if name}
    assert {name: (repr(module), getattr(module, "scaling", 0)) for name, module in student.named_modules() if name} == facts  # fmt: skip
    assert not any(parameter.requires_grad for parameter in encoder.pooler.parameters())


@pytest.mark.parametrize("unit", [0, 7, 23])
def test_planted_units_without_weight_go_first(student_of: Make, texts_of: Make, unit: int) -> None:
    """Scores that belong to other units than they are taken for."""
    student, texts = student_of(), texts_of(6, 4)
    planted = {WIDTH: unit, "query_encoder.1.intermediate": unit, "entity_encoder.0.queries": unit, "query_encoder.0.values": unit}  # fmt: skip
    with torch.no_grad():
        for part in parts_of(student):
            for dimension, units in enumerate(part.units):
                if units in planted:
                    part.parameter.index_fill_(dimension, torch.tensor([planted[units]]), 0.0)
    # So slowly that one unit of each goes in the first step.
    pruning = Pruning(21, 39, KeepSchedule(0, 1))
    pruning.prepare(student)
    backward(student, texts, 0)
    pruning.after_backward(student, 0, alone)
    for units, place in planted.items():
        gone = (~pruning._next[units]).nonzero().flatten().tolist()
        assert place in gone
        heads = 3 if units.endswith(("queries", "values")) else 1
        assert len(gone) == {WIDTH: 3, "query_encoder.1.intermediate": 1}.get(units, heads)


def test_trimmed_vocabulary_is_as_narrow_as_the_student(student_of: Make, texts_of: Make) -> None:
    """A checkpoint whose unused words are still wide."""
    student = student_of()
    kept = torch.arange(0, 50, 2)
    whole = student.query_encoder.embeddings.word_embeddings.weight.detach().clone()  # type: ignore[union-attr]
    for encoder in (student.query_encoder, student.entity_encoder):
        trim_embeddings(encoder, kept)
    texts = texts_of(6, 4)
    texts = texts.with_tokens(texts.tokens // 2 * 2)
    pruning = Pruning(*TO, KeepSchedule(0, 1))
    pruning.prepare(student)
    [change] = train(student, pruning, texts, range(1))
    assert change is not None
    assert change.units is not None
    table = student.query_encoder.embeddings.word_embeddings  # type: ignore[union-attr]
    assert isinstance(table, TrimmedEmbedding)
    stored = whole_state(student.query_encoder)["embeddings.word_embeddings.weight"]
    assert stored.shape == (50, 12)
    assert torch.equal(stored[1::2], whole[1::2][:, change.units])
    assert torch.equal(stored[::2], table.weight.detach())


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("name", ["bert", "shared towers"])
def test_restored_student_goes_on_with_the_same_bits(student_of: Make, texts_of: Make, name: str, steps: int) -> None:
    """A resumed trial that prunes other units, or whose student has another shape than its weights."""
    texts, made = texts_of(6, 4), []
    for _ in range(2):
        student, pruning = student_of(**STUDENTS[name]), Pruning(*TO, KeepSchedule(0, 4))
        pruning.prepare(student)
        made.append((student, pruning))
    (student, pruning), (other, fresh) = made
    train(student, pruning, texts, range(steps))
    change = fresh.restore(other, pruning.record(), pruning.tensors())
    assert (change is None) == (steps == 2)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), student.parameters(), strict=True):
            mine.copy_(theirs)
    assert fresh.record() == pruning.record()
    for one, two in ((student, pruning), (other, fresh)):
        train(one, two, texts, range(steps, 6))
    assert fresh.record() == pruning.record()
    for mine, theirs in zip(other.parameters(), student.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for units, mask in pruning.tensors().items():
        assert torch.equal(mask, fresh.tensors()[units])


@pytest.mark.parametrize(
    ("width", "intermediate", "match"),
    [(25, None, "pruned to 25 and"), (13, 20, "a multiple of 3 up to 24"), (27, 20, "to be pruned to 27"), (12, 41, "41")],
)  # fmt: skip
def test_sizes_that_cannot_be_had_are_refused(
    student_of: Make, width: int, intermediate: int | None, match: str
) -> None:
    """Heads of unequal width, or units out of nowhere, found out at the last step."""
    with pytest.raises(CapabilityError, match=match) as caught:
        Pruning(width, intermediate, KeepSchedule(0, 1)).prepare(student_of())
    assert caught.value.remedy


def test_student_of_final_size_is_complete_after_its_first_step(student_of: Make, texts_of: Make) -> None:
    """A trial that asks for the sizes its student has, and never ends."""
    student, texts = student_of(), texts_of(4)
    pruning = Pruning(24, 40, KeepSchedule(0, 5))
    pruning.prepare(student)
    [change] = train(student, pruning, texts, range(1))
    assert change is not None
    assert pruning.complete
    assert student.hidden_size == 24


def divergence(student: BiEncoder, teacher: BiEncoder, texts: tuple[Texts, Texts]) -> Tensor:
    """Of the distributions over candidates, at inverse temperature 20."""
    scores = [
        20 * model.encode(texts[0], "query").vectors @ model.encode(texts[1], "entity").vectors.T
        for model in (student, teacher)
    ]
    valid = torch.ones_like(scores[0], dtype=torch.bool)
    return logits.kl_divergence(scores[0], scores[1].detach(), valid, temperature=1.0).mean()


@pytest.mark.slow
def test_pruning_bit_by_bit_stays_nearer_to_the_teacher_than_at_once(student_of: Make, texts_of: Make) -> None:
    """The card's claim, at equal steps over three seeds: were it not so, a schedule would be no use, or would not be followed."""
    steps, means = 36, {}
    for end in (0.0, 0.7):
        found = []
        for seed in range(3):
            teacher, student = (student_of(initializer=0.2, seed=seed, intermediate_size=48) for _ in range(2))
            pruning = Pruning(18, 36, KeepSchedule.over(steps, 0.0, end))
            pruning.prepare(student)
            adamw = torch.optim.AdamW(student.parameters(), lr=1e-3)
            for step in range(steps):
                batch = texts_of(*[5] * 8, seed=100 * seed + step), texts_of(*[5] * 8, seed=9000 + 100 * seed + step)
                adamw.zero_grad()
                divergence(student, teacher, batch).backward()  # type: ignore[no-untyped-call]
                pruning.after_backward(student, step, alone)
                adamw.step()
                if pruning.after_step(student, step) is not None:
                    adamw = torch.optim.AdamW(student.parameters(), lr=1e-3)
            assert pruning.complete
            assert student.hidden_size == 18
            with torch.no_grad():
                for number in range(4):
                    unseen = texts_of(*[5] * 8, seed=5000 + number), texts_of(*[5] * 8, seed=6000 + number)
                    found.append(float(divergence(student, teacher, unseen)))
        means[end] = sum(found) / len(found)
    assert means[0.7] <= means[0.0]


def test_pruning_at_once_prunes_in_its_first_step(student_of: Make, texts_of: Make) -> None:
    """A student that is taken for small because the schedule says so, and that nobody has pruned."""
    student = student_of()
    pruning = Pruning(*TO, KeepSchedule.over(10, 0.0, 0.0))
    pruning.prepare(student)
    [change] = train(student, pruning, texts_of(4, 3), range(1))
    assert change is not None
    assert pruning.complete
    assert (student.hidden_size, len(change.units if change.units is not None else ())) == (12, 12)
