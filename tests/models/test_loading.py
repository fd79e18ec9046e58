from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raydistill.errors import EncoderError
from raydistill.models.loading import load_encoder, load_tokenizer


@pytest.fixture
def folder(bert_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny BERT that may be damaged."""
    return Path(shutil.copytree(bert_folder, tmp_path / "encoder"))


def drop_weights(folder: Path, begin: str) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(begin)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (cut, "cannot be loaded"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot be loaded"),
    "gone": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
    "width": (lambda folder: configure(folder, hidden_size=32), "cannot be loaded"),
    "one layer too few": (lambda folder: drop_weights(folder, "encoder.layer.3."), "lack encoder.layer.3.*and 15 more"),
    "deeper on paper": (lambda folder: configure(folder, num_hidden_layers=6), "lack encoder.layer.4"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_encoder_is_refused(folder: Path, name: str) -> None:
    """Layers that begin with random weights and are trained as if they were pre-trained; or a library's traceback."""
    damage, what = DAMAGES[name]
    damage(folder)
    with pytest.raises(EncoderError, match=what):
        load_encoder(folder)


def test_encoder_without_pooler_gets_the_same_one_every_time(folder: Path) -> None:
    """Two runs of one seed whose checkpoints differ by a pooler that nobody uses."""
    drop_weights(folder, "pooler.")
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(load_encoder(folder).state_dict())
        assert torch.equal(torch.get_rng_state(), before), "loading an encoder moves the generator"
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_encoder_comes_in_float32_and_evaluation_mode(folder: Path) -> None:
    """Half-precision weights that are trained as they are, or dropout while ranking."""
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = load_encoder(folder)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert not encoder.training


TOKENIZERS = {
    "nothing": None,
    "no JSON": "{",
    "no tokenizer": "{}",
    "a list": "[]",
    "unknown model": '{"version": "1.0", "added_tokens": [], "model": {"type": "Nope"}}',
    "wrong type": '{"added_tokens": 3}',
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_damaged_or_missing_tokenizer_is_refused(folder: Path, name: str) -> None:
    """An empty vocabulary to which every word is unknown: training runs, and learns nothing."""
    for file in ("vocab.txt", "tokenizer.json"):
        (folder / file).unlink()
    content = TOKENIZERS[name]
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(EncoderError, match="no tokenizer in"):
        load_tokenizer(folder)
