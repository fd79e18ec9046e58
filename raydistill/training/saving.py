"""Writing a checkpoint: aside, synced, then renamed, so that what carries its final name is whole."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

LEFT_SECONDS = 86400.0
"""A folder that somebody has begun to write, and not touched for so long, is nobody's any more."""


def save_checkpoint(
    path: Path,
    model: BiEncoder,
    tokenizer_folder: Path,
    record: dict[str, Any],
    state: TrainingState,
    *,
    in_trial: bool = True,
) -> str:
    """Write a checkpoint; returns its digest. An interrupted call leaves nothing under the final name.

    Args:
        path: its name.
        model: what is written.
        tokenizer_folder: its tokenizer's.
        record: what is told of it.
        state: what training goes on from.
        in_trial: as for `save_folder`.

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

    return save_folder(path, fill, in_trial=in_trial)


def save_folder(path: Path, fill: Callable[[Path], None], *, in_trial: bool = True) -> str:
    """Write a folder with a manifest, which is whole once it carries its name; returns its digest.

    Args:
        path: its name.
        fill: writes its files into a new folder beside it, which is removed if this fails.
        in_trial: it lies in a trial, where one process writes and the next one removes what that left (`clean_aside`); else it lies wherever a user wants it,
            and what one of several that write to that name at a time has written stays, whole.

    Raises:
        StorageError: the disk is full or read-only.
    """
    with writing(path), _beside(path, in_trial) as aside:
        fill(aside)
        digest = write_manifest(aside)
        _put(aside, path, in_trial)
    return digest


@contextmanager
def _beside(path: Path, in_trial: bool) -> Iterator[Path]:
    """A new folder on the same disk; whatever is still there at the end is removed."""
    if in_trial:
        holder = aside = path.parent / f"{ASIDE}{path.name}"
        shutil.rmtree(aside, ignore_errors=True)
    else:
        # One in another: mkdtemp makes folders that nobody else may read.
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}{ASIDE}", dir=path.parent))
        aside = holder / path.name
    try:
        aside.mkdir()
        yield aside
    finally:
        shutil.rmtree(holder, ignore_errors=True)


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


def _put(aside: Path, path: Path, in_trial: bool) -> None:
    """Give a folder its final name. One of that name steps aside whole, and comes back if this fails.

    Killed between the two renames, a trial gets it back from `clean_aside`; elsewhere it lies beside the name until the next one of that name is whole.
    """
    if path.exists():
        old = _old_place(path, in_trial)
        try:
            path.rename(old)
            os.replace(aside, path)
        except BaseException:
            # A name that is taken again is another writer's.
            if os.path.lexists(old) and not os.path.lexists(path):
                old.rename(path)
            if not in_trial:
                # Nothing has stepped aside, or it is back.
                with suppress(OSError):
                    old.parent.rmdir()
            raise
    else:
        os.replace(aside, path)
    _sync_directory(path.parent)
    for old in _old_ones(path, in_trial):
        shutil.rmtree(old, ignore_errors=True)


def _old_place(path: Path, in_trial: bool) -> Path:
    """Where what has the name now may step aside; nothing is there."""
    if not in_trial:
        # One in another: a link cannot take the place of a folder.
        return Path(tempfile.mkdtemp(prefix=f".{path.name}{OLD}", dir=path.parent)) / path.name
    old = path.parent / f"{OLD}{path.name}"
    shutil.rmtree(old, ignore_errors=True)
    return old


def _old_ones(path: Path, in_trial: bool) -> list[Path]:
    """Everything that stepped aside for a folder that is whole now, and what those have left that were killed while they wrote it."""
    if in_trial:
        return [path.parent / f"{OLD}{path.name}"]
    name = f".{glob.escape(path.name)}"
    # Another one may be writing to that name just now.
    abandoned = (one for one in path.parent.glob(f"{name}{ASIDE}*") if time.time() - one.stat().st_mtime > LEFT_SECONDS)
    return [*path.parent.glob(f"{name}{OLD}*"), *abandoned]


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
