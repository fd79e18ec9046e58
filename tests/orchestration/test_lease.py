"""One driver per run where there are no locks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from raydistill.errors import RunDirectoryError, StorageError
from raydistill.orchestration import lease, watching
from raydistill.orchestration.locking import is_held, locked
from raydistill.orchestration.patience import HURRY_SECONDS, patiently
from raydistill.orchestration.processes import this_process
from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.runstore import RunStore


class Clock:
    """Both clocks of this machine, which go on only while somebody sleeps; and what others do at moments of it."""

    def __init__(self) -> None:
        self.began, self.passed = time.time(), 0.0
        self.others: dict[float, Callable[[], object]] = {}

    def sleep(self, seconds: float) -> None:
        self.passed += seconds
        for moment in sorted(one for one in self.others if one <= self.passed):
            self.others.pop(moment)()

    def time(self) -> float:
        return self.began + self.passed

    def monotonic(self) -> float:
        return 1000.0 + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in ("sleep", "time", "monotonic"):
        monkeypatch.setattr(time, name, getattr(clock, name))
    return clock


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run on a file system that is not this machine's."""
    return RunStore.at("runs/first", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))


@pytest.fixture
def remote(store: RunStore) -> RemoteFolder:
    assert store.remote is not None
    return store.remote


@pytest.fixture
def taken(remote: RemoteFolder, clock: Clock) -> Iterator[lease.Lease]:
    """A lease of this process's."""
    held = lease.Lease(remote)
    held.take()
    yield held
    held.release()


def foreign(remote: RemoteFolder, until: float, *, taking: bool = False) -> None:
    content = {"holder": "process 7 on elsewhere", "machine": "elsewhere", "pid": 7, "token": "x", "until": until}
    remote.write(watching.NAME, json.dumps({**content, "taking": taking}).encode())


class Writes:
    """What becomes of the writes to come: each takes so many seconds, and fails where these are negative, before or after it has arrived. Others come through at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: Clock, *seconds: float, arrive: bool = True) -> None:
        self.seconds, self.clock, self.arrive = list(seconds), clock, arrive
        self.write = RemoteFolder._write
        monkeypatch.setattr(RemoteFolder, "_write", lambda *told: self._do(*told))

    def _do(self, remote: RemoteFolder, name: str, content: bytes) -> None:
        if b"elsewhere" in content or not self.seconds:
            self.write(remote, name, content)
            return
        seconds = self.seconds.pop(0)
        self.clock.sleep(abs(seconds))
        if seconds >= 0 or self.arrive:
            self.write(remote, name, content)
        if seconds < 0:
            raise OSError("503: slow down")


class Elsewhere:
    """A driver of another machine, which renews its lease every few seconds, whatever others have bid for it."""

    def __init__(self, remote: RemoteFolder, clock: Clock) -> None:
        self.remote, self.clock, self.lost = remote, clock, False

    def begin(self) -> None:
        foreign(self.remote, self.clock.time() + watching.LEASE_SECONDS)
        self.clock.others[self.clock.passed + watching.RENEW_SECONDS] = self._renew

    def _renew(self) -> None:
        found = watching.read(self.remote)
        if found.get("token") == "x" or found["taking"]:
            self.begin()
        else:
            self.lost = True


@pytest.mark.parametrize("behind", [-600.0, 0.0, 29.0, 60.0, 7200.0])
def test_driver_that_renews_is_not_robbed_whatever_its_clock_says(
    store: RunStore, remote: RemoteFolder, clock: Clock, behind: float
) -> None:
    """A reader whose clock is ahead took every lease for one that had run out, and the run from whoever was writing it."""

    def renew() -> None:
        foreign(remote, clock.time() + watching.LEASE_SECONDS - behind)
        clock.others[clock.passed + watching.RENEW_SECONDS] = renew

    renew()
    with pytest.raises(RunDirectoryError, match="in use by process 7 on elsewhere"), locked(store):
        pass
    assert clock.passed <= watching.RENEW_SECONDS + watching.LOOK_SECONDS, "whoever is refused waits for a renewal only"
    if behind < watching.LONG_AGO_SECONDS:
        assert is_held(store)


@pytest.mark.parametrize("ahead", [600.0, 20.0, -1.0])
def test_run_of_a_dead_driver_is_free_after_its_lease_whatever_its_clock_said(
    store: RunStore, remote: RemoteFolder, clock: Clock, ahead: float
) -> None:
    """`--resume` would be refused for as many minutes as the clock of a machine that died was ahead; or be let in while one that only was slow goes on."""
    foreign(remote, clock.time() + ahead)
    with locked(store) as check:
        waited = clock.passed - lease.TAKING_SECONDS
        assert watching.ORPHAN_SECONDS <= waited < watching.ORPHAN_SECONDS + 2
        check()
        assert is_held(store)
    assert not is_held(store)


def test_whoever_only_looks_glances_at_a_lease_that_looks_over(
    store: RunStore, remote: RemoteFolder, clock: Clock
) -> None:
    """`status` would call a campaign dead whose driver's clock is behind; or keep everybody waiting who looks at last week's."""
    foreign(remote, clock.time() - 2 * watching.LONG_AGO_SECONDS)
    assert not is_held(store)
    foreign(remote, clock.time() + 20)
    assert is_held(store)
    assert clock.passed == 0
    for until in (clock.time() - 1, clock.time() + 600):
        began = clock.passed
        foreign(remote, until)
        assert not is_held(store)
        assert watching.RENEW_SECONDS < clock.passed - began < watching.LEASE_SECONDS
    clock.others[clock.passed + 4] = lambda: remote.write(watching.NAME, b"{}")
    assert not is_held(store), "it was let go meanwhile"


def test_lease_that_was_let_go_is_free_at_once(store: RunStore, remote: RemoteFolder, clock: Clock) -> None:
    """Every second run in one place would wait half a minute."""
    with locked(store):
        pass
    with locked(store):
        pass
    assert clock.passed == 2 * lease.SETTLE_SECONDS
    foreign(remote, clock.time() + 20)
    clock.others[clock.passed + 3] = lambda: remote.write(watching.NAME, b"{}")
    with locked(store):
        assert clock.passed < 10, "nor is one waited for that was let go meanwhile"


def test_time_in_which_nobody_could_renew_does_not_count(
    store: RunStore, remote: RemoteFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage the first to come back would take the run from its driver, who had no chance to renew."""
    foreign(remote, clock.time() + 20)
    reads, read = [], RemoteFolder.read

    def slow(self: RemoteFolder, name: str) -> bytes | None:
        reads.append(name)
        if len(reads) == 3:
            clock.passed += 120
            back = clock.passed + lease.TAKING_SECONDS + 1
            clock.others[back] = lambda: foreign(remote, clock.time() + 20)
        return read(self, name)

    monkeypatch.setattr(RemoteFolder, "read", slow)
    with pytest.raises(RunDirectoryError, match="in use by process 7"), locked(store):
        pass


def test_watch_of_another_machine_can_be_ended(store: RunStore, remote: RemoteFolder, clock: Clock) -> None:
    """Ctrl-C while a ladder of a search waits for 75 seconds, in a thread that hears no signal."""
    foreign(remote, clock.time() + 30)

    def heed() -> None:
        if clock.passed >= 5:
            raise SystemExit

    with pytest.raises(SystemExit), locked(store, heed):
        raise AssertionError("it was not held")
    assert clock.passed < 7


def test_second_driver_on_this_machine_is_refused_at_once(store: RunStore, clock: Clock) -> None:
    """It runs, and everybody can see that it does."""
    with locked(store):
        began = clock.passed
        with (
            pytest.raises(RunDirectoryError, match=r"in use by process \d+ on .*, whose lease runs out at"),
            locked(store),
        ):
            pass
        assert clock.passed == began


def test_driver_that_was_killed_on_this_machine_need_not_be_waited_for(
    store: RunStore, remote: RemoteFolder, tmp_path: Path, clock: Clock
) -> None:
    """`--resume` right after a crash would be refused until the lease has run out."""
    code = f"""
import os
from pyarrow import fs
from raydistill.orchestration import lease
from raydistill.orchestration.locking import locked
from raydistill.orchestration.runstore import RunStore
lease.SETTLE_SECONDS = 5.0
lease.time.sleep = lambda seconds: None
with locked(RunStore.at("runs/first", fs.SubTreeFileSystem({str(tmp_path)!r}, fs.LocalFileSystem()))): os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert watching.read(remote)["until"] > time.time()
    with locked(store):
        assert clock.passed == lease.SETTLE_SECONDS


class Outage:
    """A storage that does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        for name in ("read", "write"):
            monkeypatch.setattr(RemoteFolder, name, self._refuse)

    def _refuse(self, *_: Any) -> None:
        self.asked += 1
        raise StorageError("no answer")


def test_driver_goes_on_through_an_outage(taken: lease.Lease, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that was out of reach for half a minute ended campaigns of days that nobody had taken over."""
    taken.check()
    with monkeypatch.context() as patch:
        outage = Outage(patch)
        for _ in range(2):
            clock.sleep(60)
            taken.check()
        assert outage.asked
        assert clock.monotonic() > taken.deadline
    taken.check()
    assert taken.deadline == clock.monotonic() + watching.LEASE_SECONDS, "it is renewed as soon as it can be"
    assert watching.read(taken.remote)["until"] == clock.time() + watching.LEASE_SECONDS


def test_answer_that_comes_when_the_outage_ends_is_asked_for_again(
    taken: lease.Lease, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited for an answer through the whole outage would give up a run that nobody has taken."""
    read, waits = RemoteFolder.read, [90.0]

    def waiting(self: RemoteFolder, name: str) -> bytes | None:
        found = read(self, name)
        clock.sleep(waits.pop() if waits else 0.1)
        return found

    monkeypatch.setattr(RemoteFolder, "read", waiting)
    for _ in range(2):
        clock.sleep(watching.LEASE_SECONDS + 1)
        taken.check()
        assert taken.deadline > clock.monotonic()
        waits.append(90.0)
    clock.others[clock.passed + 60] = lambda: foreign(taken.remote, clock.time() + 20)
    clock.sleep(watching.LEASE_SECONDS + 1)
    with pytest.raises(RunDirectoryError, match="taken by process 7 on elsewhere"):
        taken.check()


@pytest.mark.parametrize("clocks", [("time",), ("monotonic",), ("time", "monotonic")])
@pytest.mark.parametrize("there", ["taken", "left", "removed"])
def test_run_that_was_taken_meanwhile_is_lost(
    taken: lease.Lease, clock: Clock, monkeypatch: pytest.MonkeyPatch, clocks: tuple[str, ...], there: str
) -> None:
    """A laptop that wakes, or whose network is back, would go on as if nothing had happened, in a run that another driver has taken, or had and left."""
    content = {"left": b"{}\n"}.get(there)
    if there == "taken":
        foreign(taken.remote, clock.time() + 20)
    elif content is not None:
        taken.remote.write(watching.NAME, content)
    else:
        taken.remote.remove()
    for name in clocks:
        later = getattr(clock, name)() + watching.LEASE_SECONDS + 1
        monkeypatch.setattr(time, name, lambda later=later: later)
    words = "process 7 on elsewhere" if there == "taken" else "another driver, which has let it go since"
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match=words) as caught:
            taken.check()
    assert "--resume" in caught.value.remedy
    taken.release()
    assert taken.remote.read(watching.NAME) != b"{}\n" or there == "left", "what another holds is not given back"


def test_who_lets_go_hurries_nobody_else(taken: lease.Lease, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder of a search ends while the storage is slow: another one, in a thread beside it, would lose patience, and with it end the search."""
    patient = threading.Event()

    def fails() -> None:
        raise OSError("AWS Error SLOW_DOWN")

    def beside() -> None:
        with pytest.raises(OSError, match="SLOW_DOWN"):
            patiently(fails)
        if clock.passed - began > HURRY_SECONDS + 5:
            patient.set()

    def read(self: RemoteFolder, name: str) -> bytes | None:
        monkeypatch.undo()
        for one in ("sleep", "time", "monotonic"):
            monkeypatch.setattr(time, one, getattr(clock, one))
        other = threading.Thread(target=beside)
        other.start()
        other.join(60)
        return None

    monkeypatch.setattr(RemoteFolder, "read", read)
    began = clock.passed
    taken.release()
    assert patient.is_set()


@pytest.mark.parametrize("seconds", [1.0, 20.0, 600.0])
def test_renewal_that_came_too_late_does_not_hide_another_driver(
    taken: lease.Lease, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A machine that sleeps between looking and writing would write over the lease of whoever has taken the run, and both go on."""
    write = RemoteFolder.write

    def slow(self: RemoteFolder, name: str, content: bytes) -> None:
        clock.sleep(seconds)
        write(self, name, content)

    monkeypatch.setattr(RemoteFolder, "write", slow)
    clock.sleep(watching.LEASE_SECONDS - 5)
    taken._asked.set()
    assert taken._answered.wait(60)
    if seconds < watching.LEASE_SECONDS and seconds <= lease.TAKING_SECONDS:
        taken.check()
    else:
        with pytest.raises(RunDirectoryError, match="took longer than taking it does"):
            taken.check()


def test_lease_is_renewed_by_itself(remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign of hours would lose its run after half a minute."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 5.0)
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: None)
    held = lease.Lease(remote, seconds=0.2)
    held.take()
    first = held.until
    for _ in range(3):
        held._answered.clear()
        assert held._answered.wait(60)
    assert held.until > first
    held.check()
    held.release()


def test_of_two_that_come_at_once_one_gives_way(remote: RemoteFolder, clock: Clock) -> None:
    """Both looked before either had written, and both would go on."""
    clock.others[0.5] = lambda: foreign(remote, clock.time() + 20)
    with pytest.raises(RunDirectoryError, match="process 7"):
        lease.Lease(remote).take()


def test_holder_that_was_only_slow_keeps_its_run(remote: RemoteFolder, clock: Clock) -> None:
    """It had looked before it was taken for dead, and writes after: two drivers would write one ledger."""
    foreign(remote, clock.time() + 20)
    moment = watching.ORPHAN_SECONDS + lease.TAKING_SECONDS - 1
    clock.others[moment] = lambda: foreign(remote, clock.time() + 20)
    with pytest.raises(RunDirectoryError, match="process 7"):
        lease.Lease(remote).take()
    assert clock.passed > moment


@pytest.mark.parametrize("seconds", [2.5, 20.0, 170.0, -0.5, -20.0, -170.0])
@pytest.mark.parametrize("arrive", [True, False])
def test_bid_that_came_late_does_not_rob_who_came_in_between(
    remote: RemoteFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, arrive: bool
) -> None:
    """Its first write got a 503, and was written again minutes later, over the lease of a driver that had settled: it read its own token, and both went on."""
    remote.write(watching.NAME, b"{}\n")
    other = Elsewhere(remote, clock)
    Writes(monkeypatch, clock, seconds, arrive=arrive)
    clock.others[0.25] = other.begin
    with pytest.raises(RunDirectoryError, match="process 7 on elsewhere"):
        lease.Lease(remote).take()
    clock.sleep(watching.RENEW_SECONDS)
    assert not other.lost
    assert watching.read(remote)["token"] == "x"


@pytest.mark.parametrize(("seconds", "arrive"), [(20.0, True), (-0.5, True), (-20.0, True), (-0.5, False)])
def test_bid_that_came_late_counts_when_nobody_has_come_in_between(
    remote: RemoteFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, arrive: bool
) -> None:
    """A single hiccup at its start would end a campaign, or leave a run that refuses everybody."""
    Writes(monkeypatch, clock, seconds, arrive=arrive)
    held = lease.Lease(remote)
    held.take()
    held.check()
    assert watching.read(remote)["token"] == held.token
    watched = watching.LEASE_SECONDS + watching.MARGIN_SECONDS if arrive else 0.0
    assert watched < clock.passed - abs(seconds) < watched + 10
    held.release()
    assert watching.read(remote) == {}


def test_storage_too_slow_to_know_who_holds_a_run_is_refused(
    remote: RemoteFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers on it would write one ledger; or one alone wait for ever."""
    Writes(monkeypatch, clock, *[lease.TAKING_SECONDS + 1] * 10)
    with pytest.raises(StorageError, match="written 3 times") as caught:
        lease.Lease(remote).take()
    assert "--run-dir" in caught.value.remedy


def test_run_that_cannot_be_written_is_refused_at_once(
    remote: RemoteFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that may only be read would be tried for minutes."""

    def refuse(*_: Any) -> None:
        raise PermissionError("ACCESS_DENIED")

    monkeypatch.setattr(RemoteFolder, "_write", refuse)
    with pytest.raises(StorageError, match="ACCESS_DENIED"):
        lease.Lease(remote).take()
    assert clock.passed == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("taking", [False, True])
def test_holder_writes_over_a_bid_that_came_late(taken: lease.Lease, clock: Clock, late: bool, taking: bool) -> None:
    """The one that looked before the lease was there would end the driver that has it; or one that came back after an outage end who took the run lawfully."""
    clock.sleep(watching.LEASE_SECONDS + 1 if late else watching.RENEW_SECONDS)
    foreign(taken.remote, clock.time() + watching.LEASE_SECONDS, taking=taking)
    taken._answered.clear()
    taken._asked.set()
    assert taken._answered.wait(60)
    if taking and not late:
        taken.check()
        assert not watching.read(taken.remote)["taking"], "it holds, and bids no more"
        assert watching.read(taken.remote)["token"] == taken.token
    else:
        with pytest.raises(RunDirectoryError, match="process 7 on elsewhere"):
            taken.check()


def test_holder_that_was_late_gives_way_to_a_bid_until_it_has_looked_again(taken: lease.Lease, clock: Clock) -> None:
    """Whoever has watched the lease to its end is about to write when the holder wakes: written over again, both would believe that they hold the run."""

    def renewed() -> None:
        taken._answered.clear()
        taken._asked.set()
        assert taken._answered.wait(60)

    clock.sleep(watching.LEASE_SECONDS + 1)
    renewed()
    taken.check()
    foreign(taken.remote, clock.time() + watching.LEASE_SECONDS, taking=True)
    renewed()
    with pytest.raises(RunDirectoryError, match="process 7 on elsewhere"):
        taken.check()


def test_holder_that_has_looked_again_is_sure_of_its_run(taken: lease.Lease, clock: Clock) -> None:
    """One outage, and for the rest of a campaign whoever bids late ends it."""
    for seconds in (watching.LEASE_SECONDS + 1, watching.RENEW_SECONDS):
        clock.sleep(seconds)
        taken._answered.clear()
        taken._asked.set()
        assert taken._answered.wait(60)
    foreign(taken.remote, clock.time() + watching.LEASE_SECONDS, taking=True)
    taken._answered.clear()
    taken._asked.set()
    assert taken._answered.wait(60)
    taken.check()
    assert watching.read(taken.remote)["token"] == taken.token


def test_only_what_another_machine_started_is_waited_for(remote: RemoteFolder, clock: Clock) -> None:
    """Trials whose cluster lost its head live on for three quarters of a minute, and would send their checkpoints while others go on from them."""
    foreign(remote, clock.time())
    assert watching.await_end(remote) == (remote.read(watching.NAME), True)
    assert watching.ORPHAN_SECONDS == clock.passed > 60
    # A process of this machine that runs, and whose lease has run out.
    remote.write(watching.NAME, json.dumps({**this_process(), "until": clock.time() - 1}).encode())
    began = clock.passed
    assert watching.await_end(remote)[1]
    assert clock.passed - began == watching.LEASE_SECONDS + watching.MARGIN_SECONDS
