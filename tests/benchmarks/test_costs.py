"""What the benchmark reports is what was done: tokens, padding, parts, floors, and rows of tables."""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.benchmarks.epochs import EpochCost, epoch_cost
from raydistill.benchmarks.machine import floor_seconds, matrix_rate, operations_per_token, seconds_of
from raydistill.benchmarks.parts import MEASURED
from raydistill.benchmarks.profiles import kernel_kind, kind_of, profile_of
from raydistill.benchmarks.ranking import first_queries, peak_bytes, random_vectors, ranking_cost
from raydistill.benchmarks.suite import ROWS
from raydistill.benchmarks.tables import keep, table
from raydistill.benchmarks.texts import (
    agreement,
    assembling,
    beside_float32,
    encoding,
    preparing,
    synthetic_graph,
)
from raydistill.benchmarks.training import padding, step_cost
from raydistill.benchmarks.workload import drawn_triples, naive_trainer
from raydistill.config.trial import TrialConfig
from raydistill.errors import DataError
from raydistill.evaluation.encode import encode_entities, link_prediction_task
from raydistill.kg.prepare import prepare
from raydistill.kg.store import Dataset
from raydistill.kg.triples import with_inverses
from raydistill.teachers.shards import KeptTeachers
from raydistill.training.gather import World
from raydistill.training.parts import build_parts
from raydistill.training.trainer import Trainer

Make = Callable[..., TrialConfig]


def test_floor_counts_a_forward_pass_of_the_teacher_and_three_of_the_student(trial_config: Make) -> None:
    """A floor that leaves something out makes every step look better than it is."""
    student = build_parts(trial_config(method={"name": "none"}, layers=1), World.alone()).student
    config: Any = student.query_encoder.config
    by_hand = 2 * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
    assert operations_per_token(student) == by_hand
    assert floor_seconds(100, student, 1e6) == pytest.approx(3 * by_hand * 100 / 1e6)
    assert floor_seconds(100, student, 1e6, taught=50, teacher=student) == pytest.approx(3.5 * by_hand * 100 / 1e6)


def test_floor_of_encoding_counts_equal_texts_once(trial_config: Make) -> None:
    """What is not computed would count as arithmetic, and encoding seem faster than the machine."""
    trial = trial_config(method={"name": "none"}, layers=1)
    parts = build_parts(trial, World.alone())
    lengths = parts.assembler.entity_texts(np.arange(8)).lengths.tolist()
    # springfield_1 and springfield_2 have one text.
    tokens = sum(lengths) - lengths[7]
    found = encoding(trial, "fp32", 1, 100, 1e6)
    assert (found.count, lengths[6]) == (8, lengths[7])
    assert found.floor == pytest.approx(tokens * operations_per_token(parts.student) / 1e6)
    assert found.row["floor %"] == pytest.approx(100 * found.floor / found.seconds)


@pytest.mark.parametrize("kept", [False, True])
def test_costs_of_a_step_are_those_of_its_batches(
    trial_config: Make, teacher_checkpoint: Callable[..., Any], tmp_path: Path, kept: bool
) -> None:
    """Tokens of other batches, parts that add up to more than the whole, a teacher in the floor that did not run."""
    settings = {"batch_size": 4, "epochs": 2, "corruptions": 1 if kept else None}
    trial = trial_config(
        method={"name": "pmd"}, mask_ratio=0.2, view="shared", teacher=teacher_checkpoint("bert"), training=settings
    )
    cost = step_cost(trial, 1e9, 3, tmp_path / "kept")
    parts = build_parts(trial, World.alone())
    batches = [parts.trainer.builder.build(some) for epoch in (0, 1, 2) for some in parts.trainer.source.batches(epoch)]
    tokens = np.mean([int(one.queries.lengths.sum() + one.candidates.lengths.sum()) for one in batches[2:5]])
    assert cost.tokens == pytest.approx(tokens)
    # Medians of each part by itself, which need not be those of one step.
    assert sum(cost.parts.values()) <= 1.5
    assert all(cost.parts[name] > 0 for name in ("data", "forward", "backward", "optimizer"))
    layers = 3 * trial.layers + (0 if kept else parts.trainer.teacher.num_layers)
    assert cost.floor == pytest.approx(tokens * layers * operations_per_token(parts.student) / trial.layers / 1e9)
    assert 0 <= cost.padding < 1
    assert cost.row["examples/s"] == pytest.approx(cost.examples / cost.seconds)
    kept_teachers = KeptTeachers(tmp_path / "kept") if kept else None
    assert cost.loss == pytest.approx(
        float(np.mean(losses(build_parts(trial, World.alone(), kept=kept_teachers).trainer)[:5]))
    )


def test_floor_of_two_views_is_twice_that_of_one(trial_config: Make, teacher_checkpoint: Callable[..., Any]) -> None:
    """A step that reads every text twice, and seems to do half of what the machine can."""
    found = {
        view: step_cost(
            trial_config(
                method={"name": "pmd"},
                mask_ratio=0.2,
                view=view,
                teacher=teacher_checkpoint("bert"),
                training={"batch_size": 4, "epochs": 1, "remember_teacher": False},
            ),
            1e9,
            3,
        )
        for view in ("shared", "separate")
    }
    assert found["separate"].tokens == pytest.approx(2 * found["shared"].tokens)
    assert found["separate"].floor == pytest.approx(2 * found["shared"].floor)


def test_loss_of_a_step_does_not_tell_whether_the_teacher_was_kept(
    trial_config: Make, teacher_checkpoint: Callable[..., Any], tmp_path: Path
) -> None:
    """What is kept of other masks than the student sees, or of another teacher."""
    found = []
    for kept in (None, tmp_path / "kept"):
        training = {"batch_size": 4, "epochs": 2, "corruptions": 1, "remember_teacher": kept is not None}
        teacher = teacher_checkpoint("bert")
        trial = trial_config(method={"name": "pmd"}, mask_ratio=0.2, view="shared", teacher=teacher, training=training)
        found.append(step_cost(trial, 1e9, 3, kept))
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)
    assert found[0].floor > found[1].floor, "the first one's teacher reads along"


def losses(trainer: Trainer) -> list[float]:
    """Of the steps of two epochs."""
    return [trainer.averages()["loss"] for _ in range(2) for _ in trainer.run_epoch()]


def test_an_epoch_has_all_its_steps_one_validation_and_one_checkpoint(trial_config: Make, tmp_path: Path) -> None:
    """Shares of an epoch of as many steps as were taken to measure it; checkpoints that were not written."""
    trial = trial_config(method={"name": "none"}, training={"batch_size": 4})
    cost = epoch_cost(trial, 2, 2, tmp_path)
    parts = build_parts(trial, World.alone())
    assert cost.steps == parts.steps_per_epoch > 3
    assert list((tmp_path / f"layers{trial.layers}").glob("*/manifest.json"))
    assert min(cost.step, cost.validation, cost.checkpoint) > 0
    row = EpochCost(layers=3, steps=10, step=2.0, validation=4.0, checkpoint=1.0).row
    assert (row["steps s"], row["validation %"], row["checkpoint %"]) == (20.0, 16.0, 4.0)
    assert row["checkpoint % of a minute"] == pytest.approx(100 / 60)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::gelu_backward", "activation"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::_softmax_backward_data", "softmax"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::copy_", "copies"),
        ("aten::add_", "sums"),
        ("aten::addcmul_", "optimizer"),
        ("something", "other operations"),
    ],
)
def test_operations_are_known_by_their_kind(operation: str, kind: str) -> None:
    """A profile in which all is `other`, or an addition counts as a product because its name begins alike."""
    assert kind_of(operation) == kind


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_bias_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("triton_per_fused_add_native_layer_norm_0", "compiled layers"),
        ("_backward", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "attention"),
        ("void at::native::embedding_backward_feature_kernel<float>", "embedding"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor<float>>", "sums"),
        ("unheard_of", "other operations"),
    ],
)
def test_kernels_are_known_by_their_kind(kernel: str, kind: str) -> None:
    """What is compiled belongs to no operation: two thirds of a step as `other`, which says nothing of where a GPU's time goes."""
    assert kernel_kind(kernel) == kind


def test_profile_accounts_for_the_whole_step() -> None:
    """Shares that leave out what Python does, or count an operation in the one that called it as well."""
    left, right = torch.randn(1500, 1500), torch.randn(1500, 1500)
    profile = profile_of(lambda: (left @ right, time.sleep(0.05)), 3, torch.device("cpu"))
    found = profile.seconds
    twice = profile_of(lambda: (left @ right, left @ right), 2, torch.device("cpu"))
    # A step's, not those of all steps: `matmul`, and the `mm` that it calls.
    assert twice.operations == 2 * profile.operations >= 4
    assert profile.row["seconds"] == pytest.approx(sum(found.values()))
    alone = min(seconds_of(lambda: left @ right, 5))
    assert next(iter(found)) in ("matrix products", "Python, and waiting")
    assert 0.5 * alone < found["matrix products"]
    assert 0.05 <= found["Python, and waiting"] < 0.05 + found["matrix products"] + 0.5


def test_padding_is_counted_in_the_parts_that_are_encoded(trial_config: Make) -> None:
    """Padding of the whole batch, where texts of one length are encoded together."""
    parts = build_parts(trial_config(method={"name": "none"}), World.alone())
    batch = parts.trainer.builder.build(parts.trainer.source.triples[:5])
    assert padding(batch, parts.student) == 0.0
    parts.student.packs = False
    shapes: list[int] = []
    original = parts.student.query_encoder.forward

    def forward(*, input_ids: torch.Tensor, **rest: Any) -> Any:
        shapes.append(input_ids.numel())
        return original(input_ids=input_ids, **rest)

    parts.student.query_encoder.forward = parts.student.entity_encoder.forward = forward
    real = 0
    for texts, tower in ((batch.queries, "query"), (batch.candidates, "entity")):
        parts.student.encode(texts, tower)  # type: ignore[arg-type]
        real += int(texts.lengths.sum())
    assert padding(batch, parts.student) == pytest.approx(1 - real / sum(shapes))


def test_rate_of_the_machine_is_that_of_its_products() -> None:
    """Operations counted once too often: everything seems to reach half of the machine."""
    rate = matrix_rate(64, 128, "fp32", torch.device("cpu"))
    tokens, there, back = torch.randn(8192, 64), torch.randn(64, 128), torch.randn(128, 64)
    taken = min(seconds_of(lambda: (tokens @ there) @ back, 9))
    assert rate == pytest.approx(4 * 8192 * 64 * 128 / taken, rel=0.9)


def test_memory_is_looked_at_while_work_is_done() -> None:
    """A peak that nobody saw. The pages are new ones: what an allocator kept of earlier work would not add to the resident memory."""

    def work() -> None:
        with mmap.mmap(-1, 60_000_000) as pages:
            for _ in range(60):
                pages.write(bytes(1_000_000))
            time.sleep(0.05)

    assert 55e6 < peak_bytes(work) < 120e6
    assert torch.allclose(random_vectors(5, 0).norm(dim=1), torch.ones(5))


def test_bfloat16_is_held_against_float32(trial_config: Make) -> None:
    """One precision compared with itself."""
    found = beside_float32(trial_config(method={"name": "none"}, layers=1), 100)
    assert 0.99 < found["lowest cosine"] < 1.0 - 1e-7
    assert found["MRR fp32"] == pytest.approx(found["MRR bf16"], abs=0.2)
    assert found["MRR fp32"] > 0


def test_batches_of_a_small_graph_are_whole(dataset: Dataset) -> None:
    """A batch of 18 triples that counts as one of 64: the naive way seems three times as fast."""
    batches = drawn_triples(dataset, 64, 3)
    assert [len(one) for one in batches] == [64] * 3
    both = {tuple(row) for row in with_inverses(dataset.train, dataset.num_relations).tolist()}
    assert {triple for one in batches for triple in one} == both
    assert len(set(drawn_triples(dataset, 4, 2)[0] + drawn_triples(dataset, 4, 2)[1])) == 8, (
        "none comes twice before all came"
    )


@pytest.mark.parametrize("init", ["pretrained", "teacher"])
def test_naive_student_has_the_teacher_and_the_layers_of_ours(
    trial_config: Make,
    teacher_checkpoint: Callable[..., Any],
    dataset: Dataset,
    encoder_folder: Callable[..., Path],
    init: str,
) -> None:
    """A student of two layers under all of the encoder's, beside ours under a teacher of three."""
    trial = trial_config(
        method={"name": "pmd"}, mask_ratio=0.2, teacher=teacher_checkpoint("bert"), init=init, layers=1, layer_map=(1,)
    )
    naive = naive_trainer(dataset, encoder_folder("bert"), trial)
    ours = build_parts(trial, World.alone()).trainer
    assert len(naive.teacher.encoder.layer) == ours.teacher.num_layers
    for mine, theirs in zip(
        naive.student.encoder.layer.parameters(), ours.student.query_encoder.encoder.layer.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_ranking_costs_are_those_of_the_queries_asked(dataset: Dataset) -> None:
    """Known answers of other queries, strangers that are nobody's rivals, or memory that a ranking before has left."""
    task = link_prediction_task(dataset, "train")
    few = first_queries(task, 1000, 5)
    queries, entities = random_vectors(len(task.distinct_heads), 1), random_vectors(1000, 0)
    whole = replace(task, num_entities=1000).rank(queries, entities)
    ranks = few.rank(queries, entities)
    assert ranks.better.tolist() == whole.better[:5].tolist()
    assert ranks.rivals.tolist() == whole.rivals[:5].tolist()
    cost = ranking_cost(task, 1000, 5, 1, naive=True)
    assert (cost.entities, cost.queries) == (1000, 5)
    # One that ranked nothing would take none; two tiles of scores are 8 MB.
    assert 1e5 < cost.extra_bytes < 64e6
    assert cost.row["queries/s"] == pytest.approx(5 / cost.seconds)
    assert cost.row["times naive"] > 0


def test_made_up_graph_can_be_prepared(tmp_path: Path) -> None:
    """A benchmark that measures how fast a folder is refused."""
    source = synthetic_graph(tmp_path / "source", entities=50, triples=1000)
    dataset = prepare(source, tmp_path / "dataset")
    assert dataset.num_entities == 50
    assert len(dataset.train) > 900
    found = preparing(str(source), tmp_path)
    assert found.count == 50 + sum(len(split) for split in (dataset.train, dataset.valid, dataset.test))
    # What Python and Arrow take alone, and far less than of a large graph.
    assert found.peak_bytes is not None
    assert 30e6 < found.peak_bytes < 1e9
    assert {"seconds", "per second", "peak MB"} <= found.row.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "dataset"}


def test_preparing_what_cannot_be_prepared_is_refused(tmp_path: Path) -> None:
    """The seconds of a refusal, taken for those of a graph."""
    (tmp_path / "source").mkdir()
    with pytest.raises(DataError, match="could not be prepared"):
        preparing(str(tmp_path / "source"), tmp_path)


def test_every_part_has_its_rows() -> None:
    """A part that is offered and cannot be measured."""
    assert tuple(ROWS) == MEASURED


def test_missing_figures_are_dashes() -> None:
    """A row of a peer that knows fewer figures, its numbers under other headings."""
    found = table("x", [{"step": "a", "speed": 1234.5, "share": 0.5}, {"step": "b", "share": 7}])
    assert found.columns == ("step", "speed", "share")
    assert found.rows == (("a", "1,234", "0.5"), ("b", "–", "7"))


def test_parts_measured_before_are_kept(tmp_path: Path) -> None:
    """An hour of measurements lost by measuring one part again."""
    path = tmp_path / "benchmark.json"
    for rows in ([{"a": 1}], [{"a": 2}]):
        keep("steps", rows, path)
        keep("texts", [{"b": 3}], path)
    assert json.loads(path.read_text()) == {"steps": [{"a": 2}], "texts": [{"b": 3}]}


def test_agreement_is_that_of_the_text_that_agrees_least(trial_config: Make) -> None:
    """A mean that hides one text which is read otherwise."""
    trial = trial_config(method={"name": "none"}, layers=1)
    parts = build_parts(trial, World.alone())
    vectors = encode_entities(parts.student.eval(), parts.assembler, 8)
    assert agreement(trial, "fp32", vectors) == pytest.approx(1.0, abs=1e-6)
    vectors[3] = -vectors[3]
    assert agreement(trial, "fp32", vectors) == pytest.approx(-1.0, abs=1e-6)


def test_batches_of_a_small_graph_are_put_together_epoch_after_epoch(trial_config: Make) -> None:
    """A traceback where an epoch has fewer steps than are measured."""
    trial = trial_config(method={"name": "none"}, layers=1, training={"batch_size": 18})
    assert assembling(trial, 5).seconds > 0
