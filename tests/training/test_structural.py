"""Structural models: trained, on disk, and as teachers of a trial."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError, CheckpointError, ConfigError, NonFiniteLossError, TeacherError
from raydistill.kg.store import Dataset
from raydistill.kg.triples import with_inverses
from raydistill.teachers.several import SeveralTeachers
from raydistill.teachers.shards import KEPT
from raydistill.teachers.structural import StructuralModel, StructuralTeacher
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.evaluate import evaluate_checkpoint
from raydistill.training.gather import World
from raydistill.training.ground import checked_encoder, checked_others, checked_teacher
from raydistill.training.manifest import verify_checkpoint, write_manifest
from raydistill.training.outputs import StepOutputs
from raydistill.training.parts import build_parts
from raydistill.training.structural.folder import load_structural, save_structural
from raydistill.training.structural.learning import QueryBatch, StructuralSettings, structural_loss, train_structural
from raydistill.training.structural.making import make_structural
from raydistill.training.terms.selecting import SelectedTeachersTerm
from raydistill.training.trial import EpochReport

Config = Callable[..., TrialConfig]
Train = Callable[..., list[EpochReport]]
SMALL = StructuralSettings(dimension=8, epochs=40, batch_size=5, learning_rate=0.05)


def reference(path: Path) -> TeacherReference:
    return TeacherReference(path=str(path), digest=verify_checkpoint(path))


@pytest.mark.parametrize("interaction", ["complex", "distmult"])
def test_training_learns_the_graph(dataset: Dataset, interaction: Any) -> None:
    """Tables that were never trained; answers of one query under another's head; inverse relations that nobody asked about."""
    model = train_structural(dataset, replace(SMALL, interaction=interaction))
    for head, relation, _ in with_inverses(dataset.train, dataset.num_relations).tolist():
        known = {t for h, r, t in with_inverses(dataset.train, 4).tolist() if (h, r) == (head, relation)}
        scores = model.query_vectors(torch.tensor([head]), torch.tensor([relation])) @ model.entities.T
        assert set(scores[0].topk(len(known)).indices.tolist()) == known


def test_loss_by_hand() -> None:
    """A target that several answers share counted once for each of them; a norm of other rows than the step's."""
    entities, relations = torch.tensor([[2.0], [1.0], [0.0]]), torch.tensor([[1.0], [-3.0]])
    rows, answers = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    batch = QueryBatch(torch.tensor([0, 1]), torch.tensor([0, 1]), rows, answers)
    # Scores are 4, 2, 0 and -6, -3, 0; targets are one half each of the first two, and the last.
    wanted = (torch.tensor([4.0, 2, 0]).logsumexp(0) - 3 + torch.tensor([-6.0, -3, 0]).logsumexp(0)) / 2
    torch.testing.assert_close(structural_loss("distmult", entities, relations, batch, 0.0), wanted)
    # Cubes: heads 8 and 1, relations 1 and 27, answers 8, 1 and 0.
    value = structural_loss("distmult", entities, relations, batch, 0.5)
    torch.testing.assert_close(value, wanted + 0.5 * (4.5 + 14 + 3))
    squares = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    alone = QueryBatch(*(torch.tensor([0]) for _ in range(4)))
    # Of a complex number the absolute value is meant: 125, not 27 + 64.
    torch.testing.assert_close(structural_loss("complex", *squares, alone, 1.0), torch.tensor(125.0 + 1 + 125))


def test_loss_is_that_of_pykeen(dataset: Dataset) -> None:
    """A teacher under the name of a published way to train it that is trained in another one."""
    losses = pytest.importorskip("pykeen.losses")
    draw = torch.Generator().manual_seed(1)
    entities, relations = (torch.randn(rows, 4, generator=draw) for rows in (8, 8))
    heads, kinds, tails = torch.from_numpy(with_inverses(dataset.train, 4)).long().unbind(1)
    keys, rows = torch.unique(heads * 8 + kinds, return_inverse=True)
    batch = QueryBatch(keys // 8, keys % 8, rows, tails)
    scores = StructuralModel("complex", entities, relations).query_vectors(batch.heads, batch.relations) @ entities.T
    labels = torch.zeros(len(keys), 8)
    labels[rows, tails] = 1
    theirs = losses.CrossEntropyLoss().process_lcwa_scores(scores, labels)
    torch.testing.assert_close(structural_loss("complex", entities, relations, batch, 0.0), theirs)


def test_equal_settings_give_equal_bytes(dataset_folder: Path, tmp_path: Path) -> None:
    """A campaign that cannot go on because its teacher was trained again; random numbers of others that depend on it."""
    state = torch.get_rng_state()
    found = [make_structural(dataset_folder, tmp_path / name, replace(SMALL, epochs=3)) for name in ("one", "two")]
    make_structural(dataset_folder, tmp_path / "other", replace(SMALL, epochs=3, seed=1))
    assert found[0] == found[1]
    assert set(found[0]) == {"valid/both/mrr", "test/both/mrr"}
    assert all(0 < value <= 1 for value in found[0].values())
    digests = [verify_checkpoint(tmp_path / name) for name in ("one", "two", "other")]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_trained_is_refused(dataset: Dataset, dataset_folder: Path, tmp_path: Path) -> None:
    """A teacher overwritten while a campaign learns from it; rows of NaN that a student meets hours later."""
    for changes in ({"interaction": "transe"}, {"dimension": 0}, {"epochs": 0}, {"seed": -1}):
        with pytest.raises(ConfigError):
            make_structural(dataset_folder, tmp_path / "out", replace(SMALL, **changes))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is there already"):
        make_structural(dataset_folder, tmp_path, SMALL)
    with pytest.raises(ConfigError, match="no local folder"):
        make_structural(dataset_folder, "s3://bucket/tables", SMALL)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NonFiniteLossError, match="epoch"):
        train_structural(dataset, replace(SMALL, learning_rate=1e30))


def test_tables_come_back_as_they_were_written(structural_folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    """Rows in another order, another temperature, or a folder that changes when it is written again."""
    model = load_structural(structural_folder, dataset.fingerprint)
    model.inverse_temperature = 2.5
    save_structural(tmp_path / "again", model, dataset.fingerprint, {"settings": {}})
    again = load_structural(tmp_path / "again", dataset.fingerprint)
    assert (again.interaction, again.inverse_temperature, again.num_relations) == ("complex", 2.5, 4)
    assert torch.equal(again.entities, model.entities)
    assert torch.equal(again.relations, model.relations)


@pytest.mark.parametrize(
    "changes",
    [{"format": 2}, {"interaction": "transe"}, {"interaction": "distmult", "entities": 9}, {"relations": 8}],
    ids=str,
)
def test_record_that_does_not_fit_its_tables_is_refused(
    structural_folder: Path, dataset: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """A folder of a later release, or put together by hand, that is read as something it is not."""
    copy = Path(shutil.copytree(structural_folder, tmp_path / "copy"))
    record = json.loads((copy / "raydistill.json").read_text(encoding="utf-8"))
    (copy / "raydistill.json").write_text(json.dumps({**record, **changes}), encoding="utf-8")
    (copy / "manifest.json").unlink()
    write_manifest(copy)
    with pytest.raises(CheckpointError, match=r"copy: (format|tables)"):
        load_structural(copy, dataset.fingerprint)


def test_commands_that_need_encoders_say_what_they_found(structural_folder: Path, dataset_folder: Path) -> None:
    """An error from inside a library because there is no query_encoder."""
    with pytest.raises(CheckpointError, match="tables of a structural model"):
        load_model(structural_folder)
    with pytest.raises(CheckpointError, match="tables of a structural model"):
        evaluate_checkpoint(str(structural_folder), str(dataset_folder), "test")


def test_structural_teacher_is_checked(config_of: Config, structural_folder: Path, tmp_path: Path) -> None:
    """A student that learns from the rows of another graph, from damaged ones, or from tables alone."""
    config = config_of("reinforced, structural")
    facts = checked_encoder(config)
    text, tables = checked_others(config, facts)
    assert (type(text).__name__, type(tables).__name__) == ("BiEncoder", "StructuralModel")
    with pytest.raises(CapabilityError, match="was trained on dataset"):
        checked_others(config.model_copy(update={"data_fingerprint": "0" * 64}), facts)
    with pytest.raises(TeacherError, match="tables of a structural model"):
        checked_teacher(config.model_copy(update={"teacher": reference(structural_folder)}), facts)
    copy = Path(shutil.copytree(structural_folder, tmp_path / "copy"))
    damaged = TeacherReference(path=str(copy), digest=verify_checkpoint(copy))
    (copy / "tables.safetensors").write_bytes(b"nothing")
    with pytest.raises(TeacherError, match=r"tables.safetensors was changed"):
        checked_others(config.model_copy(update={"others": (damaged,)}), facts)


def test_term_sees_the_tables_scores_of_its_own_examples(config_of: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that learns another triple's scores: wrong in every number, and trained without a word."""
    parts = build_parts(config_of("reinforced, structural", mask_ratio=0.3, view="shared"), World.alone())
    seen: list[StepOutputs] = []
    value = SelectedTeachersTerm.value
    monkeypatch.setattr(SelectedTeachersTerm, "value", lambda self, step: (seen.append(step), value(self, step))[1])
    list(parts.trainer.run_epoch())
    model = parts.others[1]
    assert isinstance(model, StructuralModel)
    source, examples = parts.trainer.source.batches(0), 0
    for step, triples in zip(seen, source, strict=True):
        assert step.other_inverse_temperatures[1] == 1.0
        batch, (heads, relations, tails) = step.clean.batch, torch.from_numpy(triples).long().unbind(1)
        found = step.clean.scores_of_teacher(2)[batch.rows, batch.columns]
        wanted = (model.query_vectors(heads, relations) * model.entity_vectors(tails)).sum(1)
        torch.testing.assert_close(found, wanted)
        examples += len(triples)
    assert examples == 18


def test_nothing_is_kept_of_tables(config_of: Config, train: Train, tmp_path: Path) -> None:
    """Files of what is read faster where it lies; a record that does not tell of all teachers."""
    config = config_of("reinforced, structural")
    last = train(config, tmp_path / "grade" / "trials" / "one")[-1]
    text, tables = config.others
    folders = {path.name for path in (tmp_path / "grade" / KEPT).iterdir() if path.is_dir()}
    assert folders == {config.teacher.digest[:16], text.digest[:16]}  # type: ignore[union-attr]
    assert read_record(str(last.checkpoint))["taught_beside"] == [text.digest, tables.digest]
    assert {"policy/chosen0", "policy/chosen1", "policy/chosen2"} <= last.metrics.keys()
    source = build_parts(config, World.alone()).trainer.teacher
    assert isinstance(source, SeveralTeachers)
    assert isinstance(source.others[1], StructuralTeacher)
    assert source.others[1].encode_at_most(3) is None  # type: ignore[func-returns-value]


def test_interrupted_trial_with_a_structural_teacher_goes_on_bit_for_bit(
    config_of: Config, trial_config: Config, train: Train, interrupt: Callable[..., None], structural_folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """A trial whose result depends on whether its machine was lost; one structural teacher beside the grade above."""
    others = [reference(structural_folder).model_dump()]
    config = config_of("reinforced", others=others, encoder={"dropout": 0.1}, training={"checkpoint_steps": 1})
    whole = train(config, tmp_path / "whole")[-1]
    interrupt(config, tmp_path / "parts", 4)
    resumed = train(config, tmp_path / "parts")[-1]
    weights = [load_model(str(report.checkpoint)).state_dict() for report in (whole, resumed)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    plain = config_of("reinforced", others=[], encoder={"dropout": 0.1}, training={"checkpoint_steps": 1})
    without = load_model(str(train(plain, tmp_path / "without")[-1].checkpoint)).state_dict()
    assert any(not torch.equal(tensor, without[name]) for name, tensor in weights[0].items()), "it taught nothing"
