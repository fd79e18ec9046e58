"""A workshop that trains nothing: small, deterministic, and as careful with its files as the real one.

What a trial "learns" in an epoch is a hash of what it learnt before, so that a resumed trial ends with the same bytes only if it resumed rightly.
Behaviour is asked for by values of the configuration (mask ratio NAN_RATIO: the loss becomes NaN) and by `RUN/.control.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raydistill.config.load import parse_config
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherAt, TeacherReference, TrialConfig
from raydistill.errors import (
    CheckpointError,
    NonFiniteLossError,
    OutOfMemoryError,
    StorageError,
    TeacherError,
    TrialInterruptedError,
)
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.workshop import Workshop
from raydistill.planning.grades import GradePlan, Lineage, grade_plans, lineages_of, trial_config
from raydistill.planning.ground import Ground
from raydistill.planning.search import Observation, grade_space, propose, trial_limit

NAN_RATIO = 0.13
CRASH_RATIO = 0.17
TRAINED = "trained.log"
KILLED = ".killed"
ENDED = "ended.log"
"""Beside a trial's checkpoints: a line for each time it was told to end, with its number of workers and the moment."""


@dataclass(frozen=True)
class Report:
    epoch: int
    epochs: int
    step: int
    metrics: dict[str, float]
    checkpoint: str | None
    digest: str | None
    finished: bool


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    size: int = 1

    def barrier(self) -> None:
        import torch.distributed

        torch.distributed.barrier()


def campaign(**changes: Any) -> CampaignConfig:
    """A small campaign: a teacher of twelve layers and two grades of two trials each."""
    content: dict[str, Any] = {
        "data": {"path": "nowhere"},
        "encoder": {"name": "nobody"},
        "grades": [
            {"layers": 6, "mask_ratio": {"choice": [0.1, 0.2]}},
            {"layers": 3, "layer_map": {"choice": ["skip", "last"]}},
        ],
        "search": {"trials": 2},
        "training": {"epochs": 3, "batch_size": 4},
    }
    return parse_config({**content, **changes})


def control(root: Path, **settings: Any) -> None:
    """Ask the trials of a run for something."""
    root.mkdir(parents=True, exist_ok=True)
    (root / ".control.json").write_text(json.dumps(settings))


def run_trial(
    config: TrialConfig,
    directory: Path,
    world: Ranks,
    teacher_at: TeacherAt | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    bring: Callable[[TeacherReference], TeacherReference] | None = None,
    saved: Callable[[], None] | None = None,
) -> Iterator[Report]:
    settings = _settings(directory.parents[3])
    if world.rank == 0 and "warning" in settings:
        logging.getLogger("raydistill.fakes").warning(settings["warning"])
    grade = directory.parents[1]
    # A trial may not go on before it could be struck: at 0, before it has told anybody that it is there.
    mortal = settings.get("until_killed", {}).get(grade.name)
    if mortal == 0:
        _wait_for_a_kill(grade)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"pid-{world.rank}").write_text(str(os.getpid()))
    if settings.get("deaf"):
        _hear_nothing(settings["seconds"])
    checkpoints = directory / "checkpoints"
    epochs = config.training.epochs
    done = _newest(checkpoints)
    if done:
        yield _report(config, checkpoints, done, world)
    for epoch in range(done + 1, epochs + 1):
        if settings.get("apart"):
            _work_apart(directory, world, interrupted)
        _work(settings.get("seconds", 0.0), directory, world, interrupted)
        if epoch == epochs and (other := settings.get("until", {}).get(grade.name)):
            _wait_for(grade.parent / other, settings.get("trials", 0))
        if mortal is not None and epoch > mortal:
            _wait_for_a_kill(grade)
        if epoch == 1 and settings.get("patient") == grade.name:
            _wait_behind(directory, settings["trials"])
        if world.size > 1:
            import torch.distributed

            torch.distributed.barrier()
        if config.mask_ratio == NAN_RATIO and epoch == 2:
            raise NonFiniteLossError("the loss is nan at step 7", expected="a finite loss")
        if config.mask_ratio == CRASH_RATIO and not settings.get("mended"):
            os._exit(1)
        teacher = config.teacher
        if config.settle_epochs is not None and world.rank == 0:
            assert teacher_at is not None
            teacher = teacher_at(epoch - 1)
        if config.settle_epochs is not None and world.size > 1:
            import torch.distributed

            told = [teacher]
            torch.distributed.broadcast_object_list(told)
            [teacher] = told
        if config.settle_epochs is not None and teacher is None:
            return
        if config.settle_epochs is not None and bring is not None:
            assert teacher is not None
            with _teaching():
                teacher = bring(teacher)
        if world.rank == 0:
            if settings.get("damages") == grade.name:
                _damage(teacher, directory)
            _learn(config, teacher, directory, epoch)
        yield _report(config, checkpoints, epoch, world)
    if settings.get("lingers", {}).get(grade.name, 0) > _begun(grade):
        _wait_for_the_next(grade)


def _hear_nothing(seconds: float) -> None:
    """A long call that no signal ends but SIGKILL."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(seconds)


def _work(seconds: float, directory: Path, world: Ranks, interrupted: Callable[[], bool]) -> None:
    """Let time pass, in steps after which any worker's word ends all of them."""
    deadline = time.monotonic() + seconds
    while True:
        ends, late = interrupted(), time.monotonic() > deadline
        if world.size > 1:
            import torch

            said = torch.tensor([int(ends), int(late)])
            torch.distributed.all_reduce(said)
            ends, late = (bool(one) for one in said)
        if ends:
            _end(directory, world)
        if late:
            return
        time.sleep(0.02)


def _work_apart(directory: Path, world: Ranks, interrupted: Callable[[], bool]) -> None:
    """Let time pass as a validation does: workers do not hear of each other, and the first one alone can save."""
    while not interrupted():
        time.sleep(0.02)
    _end(directory, world)


def _end(directory: Path, world: Ranks) -> None:
    if world.rank == 0:
        time.sleep(_settings(directory.parents[3]).get("saves", 0))
        with open(directory / ENDED, "a") as file:
            file.write(f"{world.size} {time.time()}\n")
    if world.size > 1:
        world.barrier()
    raise TrialInterruptedError("told to end")


def verify(path: str) -> str:
    folder = Path(path)
    if len(folder.parents) > 5:
        _kill_who_stays(folder.parents[1], _settings(folder.parents[5]))
    try:
        manifest = (folder / "manifest.json").read_bytes()
        sound = json.loads(manifest)["sha256"] == hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
    except OSError as problem:
        raise CheckpointError(f"{path}: {problem}") from None
    if not sound:
        raise CheckpointError(f"{path}: weights are damaged")
    return hashlib.sha256(manifest).hexdigest()


def _kill_who_stays(trial: Path, settings: dict[str, Any]) -> None:
    """While a grade's best checkpoint is verified, to be promoted: strike the process that has trained it, and waits for the next grade."""
    mark = trial / KILLED
    if trial.parents[1].name != settings.get("kills_who_stays") or mark.exists():
        return
    pid = int((trial / "pid-0").read_text())
    # The trial itself verifies what it reports.
    if pid != os.getpid():
        mark.touch()
        os.kill(pid, signal.SIGKILL)


def facts(path: str) -> dict[str, Any]:
    return {"parameters": 10, "bytes": (Path(path) / "weights").stat().st_size, "layers": 12}


def test_metrics(path: str, config: CampaignConfig, world: Ranks) -> dict[str, float]:
    root = Path(path).parents[5]
    digest = verify(path)
    how = _settings(root).get("unscored", {}).get(Path(path).parents[3].name)
    if how == "dies":
        os._exit(1)
    if how is not None:
        raise OutOfMemoryError(how)
    if (root / "ledger").exists():
        with open(root / ".tested.log", "a") as file:
            file.write(f"{digest}\n")
    return {"test/both/mrr": 0.25}


def query_milliseconds(path: str, config: CampaignConfig) -> float:
    return float(config.grades[-1].layers)


def ground(config: CampaignConfig) -> Ground:
    if config.teacher.checkpoint is None:
        return Ground("d" * 64, "e" * 64, 12)
    path = config.teacher.checkpoint
    return Ground("d" * 64, "e" * 64, 12, TeacherReference(path=path, digest=verify(path)), 12)


def world(distributed: bool) -> Ranks:
    if not distributed:
        return Ranks()
    import torch.distributed

    if not torch.distributed.is_initialized():
        return Ranks()
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())


def threads(count: int) -> None:
    pass


def unmount(identity: str, count: int) -> None:
    """In place of `threads`, which is called when a trial begins: what a machine sees on which the run directory is not mounted."""
    Path(identity).unlink(missing_ok=True)


def tell_variable(told: str, name: str, count: int) -> None:
    """In place of `threads`: write down what a process has in its environment."""
    with open(told, "a") as file:
        file.write(f"{os.environ.get(name)}\n")


def fill_disk(root: str, count: int) -> None:
    """In place of `threads`: the second trial finds a full disk, when the first one is at work."""
    try:
        (Path(root) / ".first").touch(exist_ok=False)
    except FileExistsError:
        _wait_until(lambda: list(Path(root).glob("grades/*/trials/*/pid-0")))
        raise StorageError("the disk is full") from None


class Bucket:
    """Becomes the run at a path where it is unpickled; not as long as `away` is there."""

    def __init__(self, root: Path, away: Path) -> None:
        self.given = root, away

    def __reduce__(self) -> tuple[Any, ...]:
        return _reached, self.given


def _reached(root: Path, away: Path) -> RunStore:
    if away.exists():
        raise OSError("no region")
    return RunStore.at(root)


def workshop() -> Workshop:
    return Workshop(run_trial, world, threads, verify, facts, test_metrics, ground, query_milliseconds)


def trained(root: Path) -> list[tuple[str, str, int]]:
    """(grade folder, identity, epoch) of every epoch that was ever trained in a run, with repetitions."""
    lines = [
        (path.parents[2].name, path.parent.name, line)
        for path in sorted(root.glob(f"grades/*/trials/*/{TRAINED}"))
        for line in path.read_text().split()
    ]
    return [(grade, identity, int(line)) for grade, identity, line in lines]


def expected(config: CampaignConfig, root: Path, real: Workshop | None = None) -> dict[tuple[str, int], str]:
    """The digests a campaign must promote, found without Ray: trial after trial, each run to its end."""
    shop = real or workshop()
    ground_ = shop.survey(config)
    digests: dict[tuple[str, int], str] = {}
    for lineage in lineages_of(config):
        teachers: list[TeacherReference] = []
        for plan in grade_plans(config, ground_):
            above = teachers[-1 if config.schedule.name == "sequential" else 0] if teachers else None
            space = grade_space(lineage, plan)
            history: list[Observation] = []
            best: list[tuple[float, Any]] = []
            for number in range(trial_limit(space, plan, config.search.algorithm)):
                point = propose(
                    space,
                    history,
                    number,
                    algorithm=config.search.algorithm,
                    seed=lineage.seed,
                    grade=plan.index,
                    startup_trials=config.search.startup_trials,
                    work=partial(_identity, config, lineage, plan, ground_, above),
                )
                if point is None:
                    break
                trial = trial_config(config, lineage, plan, point, ground_, above)
                place = root / lineage.name / "grades" / plan.folder / "trials" / trial.identity
                place.mkdir(parents=True)
                reports = list(shop.run_trial(trial, place, shop.world(False), lambda epoch: None, lambda: False))
                top = max(reports, key=lambda one: (one.metrics["valid/both/mrr"], -one.epoch))
                history.append(Observation(number, point, top.metrics["valid/both/mrr"]))
                best.append((top.metrics["valid/both/mrr"], top))
            winner = max(best, key=lambda one: one[0])[1]
            assert winner.checkpoint is not None
            assert winner.digest is not None
            teachers.append(TeacherReference(path=winner.checkpoint, digest=winner.digest))
            digests[lineage.name, plan.index] = winner.digest
    return digests


def _identity(
    config: CampaignConfig,
    lineage: Lineage,
    plan: GradePlan,
    ground_: Ground,
    above: TeacherReference | None,
    point: Mapping[str, Any],
) -> str:
    return trial_config(config, lineage, plan, point, ground_, above).identity


def mrr(config: TrialConfig, epoch: int) -> float:
    """Some number that depends on the trial, and has its best before the last epoch now and then."""
    draw = int(hashlib.sha256(f"{config.identity} {epoch}".encode()).hexdigest()[:8], 16) / 2**32
    return 0.2 + 0.1 * draw + 0.01 * epoch


def _damage(teacher: TeacherReference | None, directory: Path) -> None:
    """Damage an announced teacher, once, and let go of whoever waits for this trial."""
    mark = directory / "damaged"
    if teacher is not None and Path(teacher.path).parent.name == "teachers" and not mark.exists():
        mark.touch()
        (directory / TRAINED).touch()
        (Path(teacher.path) / "weights").unlink()
        (Path(teacher.path) / "weights").write_bytes(b"damaged")


def _learn(config: TrialConfig, teacher: TeacherReference | None, directory: Path, epoch: int) -> None:
    checkpoints = directory / "checkpoints"
    before = (checkpoints / f"{epoch - 1:08d}" / "weights").read_bytes() if epoch > 1 else b""
    taught = teacher.digest if teacher else ""
    if teacher is not None:
        with _teaching():
            assert verify(teacher.path) == teacher.digest
    weights = hashlib.sha256(before + f"{config.identity} {taught} {epoch}".encode()).digest()
    aside = checkpoints / f".{epoch:08d}.aside"
    aside.mkdir(parents=True, exist_ok=True)
    (aside / "weights").write_bytes(weights)
    (aside / "manifest.json").write_text(json.dumps({"sha256": hashlib.sha256(weights).hexdigest()}))
    with open(directory / TRAINED, "a") as file:
        file.write(f"{epoch}\n")
    shutil.rmtree(checkpoints / f"{epoch:08d}", ignore_errors=True)
    aside.rename(checkpoints / f"{epoch:08d}")


@contextlib.contextmanager
def _teaching() -> Iterator[None]:
    """As the real trainer, tell a damaged teacher from a damaged checkpoint of the trial."""
    try:
        yield
    except CheckpointError as problem:
        raise TeacherError(problem.received) from None


def _newest(checkpoints: Path) -> int:
    """The newest sound checkpoint's epoch; like the real trainer it never starts afresh where all are damaged."""
    found = list(checkpoints.glob("[0-9]*"))
    sound = [int(path.name) for path in found if _sound(path)]
    if found and not sound:
        raise CheckpointError(f"all {len(found)} checkpoints below {checkpoints} are damaged")
    return max(sound, default=0)


def _sound(path: Path) -> bool:
    try:
        verify(str(path))
    except CheckpointError:
        return False
    return True


def _report(config: TrialConfig, checkpoints: Path, epoch: int, world: Ranks) -> Report:
    path = str(checkpoints / f"{epoch:08d}")
    metrics = {"valid/both/mrr": mrr(config, epoch), "loss": 1.0 / epoch}
    first = world.rank == 0
    files = (path, verify(path)) if first else (None, None)
    return Report(epoch, config.training.epochs, epoch, metrics, *files, epoch == config.training.epochs)


def _wait_until(condition: Callable[[], Any]) -> None:
    """Patiently: the machine may be busy with other tests."""
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline, "what a trial waits for does not happen"
        time.sleep(0.05)


def _wait_for(grade: Path, trials: int) -> None:
    """Until so many trials of a grade have begun, and one has trained an epoch."""
    _wait_until(lambda: _begun(grade) >= trials and list(grade.glob(f"trials/*/{TRAINED}")))


def _wait_for_a_kill(grade: Path) -> None:
    """Until a process of the grade was killed, which a test tells by a file."""
    _wait_until((grade / KILLED).exists)


def _wait_for_the_next(grade: Path) -> None:
    """Until the grade has another trial than those whose workers are there."""
    begun = _begun(grade)
    _wait_until(lambda: _told(grade.parents[1], "trial_begun", int(grade.name.partition("-")[0])) > begun)


def _told(root: Path, kind: str, grade: int) -> int:
    """How many events of a kind the ledger has of a grade."""
    events = (json.loads(path.read_text())["event"] for path in (root / "ledger").glob("*.json"))
    return sum(one["kind"] == kind and one.get("grade") == grade for one in events)


def _begun(grade: Path) -> int:
    return len(list(grade.glob("trials/*/pid-0")))


def _wait_behind(directory: Path, trials: int) -> None:
    """Where a trial is the last of so many of its grade that have begun, until a grade has promoted."""
    if _begun(directory.parents[1]) < trials:
        return
    ledger = directory.parents[3] / "ledger"
    _wait_until(lambda: any("grade_promoted" in path.read_text() for path in ledger.glob("*.json")))


def _settings(root: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((root / ".control.json").read_text())
    except OSError:
        return {}
    return found
