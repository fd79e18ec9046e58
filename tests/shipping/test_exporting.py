"""Exports: the same vectors for whoever loads them and with whatever, a card that is true, and nothing overwritten."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from raydistill.errors import CapabilityError, CheckpointError, ConfigError, DataError, StorageError
from raydistill.evaluation.encode import encode_entities, encode_queries
from raydistill.kg.store import Dataset
from raydistill.kg.text import NeighborIndex, entity_text, inverse_phrase
from raydistill.shipping import exporting
from raydistill.shipping.exporting import export_checkpoint
from raydistill.shipping.importing import import_teacher
from raydistill.students.quantized import Formats
from raydistill.training.checkpoint import load_model, read_record
from raydistill.training.evaluate import evaluate_checkpoint, open_checkpoint
from raydistill.training.manifest import read_manifest, verify_checkpoint
from raydistill.training.quantizing import quantize_checkpoint
from raydistill.training.saving import write_json

Checkpoint = Callable[..., Path]
KINDS = [("bert", False), ("bert", True), ("roberta", False)]


@pytest.fixture
def exported(teacher_checkpoint: Checkpoint, dataset_folder: Path, tmp_path: Path) -> Path:
    """An export of the tiny teacher, with its dataset."""
    export_checkpoint(teacher_checkpoint(), tmp_path / "out", data=dataset_folder)
    return tmp_path / "out"


def texts_of(dataset: Dataset) -> list[str]:
    """All entities' texts, put together the slow way."""
    index = NeighborIndex.from_triples(dataset.train, dataset.num_entities)
    return [
        entity_text(one, dataset.entity_names, dataset.entity_descriptions, neighbors=index)
        for one in range(dataset.num_entities)
    ]


def vectors_of(folder: Path, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Our vectors of all entities, and of a query about each, in turn with a relation and with its inverse."""
    model, assembler = open_checkpoint(folder, dataset)
    everyone = np.arange(dataset.num_entities)
    relations = everyone % (2 * dataset.num_relations)
    return encode_entities(model, assembler, dataset.num_entities), encode_queries(
        model, assembler, everyone, relations
    )


def phrases_of(dataset: Dataset) -> list[str]:
    both = [*dataset.relation_phrases, *map(inverse_phrase, dataset.relation_phrases)]
    return [both[one % len(both)] for one in range(dataset.num_entities)]


def test_export_is_the_checkpoint_without_its_training_state(
    exported: Path, teacher_checkpoint: Checkpoint, dataset: Dataset, dataset_folder: Path
) -> None:
    """Weights that are not those that were measured, or moments of an optimizer that nobody needs."""
    source = teacher_checkpoint()
    assert not (exported / "training").exists()
    assert verify_checkpoint(exported) != verify_checkpoint(source)
    before, after = read_manifest(source), read_manifest(exported)
    kept = {name for name in before if not name.startswith("training/") and name != "raydistill.json"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    record = read_record(exported)
    assert record.pop("exported") == {"source": verify_checkpoint(source), "unpacked": False}
    assert record == read_record(source)
    assert evaluate_checkpoint(exported, dataset_folder).metrics == evaluate_checkpoint(source, dataset_folder).metrics


@pytest.mark.parametrize(("kind", "shared"), KINDS)
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
def test_towers_are_sentence_transformers_with_our_vectors(
    teacher_checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, kind: str, shared: bool
) -> None:
    """Pooled, cut or framed in another way, the vectors would be nearly right, and the ranks of a stranger worse than the card's."""
    from sentence_transformers import SentenceTransformer

    out = tmp_path / "out"
    export_checkpoint(teacher_checkpoint(kind, shared_towers=shared), out)
    entities, queries = vectors_of(out, dataset)
    texts = texts_of(dataset)
    towers = {
        name: SentenceTransformer(str(out / name), device="cpu")
        for name in ("query_encoder", "entity_encoder")[: 1 + (not shared)]
    }
    ours = towers["query_encoder" if shared else "entity_encoder"].encode(texts, convert_to_tensor=True)
    assert (ours * entities).sum(1).tolist() == pytest.approx([1.0] * len(texts), abs=1e-5)
    pairs = list(zip(texts, phrases_of(dataset), strict=True))
    asked = towers["query_encoder"].encode(pairs, convert_to_tensor=True)
    assert (asked * queries).sum(1).tolist() == pytest.approx([1.0] * len(texts), abs=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "max"])
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
def test_pooling_is_the_one_that_was_used(
    teacher_checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean pooling is everybody's default, and wrong for a model of another."""
    from sentence_transformers import SentenceTransformer

    source, out = repooled(teacher_checkpoint(), tmp_path / "source", pooling), tmp_path / "out"
    export_checkpoint(source, out)
    entities, _ = vectors_of(out, dataset)
    ours = SentenceTransformer(str(out / "entity_encoder"), device="cpu").encode(
        texts_of(dataset), convert_to_tensor=True
    )
    assert (ours * entities).sum(1).tolist() == pytest.approx([1.0] * len(entities), abs=1e-5)
    queries, candidates = run_snippets(out, monkeypatch)[0]
    mine = vectors_by_text(source, queries, candidates)
    assert torch.allclose(queries["vectors"], mine[0], atol=1e-5)
    assert torch.allclose(candidates["vectors"], mine[1], atol=1e-5)


def repooled(source: Path, target: Path, pooling: str) -> Path:
    """The same checkpoint with another pooling on record."""
    from raydistill.training.manifest import write_manifest

    shutil.copytree(source, target)
    write_json(target / "raydistill.json", {**read_record(source), "pooling": pooling})
    (target / "manifest.json").unlink()
    write_manifest(target)
    return target


def run_snippets(out: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What the card's blocks of code compute, run in the folder as a stranger would."""
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(out)
    names: dict[str, Any] = {}
    found = []
    for block in blocks:
        if "sentence_transformers" in block and importlib.util.find_spec("sentence_transformers") is None:
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            exec(block, names)
        queries = {
            "texts": names["heads"],
            "relations": names["relations"],
            "vectors": torch.as_tensor(names["queries"]),
        }
        found.append((queries, {"texts": names["tails"], "vectors": torch.as_tensor(names["candidates"])}))
    return found


def vectors_by_text(
    checkpoint: Path, queries: dict[str, Any], candidates: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our vectors of the texts that a card's code read."""
    from raydistill.models.loading import load_tokenizer
    from raydistill.shipping.new_texts import new_texts

    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint / "tokenizer")
    most = read_record(checkpoint)["text"]["max_tokens"]
    with torch.no_grad():
        return (
            model.encode(new_texts(tokenizer, most, queries["texts"], queries["relations"]), "query").vectors,
            model.encode(new_texts(tokenizer, most, candidates["texts"]), "entity").vectors,
        )


@pytest.mark.parametrize(("kind", "shared"), KINDS)
def test_code_of_the_card_gives_our_vectors(
    teacher_checkpoint: Checkpoint,
    dataset: Dataset,
    dataset_folder: Path,
    tmp_path: Path,
    kind: str,
    shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stranger has nothing but these lines; a colon that is left out costs points that the card promises."""
    out = tmp_path / "out"
    export_checkpoint(teacher_checkpoint(kind, shared_towers=shared), out, data=dataset_folder)
    entities, _ = vectors_of(out, dataset)
    model, assembler = open_checkpoint(out, dataset)
    head, relation, tail = dataset.train[0]
    query = encode_queries(model, assembler, np.array([head]), np.array([relation]))
    for queries, candidates in run_snippets(out, monkeypatch):
        assert queries["texts"] == [texts_of(dataset)[head]]
        assert torch.allclose(queries["vectors"], query, atol=1e-5)
        assert torch.allclose(candidates["vectors"][0], entities[tail], atol=1e-5)


def test_code_runs_without_a_dataset(
    teacher_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example that was never run."""
    export_checkpoint(teacher_checkpoint(), tmp_path / "out")
    found = run_snippets(tmp_path / "out", monkeypatch)
    queries, candidates = found[0]
    ours = vectors_by_text(teacher_checkpoint(), queries, candidates)
    assert torch.allclose(queries["vectors"], ours[0], atol=1e-5)
    assert torch.allclose(candidates["vectors"], ours[1], atol=1e-5)


def test_card_tells_what_the_model_is(
    teacher_checkpoint: Checkpoint, dataset: Dataset, dataset_folder: Path, tmp_path: Path
) -> None:
    """A number beside which neither split nor tie rule stands can be held against nothing."""
    out = tmp_path / "out"
    export_checkpoint(teacher_checkpoint(), out, data=dataset_folder, base_model="owner/an-encoder", ranked=True)
    content, record = (out / "README.md").read_text(encoding="utf-8"), read_record(out)
    _, front, body = content.split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["base_model"], front["library_name"]) == ("owner/an-encoder", "transformers")
    assert "knowledge-graph-completion" in front["tags"]
    test = evaluate_checkpoint(out, dataset_folder).metrics
    for split, metrics in (("test", test), ("valid", record["metrics"])):
        cells = [f"{metrics[f'{split}/both/{name}']:.3f}" for name in ("mrr", "hits@1", "hits@3", "hits@10")]
        assert f"| {' | '.join(cells)} |" in body
        assert f"| {split} | both | {metrics[f'{split}/both/queries']:.0f} |" in body
    for said in (
        "Ranks are realistic",
        f"{record['bytes']:,}",
        f"{record['parameters']:,}",
        dataset.fingerprint,
        record["exported"]["source"],
        "8 entities",
        "`lives in`",
        "fewer than 20 words",
        "up to 10 neighbours",
    ):
        assert said in body, said
    assert (out / "relations.json").read_text(encoding="utf-8").count("lives in") == 1


def test_base_model_is_the_one_of_the_run(teacher_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A folder of this machine is nobody else's base model, and a private path is nobody else's business."""
    place = tmp_path / "run/grades/0-teacher/trials/x/checkpoints/00000001"
    shutil.copytree(teacher_checkpoint(), place)
    for number, (name, said) in enumerate(
        [("bert-base-uncased", True), ("package:an_encoder", False), (str(tmp_path), False), ("../secret/enc", False)]
    ):
        (tmp_path / "run/config.yaml").write_text(yaml.safe_dump({"encoder": {"name": name}}), encoding="utf-8")
        export_checkpoint(place, tmp_path / f"out{number}")
        content = (tmp_path / f"out{number}/README.md").read_text(encoding="utf-8")
        assert (f"base_model: {name}" in content) == said
        assert (name in content) == (said or name.startswith("package:"))


def test_out_is_replaced_only_where_it_is_an_untouched_export_of_the_same(
    teacher_checkpoint: Checkpoint, exported: Path, tmp_path: Path
) -> None:
    """A card on which somebody wrote for an hour, or another model, is gone."""
    source, before = teacher_checkpoint(), verify_checkpoint(exported)
    (tmp_path / "empty").mkdir()
    assert export_checkpoint(source, tmp_path / "empty") == export_checkpoint(source, exported) != before
    with pytest.raises(ConfigError, match="out is there already"):
        export_checkpoint(repooled(source, tmp_path / "other", "cls"), exported)
    with open(exported / "README.md", "a", encoding="utf-8") as file:
        file.write("by hand")
    with pytest.raises(ConfigError, match="out is there already"):
        export_checkpoint(source, exported)
    assert (exported / "README.md").read_text(encoding="utf-8").endswith("by hand")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is there already"):
        export_checkpoint(source, tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "other", "out"]


def test_places_that_would_damage_something_are_refused(teacher_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """An export into its own source leaves a checkpoint that no longer verifies; through a link, one that nobody finds."""
    source = tmp_path / "source"
    shutil.copytree(teacher_checkpoint(), source)
    for place in (source / "export", source):
        with pytest.raises(ConfigError, match="lies in the checkpoint"):
            export_checkpoint(source, place)
    verify_checkpoint(source)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    for name in ("link", "broken", "ring"):
        with pytest.raises(ConfigError, match=f"{name} is a symbolic link"):
            export_checkpoint(source, tmp_path / name)


def test_links_are_copied_as_what_they_point_to(teacher_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A cache keeps files as links; an upload of links is empty."""
    source = tmp_path / "source"
    shutil.copytree(teacher_checkpoint(), source)
    weights = source / "query_encoder/model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    export_checkpoint(source, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out/query_encoder/model.safetensors").read_bytes() == (tmp_path / "blob").read_bytes()


def test_damaged_checkpoint_is_not_given_away(teacher_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Under a new manifest the damage would be called sound for ever."""
    source = tmp_path / "source"
    shutil.copytree(teacher_checkpoint(), source)
    content = bytearray((source / "query_encoder/model.safetensors").read_bytes())
    content[-1] ^= 1
    (source / "query_encoder/model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        export_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ranked", [False, True])
def test_checkpoint_that_is_replaced_meanwhile_is_not_given_away(
    teacher_checkpoint: Checkpoint, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranked: bool
) -> None:
    """A ranking takes minutes: the weights of the next checkpoint under the record, the temperature and the metrics of the one before."""
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(teacher_checkpoint(), source)
    place, read = ("evaluate_checkpoint", evaluate_checkpoint) if ranked else ("read_record", read_record)

    def replaced(path: Path, *given: Any) -> Any:
        found = read(path, *given)
        monkeypatch.undo()
        shutil.rmtree(source)
        repooled(teacher_checkpoint(), source, "cls")
        return found

    monkeypatch.setattr(exporting, place, replaced)
    with pytest.raises(CheckpointError, match="was replaced by another checkpoint") as caught:
        export_checkpoint(source, out, data=dataset_folder, ranked=ranked)
    assert "export again" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    export_checkpoint(source, out, data=dataset_folder)
    assert read_record(out)["exported"]["source"] == verify_checkpoint(source)


def test_card_that_is_edited_meanwhile_stays(
    teacher_checkpoint: Checkpoint, exported: Path, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at before the ranking only, what was written in its minutes is gone."""

    def edited(*given: Any) -> Any:
        (exported / "README.md").write_text("by hand", encoding="utf-8")
        return evaluate_checkpoint(*given)

    monkeypatch.setattr(exporting, "evaluate_checkpoint", edited)
    with pytest.raises(ConfigError, match="out is there already"):
        export_checkpoint(teacher_checkpoint(), exported, data=dataset_folder, ranked=True)
    assert (exported / "README.md").read_text(encoding="utf-8") == "by hand"


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_export_that_fails_leaves_everything_as_it_was(
    teacher_checkpoint: Checkpoint, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Any
) -> None:
    """A hidden folder of the size of a model beside OUT, for each try; or no OUT."""

    def fails(*given: object) -> None:
        raise problem

    before = verify_checkpoint(exported)
    for place in ("raydistill.shipping.exporting.card", "raydistill.training.saving.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(place, fails)
            with pytest.raises((KeyboardInterrupt, StorageError)):
                export_checkpoint(teacher_checkpoint(), exported)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert verify_checkpoint(exported) == before


def test_what_is_given_beside_has_to_fit(
    teacher_checkpoint: Checkpoint, structural_folder: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    """A card with another graph's relations, a base model the hub refuses, or tables that read no text."""
    source, out = teacher_checkpoint(), tmp_path / "out"
    with pytest.raises(ConfigError, match="a ranking without a dataset"):
        export_checkpoint(source, out, ranked=True)
    with pytest.raises(ConfigError, match="base model '/home/me/encoder'"):
        export_checkpoint(source, out, base_model="/home/me/encoder")
    with pytest.raises(CheckpointError, match="structural model"):
        export_checkpoint(structural_folder, out)
    other = tmp_path / "source"
    shutil.copytree(source, other)
    from raydistill.training.manifest import write_manifest

    write_json(other / "raydistill.json", {**read_record(source), "data_fingerprint": "0" * 64})
    (other / "manifest.json").unlink()
    write_manifest(other)
    with pytest.raises(DataError, match="has fingerprint"):
        export_checkpoint(other, out, data=dataset_folder)
    assert not out.exists()


def test_few_bits_are_unpacked_when_asked(
    teacher_checkpoint: Checkpoint, dataset: Dataset, dataset_folder: Path, tmp_path: Path
) -> None:
    """A folder that only we can read, or the scores of the rounded model on the card of another one."""
    small, out = tmp_path / "small", tmp_path / "out"
    quantize_checkpoint(teacher_checkpoint(), dataset_folder, small, Formats(8, 8, 8))
    with pytest.raises(CapabilityError, match="packed in few bits"):
        export_checkpoint(small, out)
    with pytest.raises(CapabilityError, match="a ranking of"):
        export_checkpoint(small, out, data=dataset_folder, ranked=True, unpack=True)
    export_checkpoint(small, out, data=dataset_folder, unpack=True)
    record = read_record(out)
    assert (record["exported"]["unpacked"], record["metrics"], "quantized" in record) == (True, {}, False)
    assert record["bytes"] > 1.5 * read_record(small)["bytes"]
    for ours, theirs in zip(vectors_of(out, dataset), vectors_of(small, dataset), strict=True):
        assert (ours * theirs).sum(1).min() > 0.99
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "None were measured" in card
    assert "activations are not rounded" in card


def test_card_does_not_claim_what_was_trained_elsewhere(
    bert_folder: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    """An imported encoder would be given away as the work of a method that never saw it."""
    import_teacher([bert_folder], tmp_path / "teacher", dataset_folder)
    export_checkpoint(tmp_path / "teacher", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "trained elsewhere, and imported" in card
    assert "`none`" not in card
