"""One piece of work by several processes, on a real cluster: that they find the same, what becomes of it when one dies, and that they leave nothing behind."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import members
import pytest
import ray
import yaml
from click.testing import CliRunner
from ray.exceptions import RaySystemError
from ray.util import remove_placement_group

from raydistill.cli.main import commands
from raydistill.config.load import load_config
from raydistill.config.resources import ResourcesSection
from raydistill.errors import (
    ClusterError,
    ConfigError,
    OutOfMemoryError,
    ProcessError,
    RayDistillError,
    RoomError,
    ScoringError,
)
from raydistill.orchestration import evaluating
from raydistill.orchestration import together as collaboration
from raydistill.orchestration.asking import ask
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.cluster import connected
from raydistill.orchestration.losses import head_lost
from raydistill.orchestration.machines import Room
from raydistill.orchestration.together import Team, together
from raydistill.orchestration.variables import Variables
from raydistill.training.evaluate import evaluate_checkpoint

TEAM = Team(2, 1.0, 0.0, "PACK", "gloo")
Work = Callable[..., Any]


@pytest.fixture(scope="module")
def team() -> Iterator[Work]:
    """Has two processes do something together."""
    with connected(num_cpus=2):

        def have(work: Work, *arguments: Any) -> Any:
            room = TEAM.room()
            try:
                return together(work, arguments, TEAM, room)
            finally:
                remove_placement_group(room)

        yield have


@pytest.mark.ray
def test_members_exchange_tensors(team: Work) -> None:
    """A group for each process alone."""
    assert team(members.added, 10) == (21, 2)


@pytest.mark.ray
def test_room_is_given_back(team: Work) -> None:
    """A scoring whose CPUs stay taken: the next trial waits for ever."""
    team(members.added, 1)
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 2.0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2.0


@pytest.mark.ray
def test_death_of_one_is_told_before_what_the_others_say_of_it(team: Work, tmp_path: Path) -> None:
    """An error that speaks of a connection where it was a death, which is tried again."""
    with pytest.raises(ProcessError, match="one of 2 processes died"):
        team(members.dies, str(tmp_path / "mark"))


@pytest.mark.ray
def test_death_is_told_across_a_task(team: Work, tmp_path: Path) -> None:
    """Ray's own error, which cannot be pickled and comes out as one that nobody knows: the campaign goes without a score for a single death."""
    room = TEAM.room()
    try:
        asked = ray.remote(together).options(num_cpus=0).remote(members.dies, (str(tmp_path / "mark"),), TEAM, room)
        with pytest.raises(ProcessError, match="one of 2 processes died"):
            ask(asked)
    finally:
        remove_placement_group(room)


@pytest.mark.ray
def test_who_finds_no_room_is_told(team: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that wait for those for whom there is no room, for ever, in the room of others."""
    monkeypatch.setattr(collaboration, "ROOM_SECONDS", 3.0)
    wide = Team(3, 1.0, 0.0, "PACK", "gloo")
    room = wide.room()
    try:
        with pytest.raises(RoomError, match="no room for 3 processes after 3 s"):
            together(members.added, (1,), wide, room)
    finally:
        remove_placement_group(room)


@pytest.mark.ray
def test_own_errors_come_out_at_once_and_before_their_echo(team: Work, tmp_path: Path) -> None:
    """The user reads of a closed connection, three times, where a sentence says what to do."""
    with pytest.raises(OutOfMemoryError, match="the ranking did not fit"):
        team(members.refuses, str(tmp_path / "mark"))
    assert len((tmp_path / "mark").read_text().splitlines()) == 2


def evaluated(checkpoint: Path, data: Path, *options: str) -> dict[str, Any]:
    command = ["evaluate", str(checkpoint), "--data", str(data), "--json", *options]
    result = CliRunner().invoke(commands, command)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.mark.ray
@pytest.mark.parametrize("options", [(), ("--entity-bits", "8", "--rerank-hops", "1", "--split", "valid")])
def test_checkpoint_is_evaluated_by_two_workers_as_by_one(
    team: Work, teacher_checkpoint: Callable[..., Path], dataset_folder: Path, options: tuple[str, ...]
) -> None:
    """Counts of one worker's entities alone; or options that do not reach the workers."""
    place = teacher_checkpoint(), dataset_folder
    assert evaluated(*place, "--workers", "2", *options) == evaluated(*place, *options)


@pytest.mark.ray
def test_checkpoint_that_is_damaged_is_refused_by_several_as_by_one(
    team: Work, tmp_path: Path, dataset_folder: Path
) -> None:
    """A traceback of Ray's, after three attempts."""
    (tmp_path / "empty").mkdir()
    command = ["evaluate", str(tmp_path / "empty"), "--data", str(dataset_folder)]
    alone, several = (CliRunner().invoke(commands, [*command, *more]) for more in ((), ("--workers", "2")))
    assert (several.exit_code, several.stderr) == (alone.exit_code, alone.stderr)
    assert alone.exit_code == 4


@pytest.mark.ray
def test_campaign_of_two_workers_has_both_score_what_it_promotes(
    team: Work,
    teacher_checkpoint: Callable[..., Path],
    encoder_folder: Callable[..., Path],
    dataset_folder: Path,
    tmp_path: Path,
) -> None:
    """A scoring by one process, which holds the vectors of all entities; or other numbers in the results than `raydistill evaluate` finds."""
    content = {
        "data": {"path": str(dataset_folder), "max_tokens": 32},
        "encoder": {"name": str(encoder_folder("bert"))},
        "teacher": {"checkpoint": str(teacher_checkpoint())},
        "grades": [{"layers": 2, "mask_ratio": 0.2}],
        "training": {"batch_size": 6, "epochs": 1, "precision": "fp32"},
        "resources": {"workers_per_trial": 2, "cpus_per_worker": 1},
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(content))
    state = Campaign(load_config(tmp_path / "campaign.yaml"), tmp_path / "run").run()
    assert state.complete
    for place, promotion in state.promotions.items():
        alone = evaluate_checkpoint(promotion.checkpoint, dataset_folder)
        found = {name: value for name, value in state.tests[place].items() if "/" in name}
        assert found == {name: float(value) for name, value in alone.metrics.items()}


@pytest.mark.parametrize(
    ("workers", "machines", "cpus", "gpus", "group"),
    [
        (2, [{"CPU": 8.0}], 4.0, 0.0, "gloo"),
        (3, [{"CPU": 4.0}, {"CPU": 2.0}], 2.0, 0.0, "gloo"),
        (2, [{"CPU": 8.0, "GPU": 2.0}], 4.0, 1.0, "nccl"),
        (3, [{"CPU": 8.0, "GPU": 2.0}], 2.0, 0.5, "gloo"),
    ],
)
def test_workers_share_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    machines: list[dict[str, float]],
    cpus: float,
    gpus: float,
    group: str,
) -> None:
    """Workers on one core of many; or a third one that waits for a GPU for ever."""
    whole = {kind: sum(one.get(kind, 0.0) for one in machines) for kind in ("CPU", "GPU")}
    there(monkeypatch, Room(1, whole["CPU"], whole["GPU"], max(one["CPU"] for one in machines), tuple(machines)))
    found = evaluating._team(workers)
    assert (found.size, found.cpus, found.gpus, found.group) == (workers, cpus, gpus, group)


def there(monkeypatch: pytest.MonkeyPatch, room: Room) -> None:
    """These machines are there, and no other will join."""
    monkeypatch.setattr(evaluating, "awaited_room", lambda resources: room)


def test_workers_without_room_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, Room(2, 2.0, 0.0, 2.0, ({"CPU": 2.0},)))
    with pytest.raises(ConfigError, match="--workers 3 on a cluster of 2 CPUs") as refused:
        evaluating._team(3)
    assert "for ever" in refused.value.consequence


def test_evaluation_begins_anew_and_is_given_up_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed for memory passes for a fault of the program; or is started for ever; or room that others use is none."""
    there(monkeypatch, Room(1, 2.0, 0.0, 2.0, ({"CPU": 2.0},)))
    ends: list[Exception | str] = [RoomError("not started"), ProcessError("died"), RoomError("not started"), "report"]
    given_back: list[object] = []

    def fake(work: object, arguments: tuple[object, ...], *_: object) -> object:
        assert arguments[0] == Variables({"REGION": "eu"}), "they would not reach the bucket"
        end = ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(evaluating, "connected", nullcontext)
    monkeypatch.setattr(evaluating, "head_watched", lambda: nullcontext(Gone()))
    monkeypatch.setattr(evaluating, "together", fake)
    monkeypatch.setattr(evaluating, "remove_placement_group", given_back.append)
    monkeypatch.setattr(Team, "room", lambda team: team.size)
    asked = "checkpoint", "data", "test", None, 32, 2, {"REGION": "eu"}
    assert evaluating.evaluate_together(*asked) == "report"
    assert given_back == [2] * 4
    ends += [ProcessError(f"one of 2 processes died: {number}", remedy="take more workers") for number in range(3)]
    with pytest.raises(ScoringError, match="begun 3 times, the last time one of 2 processes died: 2") as given_up:
        evaluating.evaluate_together(*asked)
    assert "more workers" in given_up.value.remedy
    assert len(given_back) == 7
    ends += [RaySystemError("no answer")]
    with pytest.raises(ClusterError, match="the head of the Ray cluster"):
        evaluating.evaluate_together(*asked)


class Gone:
    """A head that does not answer any more."""

    def require(self) -> None:
        raise head_lost("127.0.0.1:6379")


@dataclass(frozen=True)
class First:
    """Processes of which the first one has said something."""

    said: str

    def agree(self, text: str) -> str:
        return self.said


def test_parts_of_different_models_are_not_added_up() -> None:
    """An older copy under the same path on one machine: a plausible score of no model, exit code 0."""
    evaluating._require_equal(First("code\nmodel\ngraph"), "code", "model", "graph")  # type: ignore[arg-type]
    with pytest.raises(ScoringError, match="has another checkpoint and another dataset than the first process"):
        evaluating._require_equal(First("code\nmodel\ngraph"), "code", "older", "cut")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "death",
    [
        ray.exceptions.RayActorError(),
        ray.exceptions.OutOfMemoryError("killed"),
        ray.exceptions.ObjectLostError("a", None, "b"),
    ],
)
def test_every_death_is_told_as_one(monkeypatch: pytest.MonkeyPatch, death: Exception) -> None:
    """A process that was killed for memory passes for a fault of the program."""

    def fake(*told: object) -> object:
        raise death

    monkeypatch.setattr(collaboration, "_together", fake)
    with pytest.raises(ProcessError, match=r"one of 2 processes died: .") as told:
        together(members.added, (1,), TEAM, None)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(told.value)).received == told.value.received


class Answers:
    """What processes say, one after another; "late" = the next does not come before whoever waits loses patience."""

    def __init__(self, *said: object) -> None:
        self.said, self.patience = list(said), list[float | None]()

    def wait(self, waiting: list[int], timeout: float | None) -> tuple[list[int], list[int]]:
        self.patience.append(timeout)
        done = [] if self.said[waiting[0]] == "late" else waiting[:1]
        return done, waiting[len(done) :]

    def ask(self, reference: int) -> object:
        said = self.said[reference]
        if isinstance(said, Exception):
            raise said
        return said


ECHO = ray.exceptions.RayTaskError(
    "work", "Traceback\nRuntimeError: connection closed", RuntimeError("connection closed")
)
DEATH = ray.exceptions.RayActorError()


@pytest.mark.parametrize(
    ("said", "problem", "patience"),
    [
        (("found", "found"), None, [None, 30.0]),
        (("found", "late"), None, [None, 30.0]),
        ((ECHO, DEATH), DEATH, [None, 120.0]),
        ((ECHO, "late"), ECHO, [None, 120.0]),
        ((ECHO, ECHO, DEATH), DEATH, [None, 120.0, 120.0]),
        ((DEATH, ECHO), DEATH, [None, 30.0]),
        ((ECHO, RoomError("ours"), DEATH), "ours", [None, 120.0, 30.0]),
    ],
)
def test_what_explains_the_end_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, said: tuple[object, ...], problem: object, patience: list[float | None]
) -> None:
    """A lost machine is noticed later than the connection to it breaks: the user reads of a connection, and nothing is begun anew."""
    answers = Answers(*said)
    monkeypatch.setattr(collaboration.ray, "wait", answers.wait)
    monkeypatch.setattr(collaboration, "ask", answers.ask)
    if problem is None:
        assert collaboration._answer([*range(len(said))]) == "found"
    else:
        with pytest.raises((RayDistillError, ray.exceptions.RayError)) as told:
            collaboration._answer([*range(len(said))])
        assert told.value is problem or getattr(told.value, "received", None) == problem
    assert answers.patience == patience


def test_team_gets_what_a_worker_of_a_trial_gets() -> None:
    resources = ResourcesSection(workers_per_trial=2, gpus_per_worker=0.5, placement="strict_pack")
    assert Team.of(resources, 2, 3.0) == Team(2, 3.0, 0.5, "STRICT_PACK", "gloo")
