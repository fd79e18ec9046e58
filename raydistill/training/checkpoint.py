"""Checkpoints: verified directories from which training goes on bit for bit, and which transformers can load.

    CHECKPOINT/  query_encoder/  entity_encoder/     each loads with AutoModel.from_pretrained (shared towers: the first only)
                 tokenizer/
                 raydistill.json                     what the model is and where it comes from
                 training/                           optimizer moments, position, averages so far
                 manifest.json                       written last

A directory is written aside and renamed. Only safetensors and JSON are ever read back.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raydistill.errors import CheckpointError, StorageError
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_encoder
from raydistill.models.pretrained import TOKENIZER_FILES
from raydistill.models.vocabulary import whole_state
from raydistill.training.manifest import verify_manifest, write_manifest

logger = logging.getLogger(__name__)
RECORD, OPTIMIZER, POSITION = "raydistill.json", "training/optimizer.safetensors", "training/position.json"
_ASIDE = ".aside-"


@dataclass(frozen=True)
class TrainingState:
    """What training needs to go on exactly where it stopped.

    Args:
        tensors: optimizer moments and pre-batch vectors by name.
        position: epoch, step and averages so far; JSON.
    """

    tensors: dict[str, Tensor]
    position: dict[str, Any]


def save_checkpoint(
    path: Path, model: BiEncoder, tokenizer_folder: Path, record: dict[str, Any], state: TrainingState
) -> str:
    """Write a checkpoint; returns its digest. An interrupted call leaves nothing under the final name.

    Raises:
        StorageError: the disk is full or read-only.
    """
    aside = path.parent / f"{_ASIDE}{path.name}"
    with writing(path):
        shutil.rmtree(aside, ignore_errors=True)
        for name in ("query_encoder",) if model.shared_towers else ("query_encoder", "entity_encoder"):
            _save_encoder(aside / name, getattr(model, name))
        (aside / "tokenizer").mkdir()
        for file in TOKENIZER_FILES:
            if (tokenizer_folder / file).exists():
                shutil.copyfile(tokenizer_folder / file, aside / "tokenizer" / file)
        content = {**record, "log_inverse_temperature": model.log_inverse_temperature.item()}
        _write_json(aside / RECORD, {**content, **_size(aside, model)})
        (aside / "training").mkdir()
        save_file(state.tensors, aside / OPTIMIZER)
        _write_json(aside / POSITION, state.position)
        digest = write_manifest(aside)
        if path.exists():
            shutil.rmtree(path)
        os.replace(aside, path)
        _sync_directory(path.parent)
    return digest


def verify_checkpoint(path: str | Path) -> str:
    """Check every byte of a checkpoint; returns its digest.

    Raises:
        CheckpointError: it is not there or damaged, naming the file.
    """
    if not Path(path).is_dir():
        raise CheckpointError(f"{path}: no such checkpoint", expected="a checkpoint directory", remedy="check the path")
    return verify_manifest(Path(path))


def newest_good(directory: Path) -> Path | None:
    """The newest sound checkpoint below `directory`; None when there never was one. Damaged ones are named in the log.

    Raises:
        CheckpointError: there are checkpoints and none is sound. Training never starts afresh silently.
    """
    found = sorted((path for path in directory.glob("[0-9]*") if path.is_dir()), reverse=True) if directory.exists() else []
    problems = []
    for path in found:
        try:
            verify_checkpoint(path)
        except CheckpointError as problem:
            problems.append(problem.received)
            logger.warning("checkpoint passed over: %s", problem.received)
        else:
            return path
    if problems:
        raise CheckpointError(
            f"all {len(problems)} checkpoints below {directory} are damaged:\n  " + "\n  ".join(problems),
            expected="at least one sound checkpoint",
            consequence="training would start afresh and hours of work would be lost unnoticed",
            remedy=f"restore one from a backup, or delete {directory} to start this trial afresh",
        )
    return None


def read_record(path: str | Path) -> dict[str, Any]:
    """What the model of a checkpoint is and where it comes from."""
    try:
        record: dict[str, Any] = json.loads((Path(path) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{path}: {RECORD} cannot be read ({problem})", expected="a checkpoint of raydistill") from None
    return record


def load_model(path: str | Path, *, verify: bool = True, tokens_per_micro_batch: int = 16384, precision: str = "fp32") -> BiEncoder:
    """The model of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: damaged.
    """
    path = Path(path)
    if verify:
        verify_checkpoint(path)
    record = read_record(path)
    query = load_encoder(path / "query_encoder")
    entity = query if record["shared_towers"] else load_encoder(path / "entity_encoder")
    model = BiEncoder(
        query,
        entity,
        pooling=record["pooling"],
        tokens_per_micro_batch=tokens_per_micro_batch,
        precision="bf16" if precision == "bf16" else "fp32",
    )
    with torch.no_grad():
        model.log_inverse_temperature.fill_(record["log_inverse_temperature"])
    return model.eval()


def load_training_state(path: Path) -> TrainingState:
    """What training needs to go on from a checkpoint that was verified before."""
    return TrainingState(load_file(path / OPTIMIZER), json.loads((path / POSITION).read_text(encoding="utf-8")))


def checkpoint_facts(path: str | Path) -> dict[str, Any]:
    """Layers, parameters and model bytes of a checkpoint, and its record."""
    record = read_record(path)
    return {key: record[key] for key in ("layers", "parameters", "bytes", "layer_map", "mask_ratio", "view", "method", "epoch", "lineage")}


def clean_aside(directory: Path) -> None:
    """Remove what interrupted saves left."""
    for path in directory.glob(f"{_ASIDE}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into an error that says what to do."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as problem:
        raise StorageError(
            f"{path} cannot be written: {problem.strerror or problem}",
            expected="room for one more checkpoint",
            consequence="training past this point could not be resumed; the checkpoints written before are whole",
            remedy="free space (or make the folder writable) and run again with --resume",
        ) from problem
    except Exception as problem:
        # safetensors reports a full disk as an error of its own kind, not as OSError.
        if type(problem).__name__ != "SafetensorError":
            raise
        raise StorageError(
            f"{path} cannot be written: {problem}", remedy="free space and run again with --resume"
        ) from problem


def _save_encoder(folder: Path, encoder: nn.Module) -> None:
    folder.mkdir(parents=True)
    save_file(whole_state(encoder), folder / "model.safetensors", metadata={"format": "pt"})
    config = encoder.config.to_dict()  # type: ignore[union-attr, operator]
    for volatile in ("_name_or_path", "transformers_version"):
        config.pop(volatile, None)
    _write_json(folder / "config.json", {**config, "architectures": [type(encoder).__name__]})


def _size(folder: Path, model: BiEncoder) -> dict[str, int]:
    """Parameters (both towers, whole vocabulary, temperature) and bytes of the stored weights."""
    files = list(folder.glob("*_encoder/model.safetensors"))
    trained = sum(tensor.numel() for name in ("query_encoder", "entity_encoder") for tensor in whole_state(getattr(model, name)).values())
    parameters = (trained // 2 if model.shared_towers else trained) + 1
    return {"parameters": parameters, "bytes": sum(file.stat().st_size for file in files)}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


