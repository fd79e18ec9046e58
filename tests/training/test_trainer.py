from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raydistill.config.methods import METHOD_SECTIONS
from raydistill.config.trial import TrialConfig
from raydistill.data.batches import TripleBatch
from raydistill.errors import NonFiniteLossError, ShapeError
from raydistill.models.biencoder import BiEncoder
from raydistill.training.gather import World
from raydistill.training.parts import TrialParts, build_parts
from raydistill.training.randomness import mix
from raydistill.training.terms.features import MaskedFeatureTerm

Make = Callable[..., TrialParts]
Seen = list[tuple[str, str, list[int]]]
LIVE = {"training": {"remember_teacher": False}}
NOTED = {
    "mgsr": {"kept/mass", "kept/candidates", "kept/hinge"},
    "mgsr, drawn": {"kept/mass", "kept/candidates", "kept/hinge"},
    "amd": {"ce/layers1", "kl/layers1", "feature/layers1"},
    "amd, narrower": {"ce/layers1", "kl/layers1", "feature/layers1"},
    "reinforced": {"policy/reward", "policy/chosen0", "policy/chosen1"},
    "reinforced, warmed up": {"policy/reward", "policy/chosen0", "policy/chosen1"},
    "reinforced, structural": {"policy/reward", "policy/chosen0", "policy/chosen1", "policy/chosen2"},
}


def first_batch(parts: TrialParts) -> TripleBatch:
    return parts.trainer.builder.build(next(parts.trainer.source.batches(0)))


def gradients(value: Tensor, parts: TrialParts) -> list[Tensor]:
    found = torch.autograd.grad(
        value, parts.optimizer.parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return list(found)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrialParts], Seen]:
    """What student and teacher are given to read: (model, tower, token ids) in order."""

    def spy(parts: TrialParts) -> Seen:
        calls: Seen = []
        original = BiEncoder.encode

        def encode(self: BiEncoder, texts: Any, tower: Any, *rest: Any) -> Any:
            calls.append(("student" if self is parts.student else "teacher", tower, texts.tokens.tolist()))
            return original(self, texts, tower, *rest)

        monkeypatch.setattr(BiEncoder, "encode", encode)
        return calls

    return spy


@pytest.mark.parametrize("view", ["shared", "separate"])
def test_teacher_and_student_receive_identical_masked_ids(
    parts_of: Make, seen: Callable[[TrialParts], Seen], view: str
) -> None:
    """T1. A teacher that reads what its student is to guess: features of different texts are compared."""
    parts = parts_of("pmd", view=view, **LIVE)
    calls, mask_id = seen(parts), parts.trainer.corruption.mask_id
    batch = first_batch(parts)
    for step in (0, 1):
        calls.clear()
        parts.trainer.losses(batch, step)
        student, teacher = ([call[1:] for call in calls if call[0] == who] for who in ("student", "teacher"))
        assert student == teacher
        assert [tower for tower, _ in student] == ["query", "entity"] * (1 if view == "shared" else 2)
        masked = [mask_id in tokens for _, tokens in student]
        assert masked == ([True, True] if view == "shared" else [False, False, True, True])
        clean = {"query": batch.queries, "entity": batch.candidates}
        for tower, tokens in student:
            whole, given = clean[tower].tokens, torch.tensor(tokens)
            assert torch.equal(torch.where(given == mask_id, whole, given), whole)


def test_masks_differ_between_steps_and_epochs(parts_of: Make, seen: Callable[[TrialParts], Seen]) -> None:
    """One corrupted view for the whole training: what is masked is never learnt."""
    parts = parts_of("pmd", view="shared", **LIVE)
    calls, batch = seen(parts), first_batch(parts)
    for step in (0, 1, parts.steps_per_epoch):
        parts.trainer.losses(batch, step)
    views = {str(tokens) for who, tower, tokens in calls if (who, tower) == ("student", "query")}
    assert len(views) == 3


ALIKE: dict[str, dict[str, Any]] = {
    **{key: {} for key in ("pmd", "pmd-sum", "pmd-reference", "pmd-logits", "pmd+tinybert", "kl", "mse", "dkd")},
    **{key: {} for key in ("pkd", "pkd-last", "tinybert", "distilbert", "minilm", "mgsr", "mgsr, drawn", "reinforced")},
    "minilmv2": {"teacher_layer": None},
    "education": {"stages": 1},
}
"""Of METHODS, and what of them would keep a student from being its teacher: a layer lower down, fragments. Of amd's candidates one alone can be it (test_amd.py)."""


@pytest.mark.parametrize("view", ["shared", "separate"])
@pytest.mark.parametrize("name", ALIKE)
def test_student_equal_to_its_teacher_has_nothing_to_learn_from_it(
    config_of: Callable[..., TrialConfig], name: str, view: str
) -> None:
    """T3. Different texts, layers, masks or temperatures behind the two sides of a comparison."""
    alone = {"others": []} if name == "reinforced" else {}
    config = config_of(name, layers=4, init="teacher", view=view, mask_ratio=0.3, **LIVE, **alone)
    method = config.method.model_copy(update=ALIKE[name])
    parts = build_parts(config.model_copy(update={"method": method}), World.alone())
    parts.student.eval()
    teacher = parts.trainer.teacher
    with torch.no_grad():
        parts.student.log_inverse_temperature.copy_(teacher.model.log_inverse_temperature)  # type: ignore[attr-defined]
    values = parts.trainer.losses(first_batch(parts), 0)
    assert values.pop("ce") > 0.1
    assert values
    for term, value in values.items():
        assert value.item() == pytest.approx(0, abs=1e-9), term
        assert max(float(gradient.abs().max()) for gradient in gradients(value, parts)) < 1e-6, term


def test_patience_is_zero_where_mapped_layers_are_the_teachers(config_of: Callable[..., TrialConfig]) -> None:
    """Layers compared by another map than the one that is said: of three layers and four `skip` pairs the first two, which a student of the first three layers shares with its teacher."""
    parts = build_parts(config_of("pkd", layers=3, init="teacher", layer_map="first", **LIVE), World.alone())
    parts.student.eval()
    values = parts.trainer.losses(first_batch(parts), 0)
    assert values["patience"].item() == pytest.approx(0, abs=1e-9)
    assert values["kl"] > 1e-6


@pytest.mark.parametrize(("name", "changes"), [("minilm", {}), ("minilmv2", {"relation_heads": 4})])
def test_relations_of_a_wider_teacher_are_learned_without_parameters(
    config_of: Callable[..., TrialConfig], teacher_checkpoint: Callable[..., Path], name: str, changes: dict[str, Any]
) -> None:
    """A comparison that is assembled and then fails at its first step, or a projection that is trained and thrown away: a student of 12 units, a teacher of 24, 4 heads."""
    config = config_of(name, encoder={"width": 12, "heads": 4}, teacher=teacher_checkpoint(width=24, heads=4), **LIVE)
    method = config.method.model_copy(update=changes)
    parts = build_parts(config.model_copy(update={"method": method}), World.alone())
    teacher: Any = parts.trainer.teacher
    shapes = [(one.hidden_size, one.num_heads) for one in (parts.student, teacher.model)]
    assert shapes == [(12, 4), (24, 4)]
    own = {id(one) for one in parts.student.parameters()}
    assert {id(one) for one in parts.optimizer.parameters} <= own
    values = parts.trainer.losses(first_batch(parts), 0)
    values.pop("ce")
    assert len(values) == (2 if name == "minilm" else 3)
    for term, value in values.items():
        assert value.item() > 1e-4, term
        assert any(gradient.any() for gradient in gradients(value, parts)), term
    list(parts.trainer.run_epoch())
    assert all(math.isfinite(value) for value in parts.trainer.averages().values())


def test_score_term_ignores_the_margin(parts_of: Make) -> None:
    """T5. A margin on the student's side alone, as in the public code: the student is pushed away from its teacher's scores."""
    without, with_margin = (parts_of("pmd", contrastive={"margin": margin}, **LIVE) for margin in (0.0, 0.3))
    values = [parts.trainer.losses(first_batch(parts), 0) for parts in (without, with_margin)]
    assert torch.equal(values[0]["score"], values[1]["score"])
    assert torch.equal(values[0]["mgfd"], values[1]["mgfd"])
    assert values[1]["ce"] > values[0]["ce"] + 0.1


@pytest.mark.parametrize("name", ["pmd", "pmd-logits", "kl"])
def test_score_terms_ignore_entries_that_are_not_valid(parts_of: Make, name: str) -> None:
    """T5. Known answers that dilute the mean, or reach the gradient."""
    parts = parts_of(name, **LIVE)
    trainer, [_, term] = parts.trainer, [term for term in parts.trainer.terms if term.name in ("ce", "score", "kl")]
    batch = trainer.builder.build(trainer.source.triples)
    outputs = trainer._outputs(trainer._prepared(batch, 0, 0), trainer._student_pass(0, cached=False), 0)
    scores = outputs.clean.scores.detach().requires_grad_()
    outputs.clean.__dict__["scores"] = scores  # as if the towers had given them
    value = term.value(outputs)
    [gradient] = torch.autograd.grad(value, [scores])
    compared = torch.zeros_like(scores, dtype=torch.bool).index_put_((batch.rows,), batch.valid_rows, accumulate=True)
    assert (~compared).any()
    assert not gradient[~compared].any()
    assert gradient[compared].any()
    outputs.clean.__dict__["scores"] = scores.detach().masked_fill(~compared, 123.0)
    assert torch.equal(term.value(outputs), value)


def test_separate_view_keeps_contrastive_and_score_terms_clean(parts_of: Make) -> None:
    """A second view that costs a second pass and changes nothing, or a shared one that masks nothing."""
    values = {}
    for view, ratio in (("separate", 0.3), ("shared", 0.3), ("separate", 0.0)):
        parts = parts_of("pmd", view=view, mask_ratio=ratio, **LIVE)
        values[view, ratio] = parts.trainer.losses(first_batch(parts), 0)
    clean, separate, shared = values["separate", 0.0], values["separate", 0.3], values["shared", 0.3]
    assert clean.keys() == {"ce", "score"}
    for term in ("ce", "score"):
        assert torch.equal(separate[term], clean[term])
        assert abs(shared[term] - clean[term]) > 1e-4
    torch.testing.assert_close(separate["mgfd"], shared["mgfd"])


def test_every_method_is_tried(methods: dict[str, dict[str, Any]]) -> None:
    """A new method that no test ever takes a step of, because nobody has put it into the table of them."""
    assert {method["name"] for method in methods.values()} == METHOD_SECTIONS.keys()


def test_every_method_takes_finite_steps_that_change_the_student_alone(
    parts_of: Make, method: str, weights_of: Callable[..., dict[str, Tensor]]
) -> None:
    """A method that assembles and then divides by zero, trains its teacher, or trains nothing."""
    parts = parts_of(method)
    trainer = parts.trainer
    before = weights_of(parts.student)
    teacher = getattr(trainer.teacher, "live", trainer.teacher)
    taught = weights_of(teacher.model) if hasattr(teacher, "model") else {}
    assert list(trainer.run_epoch()) == list(range(1, parts.steps_per_epoch + 1))
    averages = trainer.averages()
    assert all(math.isfinite(value) for value in averages.values()), averages
    weighted = sum(term.weight_at(0) * averages[f"loss/{term.name}"] for term in trainer.terms)
    assert averages["loss"] == pytest.approx(weighted, rel=1e-5)
    noted = NOTED.get(method, set())
    assert {key for key in averages if "/" in key} - noted == {
        f"{kind}/{term.name}" for kind in ("loss", "gradient_norm") for term in trainer.terms
    }
    after = parts.student.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    # What closes a student that is not whole yet may be gone.
    before = {name: tensor for name, tensor in before.items() if name in after}
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    # A pruned student's is as narrow as the student, and learns as little.
    pooled = {name for name in before if "pooler" in name and before[name].shape == after[name].shape}
    assert not changed & pooled
    still = set(before) - changed - pooled
    # The bias of keys cancels in the softmax: no gradient but rounding reaches it.
    assert not [
        name for name in still if "position" not in name and "token_type" not in name and "key.bias" not in name
    ]
    assert all(torch.equal(tensor, teacher.model.state_dict()[name]) for name, tensor in taught.items())
    assert all(p.grad is None for p in getattr(teacher, "model", parts.student).parameters())


def test_loss_falls(parts_of: Make) -> None:
    """Steps that climb: a sign turned round somewhere between the formula and the optimizer."""
    parts = parts_of("pmd", training={"epochs": 15, "learning_rate": 5e-3})
    losses = []
    for _ in range(12):
        list(parts.trainer.run_epoch())
        losses.append(parts.trainer.averages()["loss"])
    assert losses[-1] < 0.75 * losses[0]


def test_reported_gradient_norms_are_those_of_each_term_alone(parts_of: Make) -> None:
    """Norms of the weighted or summed loss, by which weights would be chosen wrongly."""
    parts, twin = parts_of("pmd"), parts_of("pmd")
    torch.manual_seed(0)
    values = twin.trainer.losses(first_batch(twin), 0)
    list(parts.trainer.run_epoch())
    averages = parts.trainer.averages()
    for name, value in values.items():
        squares = sum(float(gradient.double().square().sum()) for gradient in gradients(value, twin))
        assert averages[f"gradient_norm/{name}"] == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_measuring_gradients_changes_no_result(parts_of: Make) -> None:
    """A measurement that consumes random numbers or leaves gradients behind."""
    measured, plain = (
        parts_of("pmd", training={"measure_gradients": flag}, encoder={"dropout": 0.1}) for flag in (True, False)
    )
    for parts in (measured, plain):
        list(parts.trainer.run_epoch())
    other = plain.student.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in measured.student.state_dict().items())
    assert not [key for key in plain.trainer.averages() if key.startswith("gradient_norm")]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_term_is_named_and_no_step_is_taken(
    parts_of: Make, weights_of: Callable[..., dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    """Every weight becomes NaN, or the user is told only that something did."""
    parts = parts_of("pmd")
    before = weights_of(parts.student)
    original = MaskedFeatureTerm.value
    monkeypatch.setattr(MaskedFeatureTerm, "value", lambda self, step: original(self, step) * bad)
    with pytest.raises(NonFiniteLossError, match=rf"mgfd became {bad} at epoch 1, step 0"):
        next(parts.trainer.run_epoch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.student.state_dict().items())
    assert parts.optimizer.tensors() == {}
    assert parts.trainer.global_step == 0


def test_non_finite_gradient_is_found_before_the_step(
    parts_of: Make, weights_of: Callable[..., dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss whose gradient is NaN destroys the model just as well."""
    parts = parts_of("pmd", training={"measure_gradients": False})
    before = weights_of(parts.student)
    original = MaskedFeatureTerm.value
    monkeypatch.setattr(MaskedFeatureTerm, "value", lambda self, step: (original(self, step) * 0).sqrt())
    with pytest.raises(NonFiniteLossError, match="gradient norm became nan"):
        next(parts.trainer.run_epoch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.student.state_dict().items())


def test_gradients_are_clipped_to_the_norm(parts_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One odd batch that throws the model away."""
    parts = parts_of("none", training={"max_gradient_norm": 0.25})
    norms = []
    monkeypatch.setattr(
        parts.optimizer,
        "step",
        lambda step, unless: norms.append(
            torch.stack([p.grad.norm() for p in parts.optimizer.parameters if p.grad is not None]).norm()
        ),
    )
    next(parts.trainer.run_epoch())
    assert norms[0] == pytest.approx(0.25, rel=1e-4)


def test_teacher_of_another_width_is_refused(parts_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """States that broadcast to a wrong but plausible number."""
    parts = parts_of("pmd", **LIVE)
    original = parts.trainer.teacher.encode

    def narrow(texts: Any, tower: Any, needs: Any) -> Any:
        output = original(texts, tower, needs)
        return type(output)(output.vectors, {layer: states[:, :1] for layer, states in output.states.items()})

    monkeypatch.setattr(parts.trainer.teacher, "encode", narrow)
    with pytest.raises(ShapeError, match="16 wide and teacher states 1"):
        next(parts.trainer.run_epoch())


def test_seeds_of_steps_and_workers_differ() -> None:
    """Two workers, or two steps, that drop the same units; 1 and 23 taken for 12 and 3."""
    seeds = {mix(seed, step, rank) for seed in range(5) for step in range(30) for rank in range(-1, 8)}
    assert len(seeds) == 5 * 30 * 9
    assert mix(1, 23) != mix(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)
