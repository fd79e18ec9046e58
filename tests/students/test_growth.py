"""A growing student by itself: what it is made of before, at and after growth, and what follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder
from raydistill.models.features import Needs
from raydistill.models.loading import load_encoder, load_tokenizer
from raydistill.students.build import build_model
from raydistill.students.growth import Grower, TeachingReference
from raydistill.students.reshaping import StructureChange
from raydistill.training.optimizer import Optimizer

LAYERS, STEPS = (2, 3, 4), (0, 3, 5)
Make = Callable[..., BiEncoder]


@pytest.fixture
def whole(encoder_folder: Callable[..., Path]) -> Make:
    """A student of four layers, built anew; its towers differ unless they are one."""

    def make(*, shared: bool = False) -> BiEncoder:
        source = load_encoder(encoder_folder("bert"))
        model = build_model(
            source,
            source,
            (0, 1, 2, 3),
            shared_towers=shared,
            pooling="mean",
            temperature=0.05,
            train_temperature=True,
            tokens_per_micro_batch=1024,
            precision="fp32",
        )
        if not shared:
            for parameter in model.entity_encoder.parameters():
                parameter.data *= 1.1
        return model

    return make


@pytest.fixture
def texts(encoder_folder: Callable[..., Path], dataset: Dataset, assembler_of: Callable[..., TextAssembler]) -> Texts:
    """Queries of different lengths."""
    assembler = assembler_of(load_tokenizer(encoder_folder("bert")), dataset, max_tokens=40)
    return assembler.query_texts(np.array([2, 0, 5, 1]), np.array([0, 1, 2, 3]))


def prepared(student: BiEncoder) -> Grower:
    grower = Grower(LAYERS, STEPS)
    grower.prepare(student)
    return grower


def state_of(student: BiEncoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def train(student: BiEncoder, grower: Grower, optimizer: Optimizer, texts: Texts, steps: range) -> Iterator[int]:
    """Steps towards nothing in particular, that reach every parameter there is; yields those after which the student had grown."""
    for step in steps:
        for tower in ("query", "entity"):
            vectors = student.encode(texts, tower).vectors  # type: ignore[arg-type]
            (vectors[:, 0].sum() * student.inverse_temperature).backward()  # type: ignore[no-untyped-call]
        optimizer.step(step)
        change = grower.after_step(student, step)
        if change is not None:
            optimizer.follow(change)
            yield step


def optimizer_of(student: BiEncoder) -> Optimizer:
    return Optimizer(student, learning_rate=1e-2, weight_decay=0.1, warmup_steps=0, total_steps=100)


def test_first_stage_is_the_first_layers_and_a_block(whole: Make) -> None:
    """A first stage of other layers, or one that cannot be graded because nothing stands for the missing ones."""
    student, plain = whole(), whole().state_dict()
    grower = prepared(student)
    assert student.num_layers == student.entity_encoder.config.num_hidden_layers == 2  # type: ignore[union-attr]
    state = student.state_dict()
    blocks = {name for name in state if name.startswith("tops.")}
    assert {name.split(".")[1] for name in blocks} == {"query", "entity"}
    assert state.keys() - blocks == {name for name in plain if ".layer.2." not in name and ".layer.3." not in name}
    assert all(torch.equal(state[name], plain[name]) for name in state.keys() - blocks)
    assert not any("top" in name for name in student.query_encoder.state_dict())
    assert not grower.complete


@pytest.mark.parametrize("shared", [False, True], ids=["two towers", "shared"])
def test_growth_leaves_old_layers_and_their_moments_bit_identical(whole: Make, texts: Texts, shared: bool) -> None:
    """Layers that forget what they learned, or go on without their moments: a jump in the loss at every growth, and its cause nowhere to be seen."""
    student, plain = whole(shared=shared).train(), whole(shared=shared).state_dict()
    grower = prepared(student)
    optimizer, change = optimizer_of(student), grower.after_step
    state, moments = dict[str, Tensor](), dict[str, Tensor]()

    def caught(model: BiEncoder, step: int) -> StructureChange | None:
        """What was there just before."""
        nonlocal state, moments
        state, moments = state_of(model), optimizer.tensors()
        return change(model, step)

    grower.after_step = caught  # type: ignore[method-assign]
    for stage, step in enumerate(train(student, grower, optimizer, texts, range(8)), start=1):
        assert step == STEPS[stage] - 1
        after, kept = student.state_dict(), optimizer.tensors()
        old = {name for name in state if not name.startswith("tops.")}
        assert old <= after.keys()
        assert all(torch.equal(after[name], state[name]) for name in old)
        begun = {name for name in after if f".layer.{LAYERS[stage] - 1}." in name}
        assert begun == after.keys() - state.keys() - {name for name in after if name.startswith("tops.")}
        assert all(torch.equal(after[name], plain[name]) for name in begun)
        assert kept.keys() == {name for name in moments if ".tops." not in name} != set()
        assert all(torch.equal(kept[name], moments[name]) for name in kept)
        assert {id(one) for one in optimizer.parameters} == {id(p) for p in student.parameters() if p.requires_grad}


def test_new_block_begins_anew(whole: Make, texts: Texts) -> None:
    """A block that goes on with the weights, or the moments, of the one before: it stood for other layers."""
    student = whole().train()
    grower = prepared(student)
    optimizer = optimizer_of(student)
    first = student.tops["query"][0]  # type: ignore[index]
    assert list(train(student, grower, optimizer, texts, range(3))) == [2]
    second = student.tops["query"][0]  # type: ignore[index]
    assert second is not first
    assert not torch.equal(first.linear.weight, torch.eye(16))
    assert torch.equal(second.linear.weight, torch.eye(16))
    assert not [name for name in optimizer.tensors() if ".tops." in name]
    list(train(student, grower, optimizer, texts, range(3, 4)))
    assert all(float(value) == 1 for name, value in optimizer.tensors().items() if name.startswith("step.tops."))


@pytest.mark.parametrize("shared", [False, True], ids=["two towers", "shared"])
def test_whole_student_is_a_plain_one(whole: Make, texts: Texts, shared: bool) -> None:
    """A block left behind: keys that no loader knows, and vectors that the checkpoint does not give again."""
    student, plain = whole(shared=shared), whole(shared=shared)
    grower = prepared(student)
    for step in range(6):
        grower.after_step(student, step)
        assert grower.complete == (step >= 5)
    assert student.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in student.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert student.num_layers == 4
    for tower in ("query", "entity"):
        vectors = [model.eval().encode(texts, tower).vectors for model in (student, plain)]  # type: ignore[arg-type]
        assert torch.equal(*vectors)


def test_one_stage_is_no_growth(whole: Make) -> None:
    """A block over a student that is whole."""
    student = whole()
    grower = Grower((4,), (0,))
    grower.prepare(student)
    assert student.state_dict().keys() == whole().state_dict().keys()
    assert grower.after_step(student, 0) is None
    assert grower.complete


def test_shared_towers_have_one_block(whole: Make) -> None:
    """Two blocks over one encoder: its checkpoint would have room for one of its two opinions."""
    student = whole(shared=True)
    grower = prepared(student)
    assert student.tops["query"] is student.tops["entity"]
    assert {name.split(".")[0] for name in grower.tensors()} == {"query"}


def test_block_begins_as_the_identity_of_normalised_states() -> None:
    """A block that has to unlearn chance before it can stand for anything; or that draws numbers which others would have had."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    block = TeachingReference(16)
    assert torch.equal(torch.get_rng_state(), before)
    states = torch.randn(7, 16)
    torch.testing.assert_close(block(states), torch.nn.functional.layer_norm(states, (16,)))


def test_block_is_passed_in_both_ways_of_encoding(whole: Make, texts: Texts) -> None:
    """A block that only texts laid end to end go through, one after the states that terms see, or one of the other tower."""
    student = whole().eval()
    prepared(student)
    for tower, factor in (("query", 0.3), ("entity", -0.7)):
        torch.nn.init.normal_(student.tops[tower][0].linear.weight, factor)  # type: ignore[index]
    needs = Needs(frozenset({1}))
    for tower in ("query", "entity"):
        student.packs = True
        packed = student.encode(texts, tower, needs)  # type: ignore[arg-type]
        student.packs = False
        padded = student.encode(texts, tower, needs)  # type: ignore[arg-type]
        torch.testing.assert_close(packed.vectors, padded.vectors, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(packed.states[1], padded.states[1], atol=1e-5, rtol=1e-5)
        block = student.tops[tower]
        for number, part in enumerate(packed.states[1].split(texts.lengths.tolist())):
            mean = block(part).mean(0)
            torch.testing.assert_close(packed.vectors[number], mean / mean.norm(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 6])
def test_restored_student_is_the_one_that_was_left(whole: Make, texts: Texts, steps: int) -> None:
    """Layers that wait are those of the first beginning: a student that begins as its teacher, and finds another one when it goes on, has others."""
    student = whole().train()
    grower = prepared(student)
    list(train(student, grower, optimizer_of(student), texts, range(steps)))
    other = whole().train()
    for parameter in other.parameters():
        parameter.data += 1
    again = prepared(other)
    again.restore(other, grower.record(), grower.tensors())
    assert (again.complete, again.stage, again.record()) == (grower.complete, grower.stage, grower.record())
    assert other.state_dict().keys() == student.state_dict().keys()
    other.load_state_dict({name: tensor for name, tensor in state_of(student).items() if "tops" not in name}, False)
    for step in range(steps, 6):
        for one, reshaper in ((student, grower), (other, again)):
            reshaper.after_step(one, step)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in student.state_dict().items())
    assert student.num_layers == other.num_layers == 4


def test_what_a_checkpoint_keeps_stands_by_itself(whole: Make) -> None:
    """Tensors that share memory with the student: safetensors refuses them, and a later step would change them."""
    student = whole()
    kept = prepared(student).tensors()
    own = {tensor.data_ptr() for tensor in student.state_dict().values()}
    assert kept
    assert all(tensor.is_contiguous() and tensor.data_ptr() not in own for tensor in kept.values())
    assert {name.split(".")[2] for name in kept if ".layer." in name} == {"2", "3"}
