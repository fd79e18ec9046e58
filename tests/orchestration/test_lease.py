"""One driver per run where there are no locks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import fs

from raydistill.errors import RunDirectoryError
from raydistill.orchestration import lease
from raydistill.orchestration.locking import is_held, locked
from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.runstore import RunStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A run on a file system that is not this machine's."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.1)
    return RunStore.at("runs/first", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))


def foreign(store: RunStore, until: float) -> None:
    assert store.remote is not None
    content = {"holder": "process 7 on elsewhere", "machine": "elsewhere", "pid": 7, "token": "x", "until": until}
    store.remote.write(lease.NAME, json.dumps(content).encode())


def test_second_driver_is_told_who_holds_the_run_and_until_when(store: RunStore) -> None:
    """Two drivers would write one ledger; or a reader wait without knowing for what."""
    foreign(store, time.time() + 20)
    assert is_held(store)
    with pytest.raises(RunDirectoryError, match=r"in use by process 7 on elsewhere, .* in (19|20) s"), locked(store):
        pass
    foreign(store, time.time() - 1)
    assert not is_held(store)
    with locked(store) as check:
        check()
        assert is_held(store)
        with pytest.raises(RunDirectoryError, match="in use by process"), locked(store):
            pass
    assert not is_held(store)


def test_driver_that_was_killed_on_this_machine_need_not_be_waited_for(store: RunStore, tmp_path: Path) -> None:
    """`--resume` right after a crash would be refused until the lease has run out."""
    code = f"""
import os
from pyarrow import fs
from raydistill.orchestration.locking import locked
from raydistill.orchestration.runstore import RunStore
with locked(RunStore.at("runs/first", fs.SubTreeFileSystem({str(tmp_path)!r}, fs.LocalFileSystem()))): os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert store.remote is not None
    assert lease.read(store.remote)["until"] > time.time()
    with locked(store):
        pass


def test_lease_is_renewed_and_its_loss_is_noticed(store: RunStore) -> None:
    """A campaign of hours would lose its run after half a minute; or go on writing when another driver has it."""
    assert store.remote is not None
    held = lease.Lease(store.remote, seconds=4.0)
    held.take()
    first, deadline = held.until, time.monotonic() + 60
    while held.until < first + 4.0 and time.monotonic() < deadline:
        time.sleep(0.1)
        held.check()
    assert is_held(store)
    foreign(store, time.time() + 20)
    while held.lost is None and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(RunDirectoryError, match="process 7 on elsewhere"):
        held.check()
    held.release()
    assert lease.read(store.remote)["token"] == "x", "what another holds is not given back"


@pytest.mark.parametrize("clock", ["time", "monotonic"])
def test_lease_that_ran_out_in_its_holders_sleep_is_lost(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    """A laptop that wakes would go on as if nothing had happened, in a run that another driver has taken, or had and left."""
    assert store.remote is not None
    held = lease.Lease(store.remote)
    held.take()
    held.check()
    later = getattr(time, clock)() + lease.LEASE_SECONDS + 1
    with monkeypatch.context() as patch:
        patch.setattr(lease.time, clock, lambda: later)
        with pytest.raises(RunDirectoryError, match="has not been renewed for 30 seconds") as caught:
            held.check()
    assert "--resume" in caught.value.remedy
    with pytest.raises(RunDirectoryError):
        held.check()
    held.release()


def test_of_two_that_come_at_once_one_gives_way(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looked before either had written, and both would go on."""
    assert store.remote is not None
    rival = RemoteFolder(store.remote.filesystem, store.remote.folder)
    monkeypatch.setattr(lease.time, "sleep", lambda _: foreign(RunStore("runs/first", rival), time.time() + 20))
    with pytest.raises(RunDirectoryError, match="process 7"):
        lease.Lease(store.remote).take()
