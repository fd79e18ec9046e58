"""Writing a checkpoint: aside, synced, then renamed, so that what carries its final name is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from raydistill.errors import ConfigError, StorageError
from raydistill.models.biencoder import BiEncoder
from raydistill.models.pretrained import TOKENIZER_FILES
from raydistill.models.vocabulary import whole_state
from raydistill.students.storing import store_weights
from raydistill.students.units import encoders_of
from raydistill.training.checkpoint import ASIDE, OLD, OPTIMIZER, POSITION, TrainingState
from raydistill.training.manifest import RECORD, write_manifest


def save_checkpoint(
    path: Path, model: BiEncoder, tokenizer_folder: Path, record: dict[str, Any], state: TrainingState
) -> str:
    """Write a checkpoint; returns its digest. An interrupted call leaves nothing under the final name.

    Raises:
        StorageError: the disk is full or read-only.
    """

    def fill(aside: Path) -> None:
        for name, encoder in encoders_of(model).items():
            _save_encoder(aside / name, encoder)
        (aside / "tokenizer").mkdir()
        for file in TOKENIZER_FILES:
            if (tokenizer_folder / file).exists():
                shutil.copyfile(tokenizer_folder / file, aside / "tokenizer" / file)
        # A tokenizer folder of the hub does not name its class; transformers looks for the encoder's type beside it.
        write_json(aside / "tokenizer" / "config.json", {"model_type": model.query_encoder.config.model_type})  # type: ignore[union-attr]
        content = {**record, "log_inverse_temperature": model.log_inverse_temperature.item()}
        write_json(aside / RECORD, {**content, **_size(aside, model)})
        (aside / "training").mkdir()
        save_file(state.tensors, aside / OPTIMIZER)
        write_json(aside / POSITION, state.position)

    return save_folder(path, fill)


def save_folder(path: Path, fill: Callable[[Path], None]) -> str:
    """Write a folder with a manifest, which is whole once it carries its name; returns its digest.

    Args:
        path: its name.
        fill: writes its files into a new folder beside it.

    Raises:
        StorageError: the disk is full or read-only.
    """
    aside = path.parent / f"{ASIDE}{path.name}"
    with writing(path):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        fill(aside)
        digest = write_manifest(aside)
        _put(aside, path)
    return digest


def require_new_folder(out: str | Path, consequence: str) -> None:
    """Refuse to write where something lies.

    Args:
        out: the folder that is to be written.
        consequence: what would happen.

    Raises:
        ConfigError: it is there already.
    """
    if Path(out).exists():
        raise ConfigError(
            f"{out} is there already",
            expected="a new folder",
            consequence=consequence,
            remedy="choose another one, or remove it",
        )


def _put(aside: Path, path: Path) -> None:
    """Give a checkpoint its final name. One of that name steps aside whole, and comes back if this is cut short (`clean_aside`)."""
    old = path.parent / f"{OLD}{path.name}"
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    os.replace(aside, path)
    _sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into an error that says what to do."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as problem:
        raise StorageError(
            f"{path} cannot be written: {problem.strerror or problem}",
            expected="room for one more, in a folder that may be written",
            consequence="what was learnt since the last one would be lost; what was written before is whole",
            remedy="free space, or make the folder writable, and run again: a campaign goes on with --resume",
        ) from problem
    except Exception as problem:
        # safetensors reports a full disk as an error of its own kind, not as OSError.
        if type(problem).__name__ != "SafetensorError":
            raise
        raise StorageError(
            f"{path} cannot be written: {problem}", remedy="free space and run again: a campaign goes on with --resume"
        ) from problem


def _save_encoder(folder: Path, encoder: nn.Module) -> None:
    folder.mkdir(parents=True)
    store_weights(folder, encoder)
    config = encoder.config.to_dict()  # type: ignore[union-attr, operator]
    for volatile in ("_name_or_path", "transformers_version"):
        config.pop(volatile, None)
    write_json(folder / "config.json", {**config, "architectures": [type(encoder).__name__]})


def _size(folder: Path, model: BiEncoder) -> dict[str, int]:
    """Parameters (each tower once, whole vocabulary, temperature) and bytes of the stored weights."""
    whole = [tensor for encoder in encoders_of(model).values() for tensor in whole_state(encoder).values()]
    parameters = sum(tensor.numel() for tensor in whole) + 1
    return {"parameters": parameters, "bytes": stored_bytes(folder)}


def stored_bytes(checkpoint: Path) -> int:
    """Bytes of a checkpoint's weights as they are stored, packed or not."""
    return sum(file.stat().st_size for file in checkpoint.glob("*_encoder/*.safetensors"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a record: keys in order, so that equal contents are equal bytes."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
