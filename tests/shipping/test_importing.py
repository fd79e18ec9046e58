"""Encoders from elsewhere as checkpoints: the vectors they were trained to give, and refusals of what could not give them."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError, ConfigError, EncoderError, RayDistillError
from raydistill.evaluation.encode import encode_entities, encode_queries
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.shipping.exporting import export_checkpoint
from raydistill.shipping.importing import import_teacher
from raydistill.shipping.sentences import PROMPTS, pooling_of, sentence_files
from raydistill.training.checkpoint import read_record
from raydistill.training.evaluate import evaluate_checkpoint, open_checkpoint
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.trial import run_trial

Checkpoint = Callable[..., Path]


@pytest.mark.parametrize("shared", [False, True])
def test_what_was_exported_comes_back_the_same(
    teacher_checkpoint: Checkpoint, dataset: Dataset, dataset_folder: Path, tmp_path: Path, shared: bool
) -> None:
    """Towers the wrong way round, or pooled in another way, are a teacher of noise."""
    out, back = tmp_path / "out", tmp_path / "back"
    export_checkpoint(teacher_checkpoint(shared_towers=shared), out)
    folders = [out / "query_encoder", out / "entity_encoder"][: 1 if shared else 2]
    temperature = float(np.exp(-read_record(out)["log_inverse_temperature"]))
    assert import_teacher(folders, back, dataset_folder, temperature=temperature, max_tokens=32) == verify_checkpoint(
        back
    )
    everyone = np.arange(dataset.num_entities)
    vectors = []
    for folder in (out, back):
        model, assembler = open_checkpoint(folder, dataset)
        entities = encode_entities(model, assembler, dataset.num_entities)
        vectors.append(torch.cat([entities, encode_queries(model, assembler, everyone, everyone % 8)]))
    assert torch.equal(*vectors)
    ours, theirs = read_record(back), read_record(out)
    for name in ("pooling", "shared_towers", "layers", "text", "parameters", "bytes", "data_fingerprint"):
        assert ours[name] == theirs[name], name
    assert ours["log_inverse_temperature"] == pytest.approx(theirs["log_inverse_temperature"])
    assert evaluate_checkpoint(back, dataset_folder).metrics["test/both/mrr"] > 0


def test_imported_encoder_teaches(
    bert_folder: Path, dataset_folder: Path, trial_config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    """A record that lacks what a grade looks for fails when the student is about to learn."""
    out = tmp_path / "teacher"
    import_teacher([bert_folder], out, dataset_folder, rule=TextRule(max_neighbors=3))
    *_, last = run_trial(trial_config(teacher=out, method={"name": "pmd"}), tmp_path / "trial", World.alone())
    assert last.checkpoint is not None
    assert read_record(last.checkpoint)["lineage"] == [verify_checkpoint(out)]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model_best.mdl"])
def test_pickles_are_refused_unopened(bert_folder: Path, dataset_folder: Path, tmp_path: Path, name: str) -> None:
    """A pickle runs whatever code it carries."""
    folder = tmp_path / "encoder"
    shutil.copytree(bert_folder, folder)
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(EncoderError, match=rf"holds {name} and no model\.safetensors") as caught:
        import_teacher([folder], tmp_path / "out", dataset_folder)
    assert "save_pretrained" in caught.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"temperature": 0.0}, ConfigError, "temperature 0.0"),
        ({"temperature": float("nan")}, ConfigError, "temperature nan"),
        ({"rule": TextRule(max_neighbors=-1)}, ConfigError, "-1 neighbours"),
        ({"max_tokens": 161}, CapabilityError, "positions for 160"),
        ({"max_tokens": 7}, CapabilityError, "max_tokens is 7"),
    ],
)
def test_numbers_out_of_range_are_refused(
    bert_folder: Path,
    dataset_folder: Path,
    tmp_path: Path,
    options: dict[str, Any],
    kind: type[RayDistillError],
    said: str,
) -> None:
    """A temperature of nothing is a traceback, or scores that are all infinite."""
    with pytest.raises(kind, match=said):
        import_teacher([bert_folder], tmp_path / "out", dataset_folder, **options)


def test_folders_that_make_no_two_towers_are_refused(
    encoder_folder: Checkpoint, bert_folder: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    """Towers of two widths fail at the first score, and those of two vocabularies never do."""
    out = tmp_path / "out"
    for other in (encoder_folder("bert", width=32), encoder_folder("roberta")):
        with pytest.raises(CapabilityError, match="differ in layers, width, heads or tokenizer"):
            import_teacher([bert_folder, other], out, dataset_folder)
    with pytest.raises(ConfigError, match="3 encoders"):
        import_teacher([bert_folder] * 3, out, dataset_folder)
    with pytest.raises(EncoderError, match="no such folder"):
        import_teacher(["bert-base-uncased"], out, dataset_folder)
    out.mkdir()
    with pytest.raises(ConfigError, match="out is there already"):
        import_teacher([bert_folder], out, dataset_folder)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling_is_read_in_the_old_form_and_in_the_new(tmp_path: Path, pooling: Any) -> None:
    """Taken for mean, the vectors of an encoder that pools its first token mean nothing."""
    assert pooling_of(tmp_path) is None
    for name, content in sentence_files(pooling, 16, 32).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    assert pooling_of(tmp_path) == pooling
    new = {"embedding_dimension": 16, "pooling_mode": pooling}
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(new), encoding="utf-8")
    assert pooling_of(tmp_path) == pooling


@pytest.mark.parametrize(
    ("modules", "config", "kind", "said"),
    [
        (["Transformer", "Pooling", "Dense"], {}, CapabilityError, "has the modules Transformer, Pooling, Dense"),
        (["Transformer"], {}, CapabilityError, "has the modules Transformer"),
        (["Transformer", "Pooling"], {"pooling_mode": ["cls", "mean"]}, CapabilityError, "pools by"),
        (["Transformer", "Pooling"], {"pooling_mode": "lasttoken"}, CapabilityError, "pools by lasttoken"),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True},
            CapabilityError,
            "pools by",
        ),
        (["Transformer", "Pooling"], {}, CapabilityError, "pools by something else"),
        (["Transformer", "Pooling"], [], EncoderError, "cannot be read"),
        (None, {}, EncoderError, "cannot be read"),
    ],
)
def test_vectors_that_come_about_otherwise_are_refused(
    tmp_path: Path, modules: list[str] | None, config: Any, kind: type[RayDistillError], said: str
) -> None:
    """A projection that is left out without a word gives vectors that nobody trained."""
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(config), encoding="utf-8")
    listed = None if modules is None else [{"type": f"a.b.{name}", "path": f"1_{name}"} for name in modules]
    (tmp_path / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    with pytest.raises(kind, match=said):
        pooling_of(tmp_path)


def test_pooling_that_contradicts_the_folder_is_refused(
    teacher_checkpoint: Checkpoint, dataset_folder: Path, tmp_path: Path
) -> None:
    """What the folder says was trained; a slip on the command line would undo it."""
    export_checkpoint(teacher_checkpoint(shared_towers=True), tmp_path / "out")
    with pytest.raises(CapabilityError, match="pooling cls, where the folders say mean"):
        import_teacher([tmp_path / "out/query_encoder"], tmp_path / "back", dataset_folder, pooling="cls")


def with_settings(encoder: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """An encoder's folder with what sentence-transformers says beside it, by file name."""
    shutil.copytree(encoder, folder)
    for name, content in settings.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("settings", "kind", "said", "remedy"),
    [
        (
            {PROMPTS: {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}},
            CapabilityError,
            "puts the prompt 'query' before each text",
            "set default_prompt_name to null",
        ),
        (
            {PROMPTS: {"prompts": {}, "default_prompt_name": "query"}},
            CapabilityError,
            "puts the prompt 'query' before each text",
            "set default_prompt_name to null",
        ),
        ({PROMPTS: {"prompts": ["query: "]}}, EncoderError, "cannot be read", "fetch"),
        ({PROMPTS: []}, EncoderError, "cannot be read", "fetch"),
        (
            {"sentence_bert_config.json": {"do_lower_case": True}},
            CapabilityError,
            "has do_lower_case in sentence_bert_config.json",
            "type Lowercase",
        ),
        (
            {"sentence_roberta_config.json": {"do_lower_case": True}},
            CapabilityError,
            "has do_lower_case in sentence_roberta_config.json",
            "type Lowercase",
        ),
    ],
)
def test_texts_that_were_changed_before_they_were_read_are_refused(
    encoder_folder: Checkpoint,
    dataset_folder: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    kind: type[RayDistillError],
    said: str,
    remedy: str,
) -> None:
    """Without the prompt, or with capitals, the vectors are nearly right: a teacher that is worse than it was for no reason that anybody sees."""
    folder = with_settings(encoder_folder("roberta"), tmp_path / "encoder", settings)
    with pytest.raises(kind, match=said) as caught:
        import_teacher([folder], tmp_path / "out", dataset_folder)
    assert remedy in caught.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({PROMPTS: {"prompts": {"query": "query: ", "none": ""}, "default_prompt_name": None}}, "has prompts (query)"),
        ({"1_Pooling/config.json": {"include_prompt": False}}, "leaves prompts out of its pooling"),
        ({PROMPTS: {"prompts": {"query": "", "document": ""}, "default_prompt_name": "query"}}, ""),
        ({PROMPTS: {"prompts": None}, "sentence_bert_config.json": {"do_lower_case": False}}, ""),
        ({"sentence_bert_config.json": {"do_lower_case": True}}, ""),
    ],
)
def test_settings_that_change_nothing_are_taken(
    bert_folder: Path, dataset_folder: Path, tmp_path: Path, settings: dict[str, Any], warned: str, caplog: Any
) -> None:
    """An encoder that is refused for what its tokenizer does anyhow; or prompts that it was trained with, passed over without a word."""
    folder = with_settings(bert_folder, tmp_path / "encoder", settings)
    import_teacher([folder], tmp_path / "out", dataset_folder)
    messages = [one.getMessage() for one in caplog.records if one.name == "raydistill.shipping.sentences"]
    assert len(messages) == bool(warned)
    assert all(warned in message for message in messages)


def test_script_writes_a_teacher_and_explains_what_it_refuses(
    bert_folder: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Folders and OUT are all positional: one that is taken for another is overwritten."""
    script, out = Path(__file__).parents[2] / "jobs/import_teacher.py", tmp_path / "out"

    def run(*folders: Path) -> None:
        given = [str(script), *map(str, folders), str(out), "--data", str(dataset_folder), "--max-tokens", "40"]
        monkeypatch.setattr("sys.argv", given)
        runpy.run_path(str(script), run_name="__main__")

    run(bert_folder, bert_folder)
    assert capsys.readouterr().out == f"{out}\n"
    record = read_record(out)
    assert (record["shared_towers"], record["text"]["max_tokens"], record["pooling"]) == (False, 40, "mean")
    with pytest.raises(SystemExit) as ending:
        run(bert_folder)
    assert ending.value.code == 2
    assert "is there already" in capsys.readouterr().err
