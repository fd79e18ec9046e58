"""Checkpoints: verified directories from which training goes on bit for bit, and which transformers can load.

    CHECKPOINT/  query_encoder/  entity_encoder/     each loads with AutoModel.from_pretrained (shared towers: the first only); packed where quantised
                 tokenizer/
                 raydistill.json                     what the model is and where it comes from
                 training/                           optimizer moments, position, averages so far
                 manifest.json                       written last

A directory is written aside and renamed. Only safetensors and JSON are ever read back.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from raydistill.devices import TokensAtOnce, best_device, tokens_at_once
from raydistill.errors import CheckpointError
from raydistill.models.biencoder import BiEncoder
from raydistill.students.storing import stored_encoder
from raydistill.training.manifest import RECORD, verify_checkpoint

logger = logging.getLogger(__name__)
OPTIMIZER, POSITION = "training/optimizer.safetensors", "training/position.json"
ASIDE, OLD = ".aside-", ".old-"
RESHAPING = "reshaping"
"""Under which a record says what was done to the student's shape, and whether that is over."""
KIND, STRUCTURAL = "kind", "structural"
"""Under which a record says that its folder holds no towers, but the tables of a structural model."""


@dataclass(frozen=True)
class TrainingState:
    """What training needs to go on exactly where it stopped.

    Args:
        tensors: optimizer moments and pre-batch vectors by name.
        position: epoch, step and averages so far; JSON.
    """

    tensors: dict[str, Tensor]
    position: dict[str, Any]


def newest_first(directory: Path) -> list[Path]:
    """The checkpoints below `directory`, sound or not, newest first; their names are step numbers of eight digits."""
    found = (path for path in directory.glob("[0-9]*") if path.name.isdigit() and path.is_dir())
    return sorted(found, key=lambda path: path.name, reverse=True)


def newest_good(directory: Path, before: str | None = None) -> Path | None:
    """The newest sound checkpoint below `directory`; None when there never was one. Damaged ones are named in the log.

    Args:
        directory: a trial's checkpoints.
        before: only those older than this one.

    Raises:
        CheckpointError: there are checkpoints and none is sound. Training never starts afresh silently.
    """
    problems = []
    for path in newest_first(directory):
        if before is not None and path.name >= before:
            continue
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
    """What the model of a checkpoint is and where it comes from.

    Raises:
        CheckpointError: there is no record, or it is that of a structural model.
    """
    record = any_record(path)
    if record.get(KIND) == STRUCTURAL:
        raise CheckpointError(
            f"{path} holds the tables of a structural model",
            expected="a checkpoint of raydistill with encoders that read texts",
            consequence="it has no layers, and no vector for a text: it can only teach beside a grade's own teacher",
            remedy="name it in method.teachers of method reinforced, and give a checkpoint here",
        )
    return record


def is_structural(path: str | Path) -> bool:
    """Whether a folder holds the tables of a structural model; raises as `any_record` does."""
    return any_record(path).get(KIND) == STRUCTURAL


def any_record(path: str | Path) -> dict[str, Any]:
    """The record of a checkpoint, or of a structural model.

    Raises:
        CheckpointError: there is none.
    """
    try:
        record: dict[str, Any] = json.loads((Path(path) / RECORD).read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it holds no record")
    except (OSError, ValueError) as problem:
        raise CheckpointError(
            f"{path}: {RECORD} cannot be read ({problem})",
            expected="a checkpoint of raydistill",
            consequence="it would not be known what the model is",
            remedy="check the path, or use another checkpoint of the trial (raydistill verify RUN names the damaged ones)",
        ) from None
    return record


def tell_of_other_dataset(path: str | Path, data_fingerprint: str) -> None:
    """Say that a checkpoint learned from another dataset than the one it is asked about. Not refused: any graph can be ranked."""
    learned = str(read_record(path)["data_fingerprint"])
    if learned != data_fingerprint:
        logger.warning(
            "%s learned from dataset %s, and this is %s: where that is another cut of the same graph, it may have been trained on what is tested here",
            path,
            learned[:12],
            data_fingerprint[:12],
        )


def load_model(
    path: str | Path,
    *,
    verify: bool = True,
    tokens_per_micro_batch: TokensAtOnce = "auto",
    precision: str = "fp32",
    unfinished: bool = False,
) -> BiEncoder:
    """The model of a checkpoint, in evaluation mode; `unfinished` takes one whose shape was still changing.

    Raises:
        CheckpointError: damaged, or its shape was still changing.
    """
    path = Path(path)
    if verify:
        verify_checkpoint(path)
    record = read_record(path)
    if not unfinished:
        refuse_unfinished(path, record)
    query = stored_encoder(path / "query_encoder")
    entity = query if record["shared_towers"] else stored_encoder(path / "entity_encoder")
    model = BiEncoder(
        query,
        entity,
        pooling=record["pooling"],
        tokens_per_micro_batch=tokens_at_once(tokens_per_micro_batch, best_device()),
        precision="bf16" if precision == "bf16" else "fp32",
    )
    with torch.no_grad():
        model.log_inverse_temperature.fill_(record["log_inverse_temperature"])
    return model.eval()


def refuse_unfinished(path: Path, record: dict[str, Any]) -> None:
    """Refuse a checkpoint that was written while the student's shape was still changing.

    Raises:
        CheckpointError: it was.
    """
    for one in record.get(RESHAPING, []):
        if not one["complete"]:
            raise CheckpointError(
                f"{path} was written while the student's shape was changing ({one['name']})",
                expected="a checkpoint of the shape that was asked for",
                consequence="its weights alone are not the model that was being trained",
                remedy="take a later checkpoint of the trial; this one is there to go on from",
            )


def load_training_state(path: Path) -> TrainingState:
    """What training needs to go on from a checkpoint that was verified before."""
    return TrainingState(load_file(path / OPTIMIZER), json.loads((path / POSITION).read_text(encoding="utf-8")))


def checkpoint_facts(path: str | Path) -> dict[str, Any]:
    """Layers, parameters and model bytes of a checkpoint, and its record."""
    record = read_record(path)
    return {
        key: record[key]
        for key in ("layers", "parameters", "bytes", "layer_map", "mask_ratio", "view", "method", "epoch", "lineage")
    }


def clean_aside(directory: Path) -> None:
    """Remove what interrupted saves left; a checkpoint that had only stepped aside for one of its name comes back."""
    for path in directory.glob(f"{OLD}*"):
        final = path.with_name(path.name.removeprefix(OLD))
        if final.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(final)
    for path in directory.glob(f"{ASIDE}*"):
        shutil.rmtree(path, ignore_errors=True)
