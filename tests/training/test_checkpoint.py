from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raydistill.config.trial import TrialConfig
from raydistill.data.graph import text_assembler
from raydistill.errors import CheckpointError
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.models.loading import load_encoder, load_tokenizer
from raydistill.training.checkpoint import (
    checkpoint_facts,
    clean_aside,
    load_model,
    load_training_state,
    newest_first,
    newest_good,
    read_record,
    verify_checkpoint,
)
from raydistill.training.parts import TrialParts
from raydistill.training.trial import EpochReport

Train = Callable[..., list[EpochReport]]


@pytest.fixture(scope="module")
def trained(config_of: Callable[..., TrialConfig], train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a finished trial: two epochs, both kept."""
    folder = tmp_path_factory.mktemp("trained")
    train(config_of("pmd", encoder={"dropout": 0.1}, contrastive={"pre_batch": 1}), folder)
    return folder / "checkpoints"


@pytest.fixture
def checkpoints(trained: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged, with an older checkpoint beside the last one."""
    copied = Path(shutil.copytree(trained, tmp_path / "checkpoints"))
    if not (copied / "00000003").exists():
        shutil.copytree(copied / "00000006", copied / "00000003")
    return copied


def damages(folder: Path, count: int, seed: int) -> Any:
    """Random single-byte changes and truncations over all files: (path, content before, content after)."""
    generator = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(count):
        path = generator.choice(files)
        content = path.read_bytes()
        place = generator.randrange(len(content))
        changed = bytes([content[place] ^ generator.randrange(1, 256)])
        cut = generator.random() < 0.3
        yield path, content, content[:place] if cut else content[:place] + changed + content[place + 1 :]


def test_five_hundred_damages_are_all_found_and_the_newest_good_one_is_used(
    checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged model trained on, evaluated or promoted as if it were sound; or a run that cannot go on though it could."""
    newest, older = checkpoints / "00000006", checkpoints / "00000003"
    assert newest_good(checkpoints) == newest
    assert not caplog.records
    touched = set()
    for path, before, after in damages(newest, 500, seed=1):
        touched.add(path.relative_to(newest).as_posix())
        path.write_bytes(after)
        with pytest.raises(CheckpointError) as raised:
            verify_checkpoint(newest)
        assert str(newest) in raised.value.received
        caplog.clear()
        with caplog.at_level(logging.WARNING, "raydistill.training.checkpoint"):
            assert newest_good(checkpoints) == older
        [record] = caplog.records
        assert str(newest) in record.getMessage()
        path.write_bytes(before)
    everything = {path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file()}
    assert touched == everything
    assert {"manifest.json", "raydistill.json", "training/optimizer.safetensors", "tokenizer/vocab.txt"} < everything
    assert newest_good(checkpoints) == newest


def test_damaged_model_is_not_loaded(checkpoints: Path) -> None:
    """A loader that does not look: the model of 2 GB is exactly what nobody checks by hand."""
    path = checkpoints / "00000006" / "entity_encoder" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"entity_encoder/model.safetensors was changed"):
        load_model(checkpoints / "00000006")


def test_run_stops_when_every_checkpoint_is_damaged(checkpoints: Path) -> None:
    """Days of work begun afresh without a word."""
    for name in ("00000003", "00000006"):
        (checkpoints / name / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="all 2 checkpoints") as raised:
        newest_good(checkpoints)
    assert "00000003" in str(raised.value)
    assert "00000006" in str(raised.value)
    assert "afresh" in raised.value.consequence


def test_checkpoint_that_stepped_aside_comes_back(checkpoints: Path) -> None:
    """Killed between two renames, a trial whose only checkpoint was being replaced would say that all are damaged."""
    (checkpoints / "00000006").rename(checkpoints / ".old-00000006")
    shutil.copytree(checkpoints / "00000003", checkpoints / ".old-00000003")
    clean_aside(checkpoints)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["00000003", "00000006"]
    assert newest_good(checkpoints) == checkpoints / "00000006"


def test_only_finished_checkpoints_are_looked_at(checkpoints: Path, tmp_path: Path) -> None:
    """What an interrupted save, a backup or an editor left behind, taken for the newest checkpoint."""
    for name in (".aside-00000009", "00000009.bak", "notes"):
        shutil.copytree(checkpoints / "00000006", checkpoints / name)
    (checkpoints / "00000010").write_text("a file")
    assert [path.name for path in newest_first(checkpoints)] == ["00000006", "00000003"]
    assert newest_good(checkpoints) == checkpoints / "00000006"
    clean_aside(checkpoints)
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "00000003",
        "00000006",
        "00000009.bak",
        "00000010",
        "notes",
    ]
    assert newest_good(tmp_path / "nothing") is None
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        verify_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_record(tmp_path / "nothing")


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_towers_and_tokenizer_load_with_transformers(teacher_checkpoint: Callable[..., Path], kind: str) -> None:
    """A student that can be used with raydistill alone, or that others load with other weights or words."""
    from transformers import AutoModel, AutoTokenizer

    path = teacher_checkpoint(kind)
    tokenizer = AutoTokenizer.from_pretrained(path / "tokenizer")
    assert tokenizer.mask_token_id is not None
    encoded = tokenizer("Ann Lee: a painter", "lives in", return_tensors="pt")
    assert (encoded["input_ids"] != tokenizer.unk_token_id).all()
    model = load_model(path)
    for tower in ("query_encoder", "entity_encoder"):
        encoder, info = AutoModel.from_pretrained(path / tower, output_loading_info=True)
        assert not any(info.values()), info
        expected = getattr(model, tower)(**encoded).last_hidden_state
        torch.testing.assert_close(encoder.eval()(**encoded).last_hidden_state, expected, atol=1e-6, rtol=0)


def test_towers_of_a_checkpoint_differ(teacher_checkpoint: Callable[..., Path]) -> None:
    """One tower written twice."""
    towers = [
        load_file(teacher_checkpoint() / name / "model.safetensors") for name in ("query_encoder", "entity_encoder")
    ]
    assert not all(torch.equal(tensor, towers[1][name]) for name, tensor in towers[0].items())


def test_hub_style_tokenizer_survives(
    trial_config: Callable[..., TrialConfig],
    train: Train,
    dataset: Dataset,
    bert_folder: Path,
    tmp_path: Path,
) -> None:
    """bert-base-uncased names its tokenizer's class nowhere but in config.json: without it the checkpoint has no mask token."""
    from raydistill.models.pretrained import locate_encoder

    folder = Path(shutil.copytree(bert_folder, tmp_path / "encoder"))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    config = trial_config(training={"epochs": 1})
    encoder = config.encoder.model_copy(update={"name": str(folder)})
    config = config.model_copy(
        update={"encoder": encoder, "encoder_fingerprint": locate_encoder(str(folder)).fingerprint}
    )
    [report] = train(config, tmp_path / "trial")
    saved = load_tokenizer(Path(str(report.checkpoint)) / "tokenizer")
    original = load_tokenizer(folder)
    assert (saved.mask_token_id, saved.pad_token_id) == (original.mask_token_id, original.pad_token_id)
    for text in dataset.entity_names + dataset.entity_descriptions:
        assert saved(text)["input_ids"] == original(text)["input_ids"]


def test_shared_towers_are_stored_once_and_come_back_shared(teacher_checkpoint: Callable[..., Path]) -> None:
    """Twice the bytes, or two towers that were one."""
    path = teacher_checkpoint(shared_towers=True)
    assert not (path / "entity_encoder").exists()
    model = load_model(path)
    assert model.shared_towers
    facts = checkpoint_facts(path)
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["bytes"] == (path / "query_encoder" / "model.safetensors").stat().st_size


def test_facts_count_the_whole_model(
    teacher_checkpoint: Callable[..., Path], encoder_folder: Callable[..., Path]
) -> None:
    """Sizes without the trimmed words, the poolers or the temperature: reductions that nobody else can confirm."""
    path = teacher_checkpoint()
    facts = checkpoint_facts(path)
    whole = sum(parameter.numel() for parameter in load_encoder(encoder_folder("bert")).parameters())
    assert facts["parameters"] == 2 * whole + 1
    assert facts["bytes"] == sum(file.stat().st_size for file in path.glob("*_encoder/model.safetensors"))
    assert (facts["layers"], facts["layer_map"], facts["method"]["name"], facts["lineage"]) == (
        4,
        [0, 1, 2, 3],
        "none",
        [],
    )


def test_record_says_what_is_needed_to_use_the_model(
    trained: Path, teacher_checkpoint: Callable[..., Path], dataset: Dataset
) -> None:
    """A checkpoint whose texts, pooling, temperature or teachers must be guessed."""
    path = trained / "00000006"
    record = read_record(path)
    assert record["lineage"] == [verify_checkpoint(teacher_checkpoint())]
    assert record["text"] == {"max_tokens": 32, "max_neighbors": 10, "short_description_words": 20}
    assert (record["layers"], record["layer_map"], record["epoch"], record["step"]) == (2, [1, 3], 2, 6)
    assert "valid/both/mrr" in record["metrics"]
    assert str(trained.parent) not in json.dumps(record), "a path: equal work would have different digests"
    model = load_model(path)
    assert (model.pooling, model.num_layers, model.training) == ("mean", 2, False)
    assert model.log_inverse_temperature.item() == record["log_inverse_temperature"]


def test_model_comes_back_bit_for_bit_with_its_unused_words(
    parts_of: Callable[..., TrialParts], trained: Path, encoder_folder: Callable[..., Path]
) -> None:
    """A vocabulary that shrank, moved, or lost the words that this graph does not use."""
    before = load_encoder(encoder_folder("bert", dropout=0.1)).state_dict()["embeddings.word_embeddings.weight"]
    model = load_model(trained / "00000006")
    used = parts_of("pmd").student.query_encoder.embeddings.word_embeddings.kept  # type: ignore[union-attr]
    for tower in (model.query_encoder, model.entity_encoder):
        after = tower.state_dict()["embeddings.word_embeddings.weight"]
        unused = torch.ones(len(before), dtype=torch.bool)
        unused[used] = False
        assert 0 < unused.sum() < len(before)
        assert torch.equal(after[unused], before[unused])
        assert not torch.equal(after[used], before[used])


def test_training_state_holds_moments_position_and_earlier_batches(trained: Path) -> None:
    """A resumed run that begins some part of its state anew."""
    state = load_training_state(trained / "00000006")
    assert (state.position["epoch"], state.position["step_in_epoch"]) == (2, 0)
    assert [entry["epoch"] for entry in state.position["history"]] == [1, 2]
    kinds = {name.split(".")[0] for name in state.tensors}
    assert kinds == {"step", "exp_avg", "exp_avg_sq", "pre_batch"}
    assert len(state.position["pre_batch"][0]) == len(state.tensors["pre_batch.0"])
    assert all(tensor.dtype == torch.float32 for tensor in state.tensors.values())


def test_loaded_model_ranks_the_graphs_texts(trained: Path, dataset: Dataset) -> None:
    """A checkpoint that loads, and whose tokens are not those of its embeddings."""
    path = trained / "00000006"
    tokenizer = load_tokenizer(path / "tokenizer")
    assembler = text_assembler(dataset, tokenizer, "any", rule=TextRule(), max_tokens=32)
    vectors = load_model(path).encode(assembler.entity_texts(np.arange(8)), "entity").vectors
    assert vectors.shape == (8, 16)
    torch.testing.assert_close(vectors[6], vectors[7], atol=1e-6, rtol=0)  # two entities of one text
    assert (torch.cdist(vectors[:7], vectors[:7]) + torch.eye(7) > 1e-2).all()


@pytest.mark.parametrize("mark", ["ledger", "entities.parquet"])
def test_other_directories_are_not_called_damaged_checkpoints(tmp_path: Path, mark: str) -> None:
    """`no manifest.json, train again` for a run directory: hours of training, for a wrong argument."""
    (tmp_path / mark).mkdir()
    with pytest.raises(CheckpointError, match=r"is a (run|dataset) directory") as refused:
        verify_checkpoint(tmp_path)
    assert "`raydistill status RUN`" in refused.value.remedy
    assert "train again" not in str(refused.value)
