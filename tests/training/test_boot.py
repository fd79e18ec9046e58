"""BOOT from its configuration to its checkpoint: what is read by whom, and that no triple is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.batches import TripleBatch
from raydistill.data.synthetic import SyntheticSource
from raydistill.errors import CapabilityError
from raydistill.evaluation import encode
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder
from raydistill.models.conditioning import CONDITIONING
from raydistill.teachers.views import LiveTeacher
from raydistill.training import building
from raydistill.training.checkpoint import load_model
from raydistill.training.gather import World
from raydistill.training.methods.registry import assemble, reshaping
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.noise_path import NoisePath
from raydistill.training.outputs import StepOutputs
from raydistill.training.parts import TrialParts, build_parts
from raydistill.training.trainer import Trainer
from raydistill.training.trial import EpochReport

Make = Callable[..., TrialParts]
FACTOR = 1.3


class Sealed(Dataset):
    """A graph whose triples raise when touched, and that counts who tried."""

    reads = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("train", "valid", "test", "split"):
            type(self).reads += 1
            raise AssertionError(f"{name} was touched")
        return super().__getattribute__(name)


def first_batch(parts: TrialParts, step: int = 0) -> TripleBatch:
    batch = parts.trainer.builder.build(next(parts.trainer.source.batches(0)))
    return parts.trainer.corruption.timed(batch, step)


def outputs_of(parts: TrialParts, step: int = 0) -> StepOutputs:
    trainer = parts.trainer
    batch = trainer.builder.build(next(trainer.source.batches(0)))
    return trainer._outputs(trainer._prepared(batch, 0, step), trainer._student_pass(step, cached=False), step)


@pytest.mark.parametrize("source", ["triple-free", "text-free"])
def test_no_triple_is_read(config_of: Callable[..., TrialConfig], dataset: Dataset, source: str) -> None:
    """Labels, known answers or neighbours' names that come into a training said to be free of data.

    The graph that training is built from raises when any of its splits is touched, and has counted nothing after an epoch. Neighbours are on in the texts of
    evaluation, whose names come from triples: those of training must not have them. Loading, which checks the files, and validation, which
    ranks the validation triples to decide about promotion, read triples by nature, and come before and after.
    """
    method = {"name": "boot", "source": source, "score": 0.5}
    config = config_of("boot", data={"max_neighbors": 5}).model_copy(
        update={"method": type(config_of("boot").method).model_validate(method)}
    )
    parts = build_parts(config, World.alone())
    Sealed.reads = 0
    graph = Sealed(**{name: getattr(dataset, name) for name in Dataset.__dataclass_fields__})
    trainer = Trainer(
        parts.student,
        parts.trainer.teacher,
        parts.trainer.terms,
        building.source_of(config, graph),
        building.builder_of(config, graph, parts.assembler),
        parts.optimizer,
        building.corruption_of(config, parts.assembler.layout.mask_id),
        max_gradient_norm=1.0,
        seed=0,
        world=World.alone(),
        reshapers=parts.trainer.structure.reshapers,
    )
    assert len(list(trainer.run_epoch())) == trainer.source.steps_per_epoch == 3
    assert Sealed.reads == 0
    # What a trial is really built with is of the same kinds.
    assert type(parts.trainer.source) is type(trainer.source) is SyntheticSource
    assert type(parts.trainer.builder) is type(trainer.builder)
    assert len(parts.trainer.builder.truth) == 0
    assert not parts.trainer.builder.assembler.neighbor_count.any()
    assert isinstance(parts.trainer.teacher, LiveTeacher)
    assert len(trainer.builder.truth) == 0
    assert parts.assembler.neighbor_count.any()
    assert not trainer.builder.assembler.neighbor_count.any()
    with pytest.raises(AssertionError, match="train was touched"):
        building.source_of(config_of("kl"), graph)


def test_an_epoch_has_as_many_examples_as_one_of_triples(
    config_of: Callable[..., TrialConfig], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison in which one method has twice the steps of the others, because nobody told it how large the graph is."""

    def examples(name: str) -> int:
        return sum(len(triples) for triples in building.source_of(config_of(name), dataset).batches(0))

    assert examples("boot") == examples("kl") == 2 * len(dataset.train)
    assert examples("boot-random") == 20
    monkeypatch.setattr(Dataset, "recorded_counts", lambda graph: {"train": 0, "entities": graph.num_entities})
    assert examples("boot") == 4 * dataset.num_entities


def test_student_reads_whole_texts_twice_and_teacher_masked_ones_once(
    parts_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that reads what the student reads, one that is told times, or a model that is run for nobody."""
    parts, calls = parts_of("boot"), list[tuple[str, str, Any]]()
    original = BiEncoder.encode

    def encode(self: BiEncoder, texts: Any, tower: Any, *rest: Any) -> Any:
        calls.append(("student" if self is parts.student else "teacher", tower, texts))
        return original(self, texts, tower, *rest)

    monkeypatch.setattr(BiEncoder, "encode", encode)
    outputs_of(parts)
    assert [call[:2] for call in calls] == [
        (who, side) for who in ("student", "teacher") for side in ("query", "entity")
    ]
    batch, mask_id = first_batch(parts), parts.trainer.corruption.mask_id
    for (_, _, student), (_, _, teacher), whole in zip(
        calls[:2], calls[2:], (batch.queries, batch.candidates), strict=True
    ):
        count = len(whole) // 2
        assert torch.equal(student.tokens, whole.tokens)
        assert mask_id not in student.tokens.tolist()
        assert torch.equal(student.tokens[: len(student.tokens) // 2], student.tokens[len(student.tokens) // 2 :])
        assert len(teacher) == count
        later = student.times[count:]
        masked = (teacher.tokens == mask_id) & ~teacher.special
        assert torch.equal(torch.where(masked, 0, teacher.tokens), torch.where(masked, 0, whole.tokens[: len(masked)]))
        of_text = torch.zeros(count).index_add_(0, teacher.text_of_token, masked.float())
        ordinary = torch.zeros(count).index_add_(0, teacher.text_of_token, (~teacher.special).float())
        assert torch.equal(of_text, torch.round(ordinary.double() * later.double()).float())
        assert of_text.any()
    teacher_model = parts.trainer.teacher.model  # type: ignore[attr-defined]
    assert not [name for name, _ in teacher_model.named_modules() if name.endswith(CONDITIONING)]


def test_times_are_a_function_of_seed_and_step(parts_of: Make) -> None:
    """Two workers, or a resumed trial, that put a text at different times; a highest time that its own term does not know."""
    parts = parts_of("boot-random")
    batch = parts.trainer.builder.build(next(parts.trainer.source.batches(0)))
    path = NoisePath(0.9, 4, shared=False, seed=1, delta=0.3, at_end=0.4)
    drawn = [path.timed(batch, step).queries.times for step in range(200)]
    assert torch.equal(drawn[3], path.timed(batch, 3).queries.times)  # type: ignore[arg-type]
    assert not torch.equal(drawn[3], drawn[4])  # type: ignore[arg-type]
    times = torch.stack([one for one in drawn if one is not None])
    earlier, later = times.chunk(2, dim=1)
    assert bool((later > 0).all())
    assert torch.equal(earlier, (later - 0.3).clamp(min=0))
    at_end = later >= 0.9
    assert bool((later <= torch.tensor(0.9)).all())
    assert at_end.double().mean().item() == pytest.approx(0.4, abs=0.05)
    # The others are spread evenly over (0, 0.9): a third of them is taught at time 0.
    assert (earlier[~at_end] == 0).double().mean().item() == pytest.approx(1 / 3, abs=0.05)
    views = [path.of(path.timed(batch, step), 0, step)[0].masked for step in (3, 3, 4)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


@pytest.mark.parametrize("highest", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_highest_time_is_known_again(parts_of: Make, highest: float) -> None:
    """A number that a float32 tensor rounds to just below it: the boundary would hold nobody."""
    path = NoisePath(highest, 4, shared=False, delta=0.05, at_end=0.5)
    batch = parts_of("boot").trainer.builder.build(next(parts_of("boot").trainer.source.batches(0)))
    [found] = {
        float(time)
        for step in range(20)
        for time in path.timed(batch, step).queries.times  # type: ignore[union-attr]
        if time >= highest
    }
    assert found == pytest.approx(highest)


def test_terms_are_their_formulas(parts_of: Make) -> None:
    """Earlier vectors taken for later ones, a tower left out, or teacher vectors of other texts.

    Twin: one text at a time, with the formulas written out.
    """
    parts = parts_of("boot")
    terms = {term.name: term for term in parts.trainer.terms}
    assert terms.keys() == {"bootstrap", "boundary", "score"}
    with torch.no_grad():  # else the student does not listen to times yet
        for name, parameter in parts.student.named_parameters():
            if CONDITIONING in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    # A batch without a text at the highest time would say nothing about the boundary.
    step = next(
        step
        for step in range(50)
        if all(
            bool((side.times == 0.5).any())
            for side in (first_batch(parts, step).queries, first_batch(parts, step).candidates)
        )  # type: ignore[union-attr]
    )
    outputs = outputs_of(parts, step)
    batch, path, teacher = first_batch(parts, step), parts.trainer.corruption, parts.trainer.teacher
    boot = boundary = 0.0
    tables = []
    for tower, texts, view in zip(
        ("query", "entity"), (batch.queries, batch.candidates), path.of(batch, 0, step), strict=True
    ):
        count = len(texts) // 2
        values, ends, sides = [], [], []
        for number in range(count):
            one = texts.select(torch.tensor([number, count + number]))
            own = parts.student.encode(one, tower).vectors  # type: ignore[arg-type]
            theirs = teacher.encode(view.texts.select(torch.tensor([number])), tower, terms["score"].student_needs)  # type: ignore[arg-type]
            s, t = one.times  # type: ignore[misc]
            left = (s * torch.pi / 2).tan() / (t * torch.pi / 2).tan()
            target = own[1] + (1 - left) * (theirs.vectors[0] - own[1])
            values.append((own[0] - target).square().sum())
            if t == 0.5:
                ends.append((own[1] - theirs.vectors[0]).square().sum())
            sides.append((own[0], target / target.norm()))
        boot += torch.stack(values).mean().item()
        boundary += torch.stack(ends).mean().item()
        tables.append([torch.stack(column) for column in zip(*sides, strict=True)])
    assert terms["bootstrap"].value(outputs).item() == pytest.approx(boot, rel=1e-4)
    assert terms["boundary"].value(outputs).item() == pytest.approx(boundary, rel=1e-4)
    (own_queries, queries), (own_candidates, candidates) = tables
    p = (queries @ candidates.T * outputs.teacher_inverse_temperature).log_softmax(1)
    q = (own_queries @ own_candidates.T * outputs.inverse_temperature).log_softmax(1)
    assert terms["score"].value(outputs).item() == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-4)


def test_later_self_gets_no_gradient_from_bootstrapping(parts_of: Make) -> None:
    """A target that comes to meet the student."""
    parts = parts_of("boot")
    outputs = outputs_of(parts)
    vectors = outputs.clean.query_vectors, outputs.clean.candidate_vectors
    terms = {term.name: term for term in parts.trainer.terms}
    for name in ("bootstrap", "score"):
        for found in torch.autograd.grad(terms[name].value(outputs), vectors, retain_graph=True):
            earlier, later = found.chunk(2)
            assert earlier.abs().sum() > 0
            assert not later.any()


def test_checkpoint_is_the_student_at_time_zero(
    config_of: Callable[..., TrialConfig], train: Callable[..., list[EpochReport]], dataset: Dataset, tmp_path: Path
) -> None:
    """A stored model that is none of those that were trained, or that nobody can load, evaluate, or learn from."""
    config = config_of("boot", training={"learning_rate": 5e-3})
    [*_, last] = train(config, tmp_path / "first")
    assert last.checkpoint is not None
    model = load_model(last.checkpoint)
    assert not [name for name in model.state_dict() if CONDITIONING in name]
    parts = build_parts(config, World.alone())
    task = encode.link_prediction_task(dataset, "valid")
    metrics = encode.evaluate(model, parts.assembler, task).metrics
    assert metrics["valid/both/mrr"] == pytest.approx(last.metrics["valid/both/mrr"])
    taught = config_of("boot-random", layers=1, teacher=Path(last.checkpoint), init="teacher")
    assert train(taught, tmp_path / "second")[-1].finished


def test_terms_without_weight_are_left_out(trial_config: Callable[..., TrialConfig]) -> None:
    """A contrastive term, whose labels there are none of; or a divergence that nobody asked for."""
    shapes = Shapes(Shape(2, 16, 2), Shape(4, 16, 2))
    found = assemble(trial_config(method={"name": "boot"}), shapes)
    assert {term.name: term.weight for term in found} == {"bootstrap": 1.0, "boundary": 1.0, "score": 1.0}
    fewer = assemble(trial_config(method={"name": "boot", "boundary": 0.5, "score": 0}), shapes)
    assert {term.name: term.weight for term in fewer} == {"bootstrap": 1.0, "boundary": 0.5}
    assert {(term.on, term.teacher_on) for term in found} == {("clean", "corrupted")}


def test_models_that_cannot_be_compared_or_told_times_are_refused(trial_config: Callable[..., TrialConfig]) -> None:
    """Vectors of two spaces compared unit by unit; or a student that ignores times without a sign."""
    config = trial_config(method={"name": "boot"})
    with pytest.raises(CapabilityError, match="16 wide, its teacher 32") as caught:
        assemble(config, Shapes(Shape(2, 16, 2), Shape(4, 32, 2)))
    assert caught.value.remedy
    with pytest.raises(CapabilityError, match="cannot be had") as caught:
        reshaping(config, Shape(2, 16, 2, opens=False), 10)
    assert caught.value.remedy


@pytest.mark.slow
def test_student_of_random_texts_beats_one_that_learned_nothing(
    trial_config: Callable[..., TrialConfig],
    train: Callable[..., list[EpochReport]],
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    """Level 2: a training that is free of data, and of effect.

    A student with random weights learns from random tokens alone, and ranks the training triples, which its teacher knows and it has never seen, at least
    FACTOR times as high (MRR) as it did before.
    """
    shape = {"layers": 4, "training": {"epochs": 40, "learning_rate": 3e-3, "evaluate_every": 40}}
    taught = train(trial_config(**shape), tmp_path / "teacher")[-1].checkpoint
    assert taught is not None
    method = {"name": "boot", "source": "text-free", "examples": 1600, "score": 1.0}
    training = {
        "epochs": 6,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "evaluate_every": 6,
        "tokens_per_micro_batch": 4096,
    }
    config = trial_config(method=method, training=training, teacher=Path(taught))
    parts, task = build_parts(config, World.alone()), encode.link_prediction_task(dataset, "train")
    before = encode.evaluate(parts.student, parts.assembler, task).metrics["train/both/mrr"]
    after = train(config, tmp_path / "student")[-1].checkpoint
    assert after is not None
    mrr = {
        name: encode.evaluate(load_model(path), parts.assembler, task).metrics["train/both/mrr"]
        for name, path in (("teacher", taught), ("student", after))
    }
    assert mrr["student"] >= FACTOR * before
