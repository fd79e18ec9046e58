"""Checkpoints that methods name as teachers: verified before anything is trained, and free to be moved. Without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from raydistill.config.load import parse_config
from raydistill.config.other_teachers import other_places
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference
from raydistill.errors import CapabilityError, CheckpointError, RunDirectoryError
from raydistill.kg.store import Dataset
from raydistill.orchestration import ownership, rundir
from raydistill.orchestration.courier import Courier
from raydistill.orchestration.depot import Depot
from raydistill.orchestration.ladder import Ladder
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.study import Study
from raydistill.orchestration.submission import placed
from raydistill.orchestration.workshop import standard_workshop, survey
from raydistill.planning.grades import grade_plans, lineages_of
from raydistill.planning.ground import Ground
from raydistill.planning.records import Promotion
from raydistill.planning.rules import Rules
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.structural.folder import load_structural, save_structural

Folder = Callable[..., Path]


def campaign(dataset: Path, encoder: Path, *teachers: str) -> CampaignConfig:
    content: dict[str, Any] = {"data": {"path": str(dataset), "max_tokens": 32}, "encoder": {"name": str(encoder)}}
    content |= {"grades": [{"layers": 3}, {"layers": 2}], "method": {"name": "reinforced", "teachers": list(teachers)}}
    return parse_config(content)


def test_named_teachers_are_verified_before_anything_is_trained(
    dataset_folder: Path, bert_folder: Path, teacher_checkpoint: Folder, tmp_path: Path
) -> None:
    """A ladder that fails at its last grade because of a path, or of a checkpoint that reads other words."""
    wide, foreign = teacher_checkpoint(width=24), teacher_checkpoint("roberta")
    ground = survey(campaign(dataset_folder, bert_folder, str(wide)))
    assert ground.others == {str(wide): TeacherReference(path=str(wide), digest=verify_checkpoint(wide))}
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        survey(campaign(dataset_folder, bert_folder, str(tmp_path / "gone")))
    with pytest.raises(CapabilityError, match="another tokenizer"):
        survey(campaign(dataset_folder, bert_folder, str(foreign)))


def test_structural_teacher_is_known_by_its_record_and_by_its_dataset(
    dataset: Dataset, dataset_folder: Path, bert_folder: Path, structural_folder: Path, tmp_path: Path
) -> None:
    """A refusal of tables because they have no tokenizer; or rows of another graph, which fit by chance, as scores of this one's entities."""
    place = str(structural_folder)
    ground = survey(campaign(dataset_folder, bert_folder, place))
    assert ground.others[place].digest == verify_checkpoint(place)
    assert ground.structural == {ground.others[place].digest}
    foreign = tmp_path / "foreign"
    save_structural(foreign, load_structural(place, dataset.fingerprint), "0" * 64, {})
    with pytest.raises(CapabilityError, match="was trained on dataset 000000000000"):
        survey(campaign(dataset_folder, bert_folder, str(foreign)))
    damaged = shutil.copytree(structural_folder, tmp_path / "damaged")
    content = bytearray((damaged / "tables.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "tables.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tables.safetensors was changed"):
        survey(campaign(dataset_folder, bert_folder, str(damaged)))


def test_structural_model_is_no_first_teacher(dataset_folder: Path, bert_folder: Path, structural_folder: Path) -> None:
    """A ladder below tables that have no layers to begin with, and no vector for a text."""
    config = campaign(dataset_folder, bert_folder)
    teacher = config.teacher.model_copy(update={"checkpoint": str(structural_folder)})
    with pytest.raises(CheckpointError, match="tables of a structural model") as caught:
        survey(config.model_copy(update={"teacher": teacher}))
    assert "method.teachers of method reinforced" in caught.value.remedy


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_shape_of_a_given_teacher_is_its_own(
    kind: str, dataset_folder: Path, bert_folder: Path, teacher_checkpoint: Folder
) -> None:
    """A teacher that is taken for one of the campaign's encoder, of which neither its width nor its heads nor its words are."""
    config = campaign(dataset_folder, bert_folder)
    path = teacher_checkpoint(kind, width=24, heads=4)
    given = config.teacher.model_copy(update={"checkpoint": str(path)})
    ground = survey(config.model_copy(update={"teacher": given}))
    assert (ground.encoder_width, ground.given_teacher_width, ground.given_teacher_heads) == (16, 24, 4)
    # Two of RoBERTa's 162 positions are no token's.
    assert ground.given_teacher_tokens == 160
    assert ground.given_teacher_foreign == (kind == "roberta")


def test_named_teacher_elsewhere_is_fetched_for_the_survey_and_keeps_its_place(
    dataset_folder: Path, bert_folder: Path, teacher_checkpoint: Folder, structural_folder: Path, tmp_path: Path
) -> None:
    """A plan that names a folder of the machine that planned it, or one teacher for two because their places hold the same."""
    root = fs.SubTreeFileSystem("/", fs.LocalFileSystem())
    wide = teacher_checkpoint(width=24)
    copy = shutil.copytree(wide, tmp_path / "copy")
    places = [str(path).lstrip("/") for path in (wide, copy, structural_folder)]
    config = campaign(dataset_folder, bert_folder, *places)
    data = config.data.model_copy(update={"path": str(dataset_folder).lstrip("/")})
    served = Courier(standard_workshop(), Depot(root), RunStore.at("run", root)).workshop()
    ground = served.survey(config.model_copy(update={"data": data}))
    digests = [verify_checkpoint(path) for path in (wide, copy, structural_folder)]
    assert ground.others == {
        place: TeacherReference(path=place, digest=digest) for place, digest in zip(places, digests, strict=True)
    }
    assert digests[0] == digests[1]
    assert ground.structural == {digests[2]}


def test_named_teacher_may_be_moved_but_not_exchanged(tmp_path: Path) -> None:
    """A run that cannot go on because a folder was renamed, or that goes on under another teacher."""
    one, moved = (campaign(tmp_path, tmp_path, place) for place in ("here", "there"))
    digest, other = "a" * 64, "b" * 64

    def ground(place: str, digest: str) -> Ground:
        return Ground("d" * 64, "e" * 64, 12, others={place: TeacherReference(path=place, digest=digest)})

    fingerprint = rundir.campaign_fingerprint(one, ground("here", digest))
    assert ownership.differences(one, moved) == []
    assert rundir.campaign_fingerprint(moved, ground("there", digest)) == fingerprint
    assert rundir.campaign_fingerprint(one, ground("here", other)) != fingerprint
    (tmp_path / "run").mkdir()
    store = RunStore.at(tmp_path / "run")
    store.write_json(rundir.ENVIRONMENT, rundir.ground_facts(ground("here", digest)))
    state = rundir.CampaignState()
    state.config_fingerprint = fingerprint
    changed = ground("here", other)
    with pytest.raises(RunDirectoryError, match=r"named_teachers was aaa.* is bbb"):
        ownership.check_campaign(store, state, rundir.campaign_fingerprint(one, changed), changed)


def test_job_on_a_cluster_finds_named_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path that means another folder in the job's working directory."""
    monkeypatch.chdir(tmp_path)
    config = campaign(tmp_path, tmp_path, "runs/teacher", "s3://bucket/teacher")
    assert other_places(placed(config)) == (str(tmp_path / "runs/teacher"), "s3://bucket/teacher")


def test_study_of_a_lower_grade_has_the_upper_ones_as_teachers(tmp_path: Path) -> None:
    """Trials that learn from one teacher although there are three, or two studies of other teachers that are taken for one."""
    rules = Rules("sequential", 0.0, False, 1, 2, epochs=(1, 1, 1), sizes=(12, 3, 2))
    ladder = Ladder(tmp_path / "run", rules)
    ladder.start("f", ["main"], ["0-teacher", "1-layers3", "2-layers2"])
    for grade, letter in enumerate("ab"):
        ladder.promote_given(Promotion("main", grade, letter * 16, f"/{letter}", letter * 64, 1, {}))
    earlier = ladder.earlier("main", 2)
    assert [one.digest[0] for one in earlier] == ["a"]
    assert ladder.earlier("main", 1) == ()
    config = campaign(tmp_path, tmp_path)
    ground = Ground("d" * 64, "e" * 64, 12)
    [lineage], plan = lineages_of(config), grade_plans(config, ground)[2]
    study = Study(config, ground, lineage, plan, ladder.teacher("main", 2), RunStore.at(tmp_path / "run"))
    several = replace(study, earlier=earlier)
    assert [one.digest[0] for one in several.resolve({}).others] == ["a"]
    assert study.resolve({}).others == ()
    assert several.fingerprint != study.fingerprint
