"""A workshop for places elsewhere: what the functions of another workshop need is brought to this machine first, what they write is sent on.

Trainer and evaluation see local folders alone. Wrapped is only what lies elsewhere; a campaign whose data and run are local goes without a courier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from raydistill.config.other_teachers import other_places, relocated
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import Bring, TeacherAt, TeacherReference, TrialConfig
from raydistill.errors import StorageError, TrialInterruptedError
from raydistill.orchestration.depot import Depot, announced_folder
from raydistill.orchestration.mirror import TrialMirror
from raydistill.orchestration.patience import hurried
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.shelf import is_on_shelf
from raydistill.orchestration.uses import Uses
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.ground import Ground
from raydistill.teachers.shards import KeptTeachers

if TYPE_CHECKING:
    from raydistill.training.gather import World
    from raydistill.training.trial import EpochReport


def served(
    workshop: Workshop, config: CampaignConfig, store: RunStore, filesystem: fs.FileSystem | None = None
) -> Workshop:
    """The workshop for a campaign: as it is where everything is local, else behind a courier."""
    depot = Depot(filesystem)
    places = [config.data.path, *other_places(config)]
    places += [config.teacher.checkpoint] if config.teacher.checkpoint is not None else []
    if store.remote is None and not any("://" in place or depot.is_needed(place) for place in places):
        return workshop
    return Courier(workshop, depot, store).workshop()


@contextmanager
def _ended_rather_than_failed(interrupted: Callable[[], bool]) -> Iterator[None]:
    """A trial that was told to end, and whose storage does not answer meanwhile, has ended: what it has saved lies here, and is sent when it goes on (`send_late`).

    Raises:
        TrialInterruptedError: in place of the storage's error, which would end the campaign.
    """
    try:
        yield
    except StorageError as problem:
        if not interrupted():
            raise
        raise TrialInterruptedError(
            f"interrupted, and what was saved could not be sent: {problem.received}",
            remedy="go on with --resume on this machine, which sends it; on another one the trial goes on from what was sent before",
        ) from problem


@dataclass(frozen=True)
class Courier:
    """Fetches and sends around the functions of a workshop.

    Attributes:
        inner: the workshop that knows local folders only.
        depot: of whichever machine it is used on.
        store: where the run lies.
    """

    inner: Workshop
    depot: Depot
    store: RunStore

    def workshop(self) -> Workshop:
        """The workshop that knows places elsewhere."""
        return replace(
            self.inner,
            run_trial=self.run_trial,
            verify_checkpoint=self.verify_checkpoint,
            checkpoint_facts=self.checkpoint_facts,
            test_metrics=self.test_metrics,
            survey=self.survey,
            query_milliseconds=self.query_milliseconds,
        )

    def survey(self, config: CampaignConfig) -> Ground:
        """What a campaign stands on; teachers that were given keep the names of their places."""
        with Uses() as uses:
            brought = partial(self._checkpoint, uses)
            ground = self.inner.survey(relocated(self._here(uses, config), brought))
            others = {place: self._named(place, ground.others[brought(place)]) for place in other_places(config)}
        ground = replace(ground, others=others)
        place, given = config.teacher.checkpoint, ground.given_teacher
        return ground if given is None or place is None else replace(ground, given_teacher=self._named(place, given))

    def _named(self, place: str, found: TeacherReference) -> TeacherReference:
        """A checkpoint that was found here, by the name of the place where others find it."""
        elsewhere = "://" in place or self.depot.is_needed(place)
        return TeacherReference(path=place, digest=found.digest) if elsewhere else found

    def run_trial(
        self,
        config: TrialConfig,
        directory: Path,
        world: Any,
        teacher_at: TeacherAt,
        interrupted: Callable[[], bool],
        bring: Bring | None = None,
        saved: Callable[[], None] | None = None,
    ) -> Iterator[EpochReport]:
        """Train one trial here; a checkpoint is sent before it is reported, or as soon as it was written where the machine may be lost before that (`saved` hears of it after)."""
        with (
            _ended_rather_than_failed(interrupted),
            closing(KeptTeachers(announced_folder())) as kept,
            Uses() as uses,
            hurried(interrupted),
        ):
            data = config.data.model_copy(update={"path": str(self.depot.dataset(config.data.path, uses))})
            others = tuple(self._at_hand(uses, other) for other in config.others)
            teacher = self._teacher(uses, config.teacher)
            config = config.model_copy(update={"data": data, "teacher": teacher, "others": others})
            brought = partial(self._brought, kept, uses, config.others)
            start = partial(self.inner.run_trial, config, directory, world, teacher_at, interrupted, brought)
            yield from start(saved) if self.store.remote is None else self._mirrored(start, directory, world, saved)

    def _mirrored(
        self, start: Callable[..., Iterator[EpochReport]], directory: Path, world: Any, saved: Callable[[], None] | None
    ) -> Iterator[EpochReport]:
        """The reports of a trial whose run lies elsewhere."""
        assert self.store.remote is not None, "a local run has no mirror"
        mirror = TrialMirror(directory, self.store.remote.below(directory.relative_to(self.store.root).as_posix()))
        first, ended = world.rank == 0, False
        if first:
            mirror.send_late()
        if world.size > 1:
            world.barrier()
        mirror.fetch()

        def sent() -> None:
            mirror.send()
            if saved is not None:
                saved()

        try:
            with closing(start(sent)) as reports:  # type: ignore[type-var]
                for report in reports:
                    if report.checkpoint is not None:
                        mirror.send()
                        relative = Path(report.checkpoint).relative_to(self.store.root).as_posix()
                        report = replace(report, checkpoint=self.store.located(relative))
                    ended = report.finished
                    yield report
        except GeneratorExit:
            # It was stopped: its last report is known.
            ended = True
            raise
        finally:
            # Whatever ends it: the trial's last words are to keep fewer checkpoints, and a preempted one has saved one more.
            if first:
                mirror.send()
            # All of its workers have gone on from what lay here long ago, or there would be no report.
            if first and ended:
                mirror.forget()

    def verify_checkpoint(self, path: str) -> str:
        """SHA-256 of a sound checkpoint's manifest, as it lies at its place: it is fetched, and read here."""
        with Uses() as uses:
            return self.inner.verify_checkpoint(self._checkpoint(uses, path))

    def checkpoint_facts(self, path: str) -> dict[str, Any]:
        """Parameters, bytes and layers."""
        with Uses() as uses:
            return self.inner.checkpoint_facts(self._checkpoint(uses, path))

    def test_metrics(self, path: str, config: CampaignConfig, world: World) -> dict[str, float]:
        """Score a checkpoint on the test split."""
        with Uses() as uses:
            return self.inner.test_metrics(self._checkpoint(uses, path), self._here(uses, config), world)

    def query_milliseconds(self, path: str, config: CampaignConfig) -> float:
        """Time of one query."""
        with Uses() as uses:
            return self.inner.query_milliseconds(self._checkpoint(uses, path), self._here(uses, config))

    def _here(self, uses: Uses, config: CampaignConfig) -> CampaignConfig:
        """The configuration with its places brought to this machine."""
        data = config.data.model_copy(update={"path": str(self.depot.dataset(config.data.path, uses))})
        if config.teacher.checkpoint is None:
            return config.model_copy(update={"data": data})
        teacher = config.teacher.model_copy(update={"checkpoint": self._checkpoint(uses, config.teacher.checkpoint)})
        return config.model_copy(update={"data": data, "teacher": teacher})

    def _brought(
        self, kept: KeptTeachers, uses: Uses, others: tuple[TeacherReference, ...], teacher: TeacherReference
    ) -> TeacherReference:
        """A teacher at an epoch's beginning; the one before it, where it was only announced, goes with the last process of this machine that leaves it."""
        if self.store.remote is None:
            return TeacherReference(path=self._checkpoint(uses, teacher.path), digest=teacher.digest)
        # Those who teach beside it stay claimed.
        folder, *_ = kept.folders([one.digest for one in (teacher, *others)])
        path = self._checkpoint(uses, teacher.path, folder if is_on_shelf(teacher.path) else None)
        return TeacherReference(path=path, digest=teacher.digest)

    def _teacher(self, uses: Uses, teacher: TeacherReference | None) -> TeacherReference | None:
        # Where teachers change, the configuration names none yet: the path is empty.
        if teacher is None or not teacher.path:
            return teacher
        return self._at_hand(uses, teacher)

    def _at_hand(self, uses: Uses, teacher: TeacherReference) -> TeacherReference:
        return TeacherReference(path=self._checkpoint(uses, teacher.path), digest=teacher.digest)

    def _checkpoint(self, uses: Uses, place: str, folder: Path | None = None) -> str:
        if self.store.remote is None and self.store.relative(place) is not None:
            return place
        return str(self.depot.checkpoint(place, self.inner.verify_checkpoint, folder, uses))
