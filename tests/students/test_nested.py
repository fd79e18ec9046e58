from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError
from raydistill.models.biencoder import BiEncoder, Tower, normalized, pool_packed
from raydistill.models.features import Needs
from raydistill.models.loading import load_encoder
from raydistill.models.narrowable import NarrowableLinear
from raydistill.models.vocabulary import trim_embeddings
from raydistill.students.assistants import from_numbers
from raydistill.students.build import build_model
from raydistill.students.inner import (
    cut_off,
    first_layers,
    make_narrowable,
    parameters,
    put_most_important_first,
    train_first_units,
)
from raydistill.students.nested import Assistants
from raydistill.students.reshaping import Choosing, Standing

LENGTHS = (5, 9, 3)
TOWERS: tuple[Tower, Tower] = ("query", "entity")
Make = Callable[..., BiEncoder]


@pytest.fixture
def model(encoder_folder: Callable[..., Path]) -> Make:
    """A model of three layers with two unlike towers."""

    def make(kind: str = "bert", *, shared_towers: bool = False, pooling: str = "mean") -> BiEncoder:
        encoder = load_encoder(encoder_folder(kind))
        made = build_model(
            encoder,
            encoder,
            (0, 2, 3),
            shared_towers=shared_towers,
            pooling=pooling,  # type: ignore[arg-type]
            temperature=0.05,
            train_temperature=True,
            tokens_per_micro_batch=64,
            precision="fp32",
        )
        with torch.no_grad():
            for parameter in made.query_encoder.parameters():
                parameter.mul_(1.1)
        return made.eval()

    return make


def texts() -> Texts:
    lengths = torch.tensor(LENGTHS)
    tokens = torch.arange(5, 5 + int(lengths.sum()))
    return Texts(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool), lengths)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_model_that_stands_alone_gives_what_the_candidate_gave(model: Make, kind: str, pooling: str) -> None:
    """A candidate that is chosen for what another model can do."""
    whole, read = model(kind, pooling=pooling), texts()
    for depth in (1, 2):
        twin, alone = first_layers(whole, depth), model(kind, pooling=pooling)
        alone.load_state_dict(whole.state_dict())
        cut_off(alone, depth)
        for tower in TOWERS:
            seen = whole.encode(read, tower, Needs(frozenset({depth - 1})))
            candidate = normalized(pool_packed(seen.states[depth - 1], read, pooling))  # type: ignore[arg-type]
            vectors = alone.encode(read, tower).vectors
            torch.testing.assert_close(vectors, candidate, atol=1e-6, rtol=0)
            assert torch.equal(vectors, twin.encode(read, tower).vectors)
            assert not torch.allclose(vectors, whole.encode(read, tower).vectors, atol=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_candidates_are_nested_and_hold_no_parameters_of_their_own(model: Make, shared: bool) -> None:
    """Candidates that train apart, at the sum of their sizes; or whose making changes the student."""
    whole = model(shared_towers=shared)
    before = dict(whole.named_parameters())
    held = {depth: dict(first_layers(whole, depth).named_parameters()) for depth in (1, 2, 3)}
    for depth in (1, 2):
        assert set(held[depth]) < set(held[depth + 1])
        assert all(parameter is whole.get_parameter(name) for name, parameter in held[depth].items())
        twin = first_layers(whole, depth)
        assert (twin.num_layers, twin.shared_towers) == (depth, shared)
    assert first_layers(whole, 3) is whole
    assert dict(whole.named_parameters()).keys() == before.keys() == held[3].keys()
    assert whole.num_layers == 3


@pytest.mark.parametrize("shared", [False, True])
def test_parameters_are_those_of_a_model_of_that_depth(model: Make, shared: bool) -> None:
    """Sizes that count a vocabulary the trial has trimmed away, or a layer that is not there."""
    for depth in (1, 2, 3):
        alone = model(shared_towers=shared)
        cut_off(alone, depth)
        count = sum(one.numel() for one in alone.parameters())
        trimmed = model(shared_towers=shared)
        for encoder in {trimmed.query_encoder, trimmed.entity_encoder}:
            trim_embeddings(encoder, torch.arange(20))
        assert parameters(trimmed, depth) == count == parameters(model(shared_towers=shared), depth)
        embeddings = sum(one.numel() for name, one in alone.named_parameters() if ".embeddings." in name)
        assert parameters(trimmed, depth, embeddings=False) == count - embeddings


def assistants(student_layers: int, teacher: Standing | None = None, *, embeddings: bool = True) -> Assistants:
    return Assistants((1, 2, 3), student_layers, include_embeddings=embeddings, layer_map=(0, 2, 3), teacher=teacher)


def teacher_like(student: BiEncoder, mrr: float, layers: int = 4) -> Standing:
    whole = parameters(student, layers)
    return Standing(mrr, whole, whole - parameters(student, layers, embeddings=False))


@pytest.mark.parametrize(
    ("measured", "student_layers", "chosen"),
    [((0.59, 0.59, 0.591), 0, 1), ((0.58, 0.59, 0.591), 1, 2), ((0.1, 0.2, 0.59), 1, 3), ((0.9, 0.2, 0.5), 1, 3)],
)
def test_student_ends_as_the_best_candidate(
    model: Make, measured: tuple[float, ...], student_layers: int, chosen: int
) -> None:
    """A choice that is made too early, twice, or of another than the best."""
    student = model()
    one, teacher = assistants(student_layers), teacher_like(student, 0.6)
    assert isinstance(one, Choosing)
    found = dict(zip(one.variants(student), measured, strict=True))
    assert list(found) == ["layers1", "layers2", "layers3"]
    assert one.after_validation(student, found, False, lambda: teacher) is None
    assert (one.complete, student.num_layers) == (False, 3)
    answer = one.after_validation(student, found, True, lambda: teacher)
    assert answer is not None
    assert answer.variant == f"layers{chosen}"
    told = from_numbers({**answer.told, **{f"valid/{name}/mrr": value for name, value in found.items()}})
    assert told is not None
    assert [row.row for row in told[0]] == one.record()["candidates"]
    assert (one.complete, student.num_layers, one.variants(student)) == (True, chosen, {})
    assert len(student.query_encoder.encoder.layer) == len(student.entity_encoder.encoder.layer) == chosen  # type: ignore[union-attr, arg-type]
    record = one.record()
    assert (record["layers"], record["layer_map"]) == (chosen, [0, 2, 3][:chosen])
    assert [row["layers"] for row in record["candidates"]] == [1, 2, 3]
    assert record["teacher"] == {"parameters": teacher.parameters, "mrr": 0.6}
    assert one.after_validation(student, {}, True, lambda: teacher) is None


def test_restored_student_has_the_layers_that_were_chosen(model: Make) -> None:
    """A resumed trial that chooses again, or whose weights find no place."""
    student, twin = model(), model()
    one, other = assistants(0), assistants(0)
    other.restore(twin, one.record(), {})
    assert (other.complete, twin.num_layers) == (False, 3)
    one.after_validation(
        student, {"layers1": 0.1, "layers2": 0.5, "layers3": 0.5}, True, lambda: teacher_like(student, 0.6)
    )
    other.restore(twin, one.record(), {})
    assert (other.complete, twin.num_layers) == (True, student.num_layers)
    assert other.record() == one.record()


def test_size_without_embeddings_is_another_size(model: Make) -> None:
    """A setting that changes nothing."""
    student, scales = model(), []
    for embeddings in (True, False):
        one, twin = assistants(0, embeddings=embeddings), model()
        found = dict.fromkeys(one.variants(twin), 0.5)
        one.after_validation(twin, found, True, lambda: teacher_like(student, 0.6))
        scales.append(one.record()["candidates"][1]["scale"])
    layer = parameters(student, 2, embeddings=False) - parameters(student, 1, embeddings=False)
    whole = parameters(student, 4, embeddings=False)
    assert scales[1] == pytest.approx((whole - 2 * layer) / whole)
    assert scales[0] > scales[1]


def test_choice_that_cannot_be_made_is_refused_before_training(model: Make) -> None:
    """A training that fails when it is over."""
    student = model()
    assistants(1, teacher_like(student, 0.6)).prepare(student)
    with pytest.raises(CapabilityError, match="1 layers: not larger than the student; 2 layers: not smaller"):
        assistants(1, teacher_like(student, 0.6, layers=2)).prepare(student)


WIDTH = 12
"""Of intermediate units, of which the encoder has 32."""


def narrowable(student: BiEncoder) -> BiEncoder:
    put_most_important_first(student)
    make_narrowable(student)
    return student


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_narrower_candidate_computes_alike_in_training_in_validation_and_alone(
    model: Make, kind: str, shared: bool
) -> None:
    """A candidate that is trained as one model, chosen as another, and kept as a third."""
    student, read = narrowable(model(kind, shared_towers=shared)), texts()
    alone = narrowable(model(kind, shared_towers=shared))
    change = cut_off(alone, 2, WIDTH)
    assert parameters(student, 2, WIDTH) == sum(one.numel() for one in alone.parameters())
    twin = first_layers(student, 2, WIDTH)
    assert (twin.num_layers, twin.shared_towers) == (2, shared)
    train_first_units(student, WIDTH)
    for tower in TOWERS:
        # Dropout is 0 in these encoders, so training changes nothing but the units at work.
        expected = alone.encode(read, tower).vectors
        assert torch.equal(twin.encode(read, tower).vectors, expected)
        seen = student.train().encode(read, tower, Needs(frozenset({1}))).states[1]
        torch.testing.assert_close(normalized(pool_packed(seen, read, "mean")), expected, atol=1e-6, rtol=0)
        whole = student.eval().encode(read, tower, Needs(frozenset({1}))).states[1]
        assert not torch.allclose(normalized(pool_packed(whole, read, "mean")), expected, atol=1e-3)
    for name, kept in change.kept.items():
        assert torch.equal(alone.get_parameter(name), change.of(name, student.get_parameter(name)))
        assert any(places is not None for places in kept)
    assert not any(isinstance(module, NarrowableLinear) for module in alone.modules())
    assert {encoder.config.intermediate_size for encoder in (alone.query_encoder, alone.entity_encoder)} == {WIDTH}  # type: ignore[union-attr]
    assert student.query_encoder.config.intermediate_size == 32  # type: ignore[union-attr]


def test_order_by_importance_changes_no_output_and_puts_the_idle_unit_last(model: Make) -> None:
    """A student that begins as another than it was, or whose best unit goes first."""
    student, before, read = model(), model(), texts()
    with torch.no_grad():
        for one in (student, before):
            one.entity_encoder.encoder.layer[1].output.dense.weight[:, 5] = 0  # type: ignore[union-attr, index]
    put_most_important_first(student)
    for tower in TOWERS:
        expected = before.encode(read, tower).vectors
        torch.testing.assert_close(student.encode(read, tower).vectors, expected, atol=1e-5, rtol=0)
    into = student.entity_encoder.encoder.layer[1].intermediate.dense  # type: ignore[union-attr, index]
    out_of = student.entity_encoder.encoder.layer[1].output.dense  # type: ignore[union-attr, index]
    strengths = into.weight.norm(dim=1) * out_of.weight.norm(dim=0)
    assert strengths[-1] == 0
    assert bool((strengths.diff() <= 1e-6).all())


def test_step_of_a_narrow_turn_teaches_no_unit_that_is_left_out(model: Make) -> None:
    """Units that get a gradient from what another width is told. (An optimizer with momentum moves them all the same.)"""
    student, read = narrowable(model()), texts()
    train_first_units(student, WIDTH)
    for tower in TOWERS:
        student.train().encode(read, tower).vectors.sum().backward()
    for encoder in (student.query_encoder, student.entity_encoder):
        for layer in encoder.encoder.layer:  # type: ignore[union-attr]
            into, out_of = layer.intermediate.dense, layer.output.dense
            for gradient in (into.weight.grad, into.bias.grad, out_of.weight.grad.T):
                assert bool(gradient[:WIDTH].any())
                assert not gradient[WIDTH:].any()


def test_narrower_views_follow_the_student_as_it_learns(model: Make) -> None:
    """Candidates that are validated as they were once."""
    student, read = narrowable(model()), texts()
    twin = first_layers(student, 3, WIDTH)
    before = twin.encode(read, "query").vectors
    with torch.no_grad():
        student.query_encoder.encoder.layer[2].intermediate.dense.weight[:WIDTH] *= 3.0  # type: ignore[union-attr, index]
    assert not torch.allclose(twin.encode(read, "query").vectors, before, atol=1e-4)
    assert {id(one) for one in twin.parameters() if one.requires_grad} < {id(one) for one in student.parameters()}


def test_widths_take_turns_and_a_resumed_student_takes_the_next_one(model: Make) -> None:
    """A width that is never trained, or a turn that comes twice after an interruption."""
    student, turns = model(), []
    one = Assistants((2, 3), 0, intermediate=(24, WIDTH), layer_map=(0, 2, 3))
    one.prepare(student)
    linear = student.query_encoder.encoder.layer[0].output.dense  # type: ignore[union-attr, index]
    for step in range(5):
        turns.append(linear.units)
        assert one.after_step(student, step) is None
        if step == 1:
            record = one.record()
    assert turns == [None, 24, WIDTH, None, 24]
    twin, again = model(), Assistants((2, 3), 0, intermediate=(24, WIDTH), layer_map=(0, 2, 3))
    again.prepare(twin)
    assert again.restore(twin, record, {}) is None
    assert twin.query_encoder.encoder.layer[0].output.dense.units == WIDTH  # type: ignore[union-attr, index]
    assert list(one.variants(student)) == [
        f"layers{depth}{width}" for depth in (2, 3) for width in ("-intermediate12", "-intermediate24", "")
    ]


def test_student_ends_as_the_narrow_candidate_that_was_chosen_and_is_restored_as_it(model: Make) -> None:
    """Weights that find no place, or a choice of a depth without its width."""
    student, one = model(), Assistants((2, 3), 0, intermediate=(WIDTH,), layer_map=(0, 2, 3))
    one.prepare(student)
    measured = dict.fromkeys(one.variants(student), 0.1) | {"layers2-intermediate12": 0.59}
    answer = one.after_validation(student, measured, True, lambda: teacher_like(model(), 0.6))
    assert answer is not None
    assert answer.variant == "layers2-intermediate12"
    record = one.record()
    assert (record["layers"], record["chosen_intermediate"], record["layer_map"]) == (2, WIDTH, [0, 2])
    assert answer.told["student/intermediate"] == WIDTH
    twin, again = model(), Assistants((2, 3), 0, intermediate=(WIDTH,), layer_map=(0, 2, 3))
    again.prepare(twin)
    change = again.restore(twin, record, {})
    assert change is not None
    assert change.kept.keys() == answer.change.kept.keys()
    assert len(change.kept) == 2 * 2 * 3
    twin.load_state_dict(student.state_dict())
    assert again.record() == record
    for tower in TOWERS:
        assert torch.equal(twin.encode(texts(), tower).vectors, student.encode(texts(), tower).vectors)


def test_whole_width_that_was_chosen_leaves_the_parameters_that_were_trained(model: Make) -> None:
    """New parameters, of which an optimizer knows nothing; or layers that can still be narrowed."""
    student, one = model(), Assistants((2, 3), 0, intermediate=(WIDTH,), layer_map=(0, 2, 3))
    one.prepare(student)
    before = dict(student.named_parameters())
    measured = dict.fromkeys(one.variants(student), 0.1) | {"layers2": 0.59}
    answer = one.after_validation(student, measured, True, lambda: teacher_like(model(), 0.6))
    assert answer is not None
    assert (answer.variant, dict(answer.change.kept)) == ("layers2", {})
    assert "student/intermediate" not in answer.told
    assert all(parameter is before[name] for name, parameter in student.named_parameters())
    assert not any(isinstance(module, NarrowableLinear) for module in student.modules())
    assert one.after_step(student, 9) is None


def test_candidate_as_wide_as_the_student_is_refused(model: Make) -> None:
    """The whole student that competes with itself."""
    with pytest.raises(CapabilityError, match="candidates of 32 intermediate units in a student of 32"):
        Assistants((2, 3), 0, intermediate=(12, 32)).prepare(model())
