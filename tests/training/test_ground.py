from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError, CheckpointError, DataError, EncoderError, TeacherError
from raydistill.training import trial
from raydistill.training.gather import World
from raydistill.training.ground import checked_dataset, checked_encoder, checked_teacher
from raydistill.training.parts import build_parts

Config = Callable[..., TrialConfig]


def test_other_dataset_than_planned_is_refused(config_of: Config) -> None:
    """Trials of one campaign trained on different graphs, and compared."""
    config = config_of("none", data_fingerprint="0" * 64)
    with pytest.raises(DataError, match="has fingerprint"):
        checked_dataset(config)
    with pytest.raises(DataError, match="has fingerprint"):
        build_parts(config, World.alone())


def test_damaged_dataset_is_refused(config_of: Config, dataset_folder: Path, tmp_path: Path) -> None:
    """A graph whose triples changed on disk, its manifest being what it was."""
    folder = Path(shutil.copytree(dataset_folder, tmp_path / "dataset"))
    path = folder / "triples" / "train.parquet"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train.parquet"):
        checked_dataset(config_of("none", data={"path": str(folder)}))


def test_other_encoder_than_planned_is_refused(config_of: Config) -> None:
    """Students of one grade that start from different weights."""
    with pytest.raises(EncoderError, match="has fingerprint"):
        checked_encoder(config_of("none", encoder_fingerprint="0" * 64))


def test_texts_longer_than_the_encoder_reads_are_refused(config_of: Config) -> None:
    """A campaign that dies of an index hours later, at the first long text."""
    with pytest.raises(CapabilityError, match="positions for 160"):
        checked_encoder(config_of("none", data={"max_tokens": 200}))


def teacher_at(config: TrialConfig, path: Path) -> TrialConfig:
    assert config.teacher is not None
    return config.model_copy(update={"teacher": TeacherReference(path=str(path), digest=config.teacher.digest)})


def test_other_teacher_than_planned_is_refused(
    config_of: Config, teacher_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """A student on record as taught by one teacher and taught by another; a moved one is the same."""
    config = config_of("pmd")
    facts = checked_encoder(config)
    moved = shutil.copytree(teacher_checkpoint(), tmp_path / "moved")
    assert checked_teacher(teacher_at(config, Path(moved)), facts) is not None
    with pytest.raises(TeacherError, match="has digest"):
        checked_teacher(teacher_at(config, teacher_checkpoint(shared_towers=True)), facts)
    (Path(moved) / "query_encoder" / "config.json").write_text("{}")
    with pytest.raises(TeacherError, match="was changed"):
        checked_teacher(teacher_at(config, Path(moved)), facts)
    with pytest.raises(TeacherError, match="no such checkpoint") as caught:
        checked_teacher(teacher_at(config, tmp_path / "gone"), facts)
    assert caught.value.remedy


def test_damage_of_a_teacher_that_is_fetched_is_told_from_the_trials_own() -> None:
    """A trial whose teacher cannot be brought to its machine would end the campaign, although another one could take its place."""

    def bring(teacher: TeacherReference) -> TeacherReference:
        raise CheckpointError(f"{teacher.path}: no readable manifest.json", remedy="copy it anew")

    teacher = TeacherReference(path="s3://bucket/teacher", digest="d")
    config = TrialConfig.model_construct(teacher=teacher, settle_epochs=1)
    changing = trial._Changing(config, lambda epoch: teacher, World.alone(), bring)
    with pytest.raises(TeacherError, match="no readable manifest") as caught:
        changing.at(0)
    assert caught.value.remedy == "copy it anew"


def test_teacher_that_reads_other_tokens_is_refused(config_of: Config, teacher_checkpoint: Callable[..., Path]) -> None:
    """A teacher shown the student's token ids, which are other words in its vocabulary."""
    config = config_of("pmd", teacher=teacher_checkpoint("roberta"))
    with pytest.raises(CapabilityError, match="another tokenizer"):
        checked_teacher(config, checked_encoder(config))


@pytest.mark.parametrize(
    ("name", "changes", "loaded"), [("none", {}, False), ("none", {"init": "teacher"}, True), ("kl", {}, True)]
)
def test_teacher_is_loaded_only_where_it_is_wanted(
    config_of: Config, teacher_checkpoint: Callable[..., Path], name: str, changes: dict[str, Any], loaded: bool
) -> None:
    """Memory for a teacher that nobody asks, or a student from a teacher that is not there."""
    config = config_of(name, teacher=teacher_checkpoint(), **changes)
    assert (checked_teacher(config, checked_encoder(config)) is not None) == loaded
