"""Which checkpoints of a trial are on disk: the best one, the newest few, and how training goes on from the newest."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raydistill.models.temporary import is_lasting
from raydistill.students.storing import load_master_weights, master_weights
from raydistill.training.checkpoint import (
    ASIDE,
    RESHAPING,
    TrainingState,
    load_model,
    load_training_state,
    newest_first,
    read_record,
)
from raydistill.training.manifest import manifest_digest
from raydistill.training.own import load_own, own_of, own_tensors
from raydistill.training.parts import TrialParts
from raydistill.training.progress import Progress
from raydistill.training.saving import save_checkpoint
from raydistill.training.standing import SELECTION

logger = logging.getLogger(__name__)
_EARLIER = "pre_batch"


@dataclass(frozen=True)
class Saved:
    """A checkpoint of a validated epoch."""

    path: Path
    digest: str
    metrics: dict[str, float]


class CheckpointKeeper:
    """Writes a trial's checkpoints and removes those that are neither the best nor among the newest.

    Args:
        directory: the trial's `checkpoints` folder.
        keep: newest checkpoints kept while training.
        writes: False on workers other than the first: they read only.
    """

    def __init__(self, directory: Path, *, keep: int, writes: bool) -> None:
        self.directory, self.keep, self.writes = directory, keep, writes
        self.history: list[dict[str, Any]] = []

    def resume(self, parts: TrialParts, path: Path | None) -> Saved | None:
        """Put `parts` where a checkpoint stands, or leave them at their beginning; returns it if it ends a validated epoch."""
        if path is None:
            return None
        state = load_training_state(path)
        position = state.position
        self.history = position["history"]
        parts.trainer.progress = Progress(position["epoch"], position["step_in_epoch"], position["sums"])
        parts.restore_shape(read_record(path).get(RESHAPING, []), state.tensors)
        if not load_master_weights(parts.student, state.tensors):
            _load_student(parts, path)
        load_own(own_of(parts.trainer.terms), state.tensors)
        parts.optimizer.load(state.tensors)
        _load_earlier(parts, state)
        logger.info("going on from %s", path)
        if position["step_in_epoch"] or not self.history or self.history[-1]["checkpoint"] != path.name:
            return None
        return Saved(path, manifest_digest(path), self.history[-1]["metrics"])

    def save_epoch(self, parts: TrialParts, metrics: dict[str, float]) -> Saved | None:
        """Write the checkpoint of a validated epoch; None on workers that do not write.

        Raises:
            NonFiniteLossError: a device has not taken the last step, which no checkpoint may speak of; on all workers.
        """
        parts.trainer.verdicts.settle()
        if not self.writes:
            return None
        name = _name(parts)
        self.history.append({"epoch": parts.trainer.progress.epoch, "checkpoint": name, "metrics": metrics})
        digest = self._save(parts, name, metrics)
        self._prune(self.keep, name)
        return Saved(self.directory / name, digest, metrics)

    def save_inside_epoch(self, parts: TrialParts) -> None:
        """Write a checkpoint to go on from, in the middle of an epoch; raises as `save_epoch` does."""
        parts.trainer.verdicts.settle()
        if self.writes:
            self._save(parts, _name(parts), {})
            self._prune(self.keep, _name(parts))

    def save_unvalidated(self, parts: TrialParts) -> None:
        """Between two epochs, and until the first step of the next has changed anything, write a checkpoint to go on from where there is none: that of an epoch that was not validated."""
        progress = parts.trainer.progress
        if progress.epoch % parts.config.training.evaluate_every and not progress.step_in_epoch:
            self.save_inside_epoch(parts)

    def finish(self, parts: TrialParts) -> None:
        """The trial is over: keep the best and the last checkpoint only."""
        if self.writes:
            self._prune(1, _name(parts))

    def best(self) -> str | None:
        """Name of the best epoch's checkpoint: highest validation MRR, the earliest of equals."""
        able = [entry for entry in self.history if SELECTION in entry["metrics"]]
        if not able:
            return None
        return str(max(able, key=lambda entry: (entry["metrics"][SELECTION], -entry["epoch"]))["checkpoint"])

    def _save(self, parts: TrialParts, name: str, metrics: dict[str, float]) -> str:
        progress = parts.trainer.progress
        record = {**parts.record, "epoch": progress.epoch, "step": parts.trainer.global_step, "metrics": metrics}
        structure = parts.trainer.structure
        if structure.reshapers:
            record |= {RESHAPING: structure.records(), **structure.facts}
        sums = {key: float(value) for key, value in progress.sums.items() if key != "seconds"}
        position: dict[str, Any] = {
            "epoch": progress.epoch,
            "step_in_epoch": progress.step_in_epoch,
            "sums": sums,
            "history": self.history,
        }
        tensors = {**parts.optimizer.tensors(), **own_tensors(own_of(parts.trainer.terms)), **structure.tensors()}
        tensors.update(master_weights(parts.student))
        for index, (vectors, entities) in enumerate(
            zip(parts.trainer.pre_batch.vectors, parts.trainer.pre_batch.entities, strict=True)
        ):
            tensors[f"{_EARLIER}.{index}"] = vectors.to("cpu").contiguous()
            position.setdefault(_EARLIER, []).append(entities.tolist())
        return save_checkpoint(
            self.directory / name, parts.student, parts.tokenizer_folder, record, TrainingState(tensors, position)
        )

    def _prune(self, newest: int, current: str) -> None:
        """Remove what is neither the best nor among the `newest` up to the `current` one.

        Later ones than `current` were found damaged when the trial was resumed and will be written anew; counted as new, they would push
        out sound ones.
        """
        best = self.best()
        for path in [path for path in newest_first(self.directory) if path.name <= current][newest:]:
            if path.name != best:
                # Out of sight in one step: a crash in the middle of removing must not leave a checkpoint that looks damaged.
                aside = path.with_name(f"{ASIDE}{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                shutil.rmtree(aside)


def _name(parts: TrialParts) -> str:
    return f"{parts.trainer.global_step:08d}"


def _load_student(parts: TrialParts, path: Path) -> None:
    """Copy a checkpoint's weights into the student that is there, trimmed or not; what is temporary is not among them."""
    loaded = load_model(path, verify=False, unfinished=True)
    for name in ("query_encoder", "entity_encoder"):
        source = dict(getattr(loaded, name).named_parameters())
        lasts = is_lasting(getattr(parts.student, name))
        for key, parameter in getattr(parts.student, name).named_parameters():
            if not lasts(key):
                continue
            value = source[key].data
            if value.shape != parameter.shape:
                value = value[getattr(parts.student, name).embeddings.word_embeddings.kept]
            parameter.data.copy_(value)
    parts.student.log_inverse_temperature.data.copy_(loaded.log_inverse_temperature.data)


def _load_earlier(parts: TrialParts, state: TrainingState) -> None:
    memory = parts.trainer.pre_batch
    device = parts.student.log_inverse_temperature.device
    for index, entities in enumerate(state.position.get(_EARLIER, [])):
        memory.push(state.tensors[f"{_EARLIER}.{index}"].to(device), np.asarray(entities, np.int64))
