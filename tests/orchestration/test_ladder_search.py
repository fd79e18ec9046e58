"""Whole ladders, one after another and beside each other, on a real cluster."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest
import ray
from click.testing import CliRunner
from ray._private import auto_init_hook

from raydistill.cli.main import commands
from raydistill.cli.output import LADDER
from raydistill.config.resources import ResourcesSection
from raydistill.config.schema import CampaignConfig
from raydistill.errors import PromotionError, RoomError, RunDirectoryError
from raydistill.orchestration import campaign, joining, ladder_search
from raydistill.orchestration.cluster import connect_no_more
from raydistill.orchestration.ladder_search import LadderSearch
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.machines import Room, room_of
from raydistill.orchestration.rundir import read_state, write_config
from raydistill.orchestration.runstore import RunStore
from raydistill.orchestration.searchdir import BEGUN, LADDERS, PARETO, SEARCH, ladder_name, open_search, read_search
from raydistill.planning.ladders import LadderResult, ladder_of, next_ladder

pytestmark = pytest.mark.ray


def search(config: CampaignConfig, root: Path, resume: bool = False) -> list[LadderResult]:
    return LadderSearch(config, root, fakes.workshop()).run(resume=resume)


def events(root: Path) -> list[dict[str, Any]]:
    return Ledger.at(root / SEARCH).read()


def recorded(root: Path) -> list[tuple[int, str]]:
    """What came of ladders, in the order in which they ended."""
    return [(one["number"], one["kind"]) for one in events(root) if one["kind"] != BEGUN]


def trained(root: Path) -> list[tuple[str, int]]:
    return [(grade, epoch) for one in sorted((root / LADDERS).iterdir()) for grade, _, epoch in fakes.trained(one)]


def two_ladders(mask_ratio: float) -> CampaignConfig:
    """A search over two ladders of one grade each."""
    one = {"grades": [1, 1], "mask_ratios": [mask_ratio], "layer_maps": ["skip"], "alphas": [0.1], "betas": [0.1]}
    resources = {"backend": "inline", "concurrent_trials": "auto", "max_failures": 0}
    return fakes.campaign(
        ladders={**one, "ladders": 2, "depths": [1, 2]},
        resources=resources,
        grades=[{"layers": 6}],
        training={"epochs": 1, "batch_size": 4},
    )


@pytest.fixture(scope="module")
def searched(
    cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CampaignConfig, Path, list[LadderResult]]:
    """A search over three ladders that has ended: its configuration, its place and its result."""
    ladders = {"ladders": 3, "grades": [1, 2], "depths": [1, 2, 3], "objectives": ["mrr", "bytes", "latency"]}
    config = fakes.campaign(ladders=ladders, resources={"backend": "inline"}, grades=[{"layers": 6}])
    root = tmp_path_factory.mktemp("searched") / "search"
    return config, root, search(config, root)


def test_ladders_share_their_teacher_and_the_unbeaten_ones_are_kept(
    searched: tuple[CampaignConfig, Path, list[LadderResult]],
) -> None:
    """Every ladder would train the teacher again; or the answer of a night's search be lost with the terminal."""
    config, root, best = searched
    content = json.loads((root / PARETO).read_text())
    assert [one["number"] for one in content] == [0, 1, 2]
    assert [one["number"] for one in content if one["pareto"]] == [one.number for one in best]
    assert all(one["values"]["latency"] == one["grades"][-1]["layers"] for one in content)
    before = trained(root)
    assert [epoch for grade, epoch in before if grade == "0-teacher"] == [1, 2, 3], "the teacher is trained once"
    with pytest.raises(RunDirectoryError, match="--resume"):
        search(config, root)
    assert [one.number for one in search(config, root, resume=True)] == [one.number for one in best]
    assert trained(root) == before


@pytest.mark.parametrize("left", ["nothing", "what came before the last ladder"])
def test_result_is_whole_again_after_a_kill_before_its_file(
    searched: tuple[CampaignConfig, Path, list[LadderResult]], left: str
) -> None:
    """A kill between the last ladder's event and the file: the file would lack that ladder for good."""
    config, root, _ = searched
    whole: list[dict[str, Any]] = json.loads((root / PARETO).read_text())
    if left == "nothing":
        (root / PARETO).unlink()
    else:
        (root / PARETO).write_text(json.dumps(whole[:-1]))
    search(config, root, resume=True)
    assert json.loads((root / PARETO).read_text()) == whole


def test_status_tells_what_the_search_has_found(searched: tuple[CampaignConfig, Path, list[LadderResult]]) -> None:
    """`0 of 0 grades promoted` for a search that is over."""
    _, root, _ = searched
    told = json.loads(CliRunner().invoke(commands, ["status", str(root), "--json"]).stdout)
    assert told["complete"] is True
    assert told["ladders"] == json.loads((root / PARETO).read_text())


def test_search_without_room_waits_to_be_resumed(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is gone for a minute: every ladder that is left would count as one that cannot be trained."""
    config, root, looks = two_ladders(0.0), tmp_path / "search", iter(range(9))

    def gone_after_the_first_ladder(resources: ResourcesSection, heed: object) -> Room:
        return Room(0, 0.0, 0.0, 0.0) if next(looks) else room_of(resources)

    with monkeypatch.context() as patched:
        patched.setattr(campaign, "awaited_room", gone_after_the_first_ladder)
        with pytest.raises(RoomError, match=r"(?s)^ladder 0001: a trial needs.*with --resume"):
            search(config, root)
    assert recorded(root) == [(0, "ladder_finished")]
    search(config, root, resume=True)
    assert recorded(root) == [(0, "ladder_finished"), (1, "ladder_finished")]


def test_failed_ladders_are_tried_again_on_resume(cluster: None, tmp_path: Path) -> None:
    """Processes that died of what has been mended since: no ladder of the search could ever be had again."""
    config, root = two_ladders(fakes.CRASH_RATIO), tmp_path / "search"
    with pytest.raises(PromotionError, match=r"none of 2 ladders ended(.|\n)*max_failures(.|\n)*--resume"):
        search(config, root)
    assert recorded(root) == [(0, "ladder_failed"), (1, "ladder_failed")]
    fakes.control(root / LADDERS / "0000", mended=True)
    assert [one.number for one in search(config, root, resume=True)] == [0]
    assert recorded(root)[2:] == [(0, "ladder_finished"), (1, "ladder_failed")]
    content = json.loads((root / PARETO).read_text())
    assert [(one["number"], one["status"]) for one in content] == [(0, "finished"), (1, "failed")]
    assert [epoch for grade, epoch in trained(root) if grade == "0-teacher"] == [1]


def test_ladder_moves_all_its_grades_at_once(cluster: None, tmp_path: Path) -> None:
    """What a search is advised to set on a cluster, where it would use one place: it would be ignored, or the ladders share no teacher."""
    config, root = fakes.campaign(
        ladders={"ladders": 2, "grades": [2, 2], "depths": [1, 2, 3], "mask_ratios": [0.1]},
        schedule={"name": "pipelined", "settle_epochs": 1},
        resources={"backend": "inline", "cpus_per_worker": 0.5},
        grades=[{"layers": 6}],
    ), tmp_path / "search"  # fmt: skip
    search(config, root)
    assert recorded(root) == [(0, "ladder_finished"), (1, "ladder_finished")]
    assert [epoch for grade, epoch in trained(root) if grade == "0-teacher"] == [1, 2, 3]
    for number in range(2):
        state = read_state(root / ladder_name(number))
        students = [one for one in state.trials.values() if one.grade]
        assert students
        for one in students:
            assert one.taught[2].digest == state.promotions["main", one.grade - 1].digest


def test_ladder_takes_the_workers_there_is_room_for(cluster: None, tmp_path: Path) -> None:
    """What a search is advised to set on a cluster, where it would use one place: its only trial would have one worker all the same."""
    wide = {"backend": "auto", "workers_per_trial": {"min": 1, "max": 2}, "cpus_per_worker": 1}
    config, root = two_ladders(0.1).model_copy(update={"resources": ResourcesSection(**wide)}), tmp_path / "search"
    search(config, root)
    assert recorded(root) == [(0, "ladder_finished"), (1, "ladder_finished")]
    places = [path.parent for path in root.glob(f"{LADDERS}/*/grades/*/trials/*/{fakes.TRAINED}")]
    assert len(places) == 3
    assert all((place / "pid-1").exists() for place in places)


def side_by_side(epochs: int) -> CampaignConfig:
    """A search over three ladders of one grade each, two at once on a core each."""
    ladders = {"ladders": 3, "grades": [1, 1], "depths": [1, 2, 3], "mask_ratios": [0.1], "layer_maps": ["skip"]}
    return fakes.campaign(
        ladders={**ladders, "alphas": [0.1], "betas": [0.1]},
        resources={"backend": "inline", "cpus_per_worker": 1, "concurrent_ladders": 2},
        grades=[{"layers": 6, "epochs": epochs}],
        training={"epochs": 2, "batch_size": 4},
    )


def student_of(config: CampaignConfig, number: int) -> str:
    """The folder of the only student of a ladder, which was drawn at random."""
    points: list[dict[str, Any]] = []
    while len(points) <= number:
        point = next_ladder(config, [], points)
        assert point is not None
        points.append(point)
    assert config.ladders is not None
    return f"grades/1-layers{ladder_of(config.ladders, points[number])['grades'][0]['layers']}"


def test_ladders_run_beside_each_other_under_one_teacher(cluster: None, tmp_path: Path) -> None:
    """One machine of a cluster would search while all others stand idle; or every ladder would train a teacher of its own."""
    config, root = side_by_side(epochs=2), tmp_path / "search"
    # The first ladder's student cannot end before the second one's has learnt something.
    first, second = student_of(config, 0), student_of(config, 1)
    fakes.control(root / ladder_name(0), until={Path(first).name: f"../../../{ladder_name(1)}/{second}"})
    write_config(RunStore.at(root), config)
    titles = set[str]()
    best = LadderSearch(config, root, fakes.workshop()).run(observe=lambda state, title: titles.add(title))
    assert titles == {"ladder 0000", "ladder 0001", "ladder 0002"}
    assert [one["number"] for one in events(root) if one["kind"] == BEGUN] == [0, 1, 2]
    assert sorted(recorded(root)) == [(number, "ladder_finished") for number in range(3)]
    assert [epoch for grade, epoch in trained(root) if grade == "0-teacher"] == [1, 2], "the teacher is trained once"
    content = json.loads((root / PARETO).read_text())
    assert [one["number"] for one in content] == [0, 1, 2]
    assert {one.number for one in best} == {one["number"] for one in content if one["pareto"]}
    # Of two that run beside each other neither is proposed twice.
    assert len({json.dumps(one["grades"]) for one in content}) == 3


@pytest.mark.parametrize(
    ("resources", "told"),
    [({}, True), ({"concurrent_ladders": 2}, False), ({"workers_per_trial": {"min": 1, "max": 2}}, False)],
)
def test_search_says_that_machines_stay_idle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, resources: dict[str, Any], told: bool
) -> None:
    """A cluster of twenty machines on which one works, for a night, without a word."""
    config = two_ladders(0.1).model_copy(update={"resources": ResourcesSection(**resources, gpus_per_worker=0)})
    machines = ({"CPU": 0.0}, {"CPU": 2.0}, {"CPU": 2.0})
    monkeypatch.setattr(joining, "room_of", lambda _: Room(2, 4.0, 0.0, 2.0, machines))
    joining.tell_of_places(config)
    assert ("the cluster has 2 machines with CPUs and 0 GPUs: set resources.concurrent_ladders" in caplog.text) == told


@pytest.mark.parametrize(
    ("resources", "places", "told"),
    [
        ({"cpus_per_worker": 2}, 2, ""),
        ({"cpus_per_worker": 4}, 1, "2 ladders are to run at once, and the cluster has room for 1 trials (1 x 4 CPUs"),
        ({"cpus_per_worker": 4, "concurrent_trials": 1}, 1, ""),
        ({"cpus_per_worker": 8}, 0, ""),
    ],
    ids=["room for both", "room for one", "grows on demand", "no machine has joined yet"],
)
def test_search_says_that_ladders_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    resources: dict[str, Any],
    places: int,
    told: str,
) -> None:
    """Two ladders that are said to run, of which one waits for hours without a word. Of eight that are allowed, no more than there are to try count."""
    section = ResourcesSection(**resources, gpus_per_worker=0, concurrent_ladders=8)
    config = two_ladders(0.1).model_copy(update={"resources": section})
    monkeypatch.setattr(joining, "room_of", lambda _: Room(places, 4.0, 0.0, 4.0, ({"CPU": 4.0},)))
    joining.tell_of_places(config)
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)


def test_ladders_that_a_signal_cut_short_go_on_as_they_were(tmp_path: Path) -> None:
    """SIGTERM is heard by one thread of many: the ladders beside would lose what they learnt since their last checkpoint, or be proposed anew."""
    config, root, file = side_by_side(epochs=400), tmp_path / "search", tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    for number in range(2):
        fakes.control(root / ladder_name(number), seconds=0.05)
    write_config(RunStore.at(root), config)
    command = [sys.executable, str(Path(fakes.__file__).with_name("drive.py")), str(root), str(file)]
    driver = subprocess.Popen(command)
    students = [root / ladder_name(number) / student_of(config, number) for number in range(2)]
    deadline = time.monotonic() + 300
    while not all(list(one.glob(f"trials/*/{fakes.TRAINED}")) for one in students):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert open_search(RunStore.at(root), config).running.keys() == {0, 1}
    driver.terminate()
    assert driver.wait(60) == 143
    assert all(list(one.glob(f"trials/*/{fakes.ENDED}")) for one in students), "each was told, and saved"
    results, begun = read_search(RunStore.at(root))
    assert (results, sorted(begun)) == ([], [0, 1])
    assert not open_search(RunStore.at(root), config).complete
    for number in range(2):
        fakes.control(root / ladder_name(number))
    assert subprocess.run([*command, "--resume"], check=False).returncode == 0
    assert sorted(recorded(root)) == [(number, "ladder_finished") for number in range(3)]
    assert {one["number"]: one["point"] for one in events(root) if one["kind"] != BEGUN and one["number"] < 2} == begun
    for number in range(3):
        done = fakes.trained(root / ladder_name(number))
        assert len(done) == len(set(done)), "no epoch is trained twice"
    assert open_search(RunStore.at(root), config).complete


def test_ladder_that_is_told_to_end_before_it_has_begun_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be left behind in a wait for a lock, and start a cluster of its own when the search's is gone."""
    heeded: list[Any] = []

    @contextlib.contextmanager
    def locks(store: RunStore, heed: Callable[[], None]) -> Iterator[Callable[[], None]]:
        heeded.append(heed)
        store.root.mkdir()
        told.set()
        yield lambda: None

    told = threading.Event()

    def heed() -> None:
        if told.is_set():
            raise SystemExit

    monkeypatch.setattr(campaign, "locked", locks)
    monkeypatch.setattr(campaign, "connected", lambda *_, **__: pytest.fail("it has connected"))
    one = campaign.Campaign(fakes.campaign(), tmp_path / "run", fakes.workshop(), heed=heed)
    with pytest.raises(SystemExit):
        one.run()
    assert heeded == [heed]


def test_process_that_is_to_stay_disconnected_starts_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is left behind asks Ray something: that would start a cluster, behind no token, which outlives the search."""
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", True)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    started: list[str] = []
    monkeypatch.setattr(ray, "init", lambda: started.append("a cluster"))
    auto_init_hook.auto_init_ray()
    assert started == ["a cluster"]
    connect_no_more()
    auto_init_hook.auto_init_ray()
    assert started == ["a cluster"]


def test_threads_of_ladders_have_names_that_the_log_knows() -> None:
    """The log of four ladders at once would name none of them."""
    assert ladder_search._title(3) == f"{LADDER}0003"
