"""One trial from its resolved configuration: builds the parts, goes on from the newest good checkpoint, yields a report per validated epoch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.config.trial import Bring, TeacherAt, TeacherReference, TrialConfig
from raydistill.devices import give_memory_back
from raydistill.errors import RunDirectoryError
from raydistill.imports import uncollected
from raydistill.teachers.shards import KEPT, KeptTeachers
from raydistill.training.gather import World
from raydistill.training.ground import about_teacher
from raydistill.training.interruption import Asked, Interruption
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.parts import TrialParts, build_parts
from raydistill.training.resumption import agreed_newest, epoch_of
from raydistill.training.saving import stored_bytes, writing
from raydistill.training.standing import BYTES


@dataclass(frozen=True)
class EpochReport:
    """What is known at the end of a validated epoch.

    Args:
        epoch: epochs completed, from 1.
        epochs: epochs planned.
        step: optimizer steps taken.
        metrics: `valid/both/mrr` and the like, `loss`, `loss/<term>`, `gradient_norm/<term>`, what terms note besides, `valid/<variant>/mrr` of models inside the student, `valid/part1/mrr` and so on where parts of the graph are told apart, `student/layers` and `assistant/...` where one took its place, `student/bytes` of its stored weights (first worker only), `learning_rate`, `examples_per_second`.
        checkpoint: path of this epoch's checkpoint; None on workers other than the first.
        digest: SHA-256 of its manifest; None likewise.
        finished: whether this is the last epoch.
    """

    epoch: int
    epochs: int
    step: int
    metrics: dict[str, float]
    checkpoint: str | None
    digest: str | None
    finished: bool


def run_trial(
    config: TrialConfig,
    directory: Path,
    world: World,
    teacher_at: TeacherAt | None = None,
    interrupted: Asked | None = None,
    bring: Bring | None = None,
    saved: Callable[[], None] | None = None,
) -> Iterator[EpochReport]:
    """Train a trial in its directory.

    A checkpoint is whole on disk before its report is yielded. A trial that was interrupted goes on from the newest good checkpoint below
    `directory/checkpoints` and first yields that checkpoint's report again, because it may have been lost; one that is finished yields its
    last report only. All workers yield equally often.

    Where the configuration says that the teacher changes, the first worker asks who teaches before every epoch, and the trial ends early, as
    if interrupted, where the answer is that nobody does yet.

    Args:
        config: resolved; nothing left to search.
        directory: of this trial alone.
        world: the trial's workers.
        teacher_at: who teaches an epoch, from 0; needed where `config.settle_epochs` is set.
        interrupted: whether to end; asked before every epoch, after every step, and before every micro-batch of a validation or of the teacher's
            pass over the training texts; and by another thread beside a long step. All workers are given one, or none.
        bring: where a teacher that came later lies on this worker's machine, fetched there if need be; None = at its path.
        saved: called when what was learnt is on disk and the end is put off, by other workers or by a long step, whose thread it is called beside: it may come to no report.

    Raises:
        TrialInterruptedError: it was interrupted, and has saved where it stands.
        RayDistillError: of the kind that names what is wrong: encoder, data, checkpoints, storage, or the loss.
    """
    give_memory_back()
    if world.rank == 0:
        _claim(config, directory)
    keeper = CheckpointKeeper(directory / "checkpoints", keep=config.training.keep_checkpoints, writes=world.rank == 0)
    changing = _Changing(config, teacher_at, world, bring) if config.settle_epochs is not None else None
    with contextlib.closing(KeptTeachers(_kept(directory))) as kept:
        newest = agreed_newest(keeper.directory, world)
        parts = _built(config, world, newest, changing, kept)
        if parts is None:
            return
        resumed = keeper.resume(parts, newest)
        world.barrier()
        if resumed is not None:
            yield _report(parts, config, resumed.metrics, str(resumed.path), resumed.digest, world)
        yield from _train(parts, keeper, Interruption(interrupted, keeper, saved), changing)


def _built(
    config: TrialConfig, world: World, newest: Path | None, changing: _Changing | None, kept: KeptTeachers
) -> TrialParts | None:
    """The parts of a trial, before it is resumed; None where nobody teaches it yet."""
    first = None
    if changing is not None:
        # The newest checkpoint's epoch is asked for: what a resumed trial is built with is then the teacher it goes on with.
        first = changing.at(min(epoch_of(newest), config.training.epochs - 1))
        if first is None:
            return None
    with uncollected():
        return build_parts(config, world, first, kept)


def _kept(directory: Path) -> Path:
    """Where teachers' outputs are kept: beside the trials of their grade."""
    return (directory.parent.parent if directory.parent.name == "trials" else directory) / KEPT


class _Changing:
    """Who teaches an epoch, as the first worker was told."""

    def __init__(self, config: TrialConfig, teacher_at: TeacherAt | None, world: World, bring: Bring | None) -> None:
        assert teacher_at is not None, "a trial whose teacher changes has to be told who teaches"
        self.teacher_at, self.world, self.bring = teacher_at, world, bring

    def at(self, epoch: int) -> TeacherReference | None:
        """The teacher of an epoch, from 0."""
        told = self.teacher_at(epoch) if self.world.rank == 0 else None
        text = self.world.agree("" if told is None else told.model_dump_json())
        if not text:
            return None
        teacher = TeacherReference.model_validate_json(text)
        with about_teacher():
            # By every worker: what one machine has fetched does not lie on another.
            return teacher if self.bring is None else self.bring(teacher)


def _train(
    parts: TrialParts, keeper: CheckpointKeeper, interruption: Interruption, changing: _Changing | None
) -> Iterator[EpochReport]:
    trainer, config, world = parts.trainer, parts.config, parts.trainer.world
    settings = config.training
    while trainer.progress.epoch < settings.epochs:
        if changing is not None:
            teacher = changing.at(trainer.progress.epoch)
            if teacher is None:
                keeper.save_unvalidated(parts)
                return
            if teacher != parts.config.teacher:
                parts = parts.taught_by(teacher)
        interruption.before_epoch(parts)
        with interruption.beside_steps(parts):
            for step in trainer.run_epoch():
                interruption.after_step(parts)
                if settings.checkpoint_steps and step % settings.checkpoint_steps == 0 and step < parts.steps_per_epoch:
                    keeper.save_inside_epoch(parts)
        epoch = trainer.progress.epoch
        if epoch % settings.evaluate_every and epoch < settings.epochs:
            continue
        measured = parts.validate(interruption.while_validating(parts), last=epoch == settings.epochs)
        timings = trainer.averages()
        learned = {key: timings.pop(key) for key in list(timings) if key not in ("seconds", "examples_per_second")}
        metrics = {**measured, **learned, "learning_rate": parts.optimizer.rate(trainer.global_step - 1)}
        saved = keeper.save_epoch(parts, metrics)
        world.barrier()
        path, digest = (str(saved.path), saved.digest) if saved is not None else (None, None)
        try:
            yield _report(parts, config, {**metrics, **timings}, path, digest, world)
        except GeneratorExit:
            # Stopped early: this epoch was the last.
            keeper.finish(parts)
            raise
    keeper.finish(parts)


def _report(
    parts: TrialParts,
    config: TrialConfig,
    metrics: dict[str, float],
    path: str | None,
    digest: str | None,
    world: World,
) -> EpochReport:
    epoch = parts.trainer.progress.epoch
    if path is not None and world.rank == 0:
        metrics = {**metrics, BYTES: float(stored_bytes(Path(path)))}
    return EpochReport(
        epoch=epoch,
        epochs=config.training.epochs,
        step=parts.trainer.global_step,
        metrics=metrics,
        checkpoint=path if world.rank == 0 else None,
        digest=digest if world.rank == 0 else None,
        finished=epoch >= config.training.epochs,
    )


def _claim(config: TrialConfig, directory: Path) -> None:
    """Write the trial's configuration beside its checkpoints, or check that it is this one.

    Raises:
        RunDirectoryError: the directory holds another trial.
        StorageError: it cannot be written.
    """
    path = directory / "trial.json"
    content: dict[str, Any] = {"identity": config.identity, **config.model_dump(mode="json")}
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("identity")
        except (ValueError, AttributeError):
            found = "unreadable"
        if found == config.identity:
            return
        if (directory / "checkpoints").exists():
            raise RunDirectoryError(
                f"{directory} holds trial {found}",
                expected=f"trial {config.identity}",
                consequence="one trial's checkpoints would be continued with another's settings",
                remedy="use another run directory",
            )
    aside = path.with_suffix(".aside")
    with writing(path):
        aside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        aside.replace(path)
