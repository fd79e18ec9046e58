"""Machines that are not what the driver takes them for: another folder under the run's path, other code, no credentials."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
import ray
from pyarrow import fs

from raydistill.errors import ConfigError, RunDirectoryError, StorageError
from raydistill.orchestration import premises
from raydistill.orchestration.asking import ask
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.coordinator import start_coordinator
from raydistill.orchestration.premises import Premises, Release, release_here, source_digest
from raydistill.orchestration.remote import RemoteFolder
from raydistill.orchestration.runstore import IDENTITY, RunStore
from raydistill.orchestration.scoring import score
from raydistill.orchestration.study import Study
from raydistill.orchestration.variables import Variables
from raydistill.planning.rules import Rules

ELSEWHERE = {"folder": "/elsewhere/raydistill", "machine": "another"}
SECRET = "RAYDISTILL_SECRET"


@pytest.mark.parametrize("there", ["nothing", "another", "no identity"])
def test_folder_that_is_not_the_drivers_is_refused(tmp_path: Path, there: str) -> None:
    """A mount that is missing on one machine: its trials write to a disk of their own, and a grade promotes the best of the others, without a word."""
    (tmp_path / "mounted").mkdir()
    store = RunStore.at(tmp_path / "mounted").claimed()
    here = replace(store, place=str(tmp_path / "here"))
    Premises(store).require()
    if there != "nothing":
        (tmp_path / "here").mkdir()
    if there == "another":
        assert RunStore.at(tmp_path / "here").claimed().identity != store.identity
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match="does not see the driver's run directory") as caught:
        Premises(here).require()
    assert str(tmp_path / "here") in caught.value.received
    assert caught.value.expected
    assert caught.value.consequence
    assert "mount" in caught.value.remedy
    assert "s3://" in caught.value.remedy
    assert sorted(tmp_path.rglob("*")) == before, "nothing may be made there"


def test_run_keeps_its_identity_and_one_of_an_earlier_release_gets_one(tmp_path: Path) -> None:
    """A resumed run would refuse every machine; or one that was begun before there were identities be asked for none."""
    store = RunStore.at(tmp_path)
    assert store.identity == ""
    Premises(store).require()
    claimed = store.claimed()
    assert len(claimed.identity) == 32
    assert (tmp_path / IDENTITY).read_text().strip() == claimed.identity
    assert RunStore.at(tmp_path).claimed() == claimed == claimed.claimed()
    (tmp_path / IDENTITY).write_bytes(b"\x00")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        RunStore.at(tmp_path).claimed()


def test_run_that_a_process_of_the_cluster_cannot_read_names_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver reads its bucket, the cluster does not: exit 70, `a fault of raydistill`."""
    said = StorageError("s3://bucket/run: .identity cannot be read: ACCESS_DENIED", remedy="check the place")

    def denied(self: RemoteFolder, name: str) -> bytes:
        raise said

    remote = RemoteFolder(fs.LocalFileSystem(), "/nowhere")
    monkeypatch.setattr(RemoteFolder, "read", denied)
    with pytest.raises(StorageError, match=r"ACCESS_DENIED.*by a process of the cluster") as caught:
        Premises(RunStore("s3://bucket/run", remote, "a")).require()
    assert "raydistill run --env AWS_ACCESS_KEY_ID --env AWS_SECRET_ACCESS_KEY" in caught.value.remedy


def release(**changes: Any) -> Release:
    """This process's, but for some of it."""
    return replace(release_here(), **changes)


@pytest.mark.parametrize("changes", [{"source": "0" * 64}, {"version": "0.0.1"}])
def test_other_code_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    """A loss that was mended last week, and a machine on which it was not: the trials of one grade would be compared."""
    store = RunStore.at(tmp_path)
    with pytest.raises(ConfigError, match="the driver has raydistill") as caught:
        Premises(store, release(**changes, **ELSEWHERE)).require()
    assert "raydistill submit" in caught.value.remedy
    Premises(store, release(**ELSEWHERE)).require()
    assert Premises(store, release(**ELSEWHERE)).doubts() == []
    # The same folder on a machine that is a copy.
    with pytest.raises(ConfigError):
        Premises(store, release(**changes, machine="another")).require()


def test_code_that_was_edited_under_a_campaign_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """A comment is corrected in a checkout, and a campaign of days ends."""
    changed = Premises(RunStore.at(tmp_path), release(source="0" * 64))
    changed.require()
    [doubt] = changed.doubts()
    assert "has been changed since the campaign began" in doubt


@pytest.mark.parametrize(("theirs", "same"), [("files:/export", True), ("others:/export", False), ("", False)])
def test_one_file_server_is_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str, same: bool) -> None:
    """An edit in a home folder that all machines of a cluster share ends the campaign on each of them; or two disks pass for one."""
    disks = [("/dev/sda", "/"), ("files:/export", str(premises.PACKAGE.parent)), ("files:/other", "/other")]
    mounts = [SimpleNamespace(device=device, mountpoint=place) for device, place in disks]
    monkeypatch.setattr(premises.psutil, "disk_partitions", lambda all: mounts)
    release_here.cache_clear()
    assert release_here().server == "files:/export"
    asked = Premises(RunStore.at(tmp_path), release(source="0" * 64, machine="another", server=theirs))
    if same:
        asked.require()
        assert "has been changed" in asked.doubts()[0]
    else:
        with pytest.raises(ConfigError):
            asked.require()
    monkeypatch.setattr(premises.psutil, "disk_partitions", lambda all: mounts[:1])
    release_here.cache_clear()
    assert release_here().server == ""
    release_here.cache_clear()


def test_another_torch_is_told(tmp_path: Path) -> None:
    """Numbers that nobody can repeat, and no word on why; or a word on every machine whose torch is built for GPUs."""
    theirs = dict(release_here().beside)
    assert set(theirs) == {"torch", "transformers"}
    assert "+" not in theirs["torch"]
    theirs["torch"] = "1.0.0"
    told = Premises(RunStore.at(tmp_path), release(beside=tuple(theirs.items()), **ELSEWHERE)).doubts()
    assert len(told) == 1
    assert "torch" in told[0]
    assert "1.0.0" in told[0]
    assert Premises(RunStore.at(tmp_path), release(beside=(), **ELSEWHERE)).doubts() == []


def test_source_is_what_is_sent_and_nothing_that_comes_by_itself(tmp_path: Path) -> None:
    """Caches and an editor's files would refuse every machine; a changed, moved or missing file none."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("a = 1\n")
    first = source_digest(tmp_path)
    for path in ("__pycache__/a.py", "room/__pycache__/b.py", "room/.#a.py", ".git/c.py", "notes.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("other")
    assert source_digest(tmp_path) == first
    (tmp_path / "room" / "a.py").write_text("a = 2\n")
    changed = source_digest(tmp_path)
    (tmp_path / "room" / "a.py").rename(tmp_path / "a.py")
    assert len({first, changed, source_digest(tmp_path)}) == 3


def test_code_is_compared_without_torch() -> None:
    """The process of a search would import it for its version alone, which takes seconds."""
    code = "import sys; from raydistill.orchestration.premises import release_here; release_here(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_study_of_a_driver_that_knows_no_releases_is_taken() -> None:
    """A campaign goes on while the package is renewed under it: its studies lack what the new code asks for."""
    study = Study.__new__(Study)
    study.__dict__["store"] = RunStore("/nowhere")
    study.premises.require()
    assert study.premises.doubts() == []


def test_variables_are_set_where_they_arrive_before_the_file_system_and_are_shown_nowhere(tmp_path: Path) -> None:
    """Credentials that come after the bucket they are for; or that stand in the log of whoever prints a run."""
    code = f"import os, pickle, sys; store = pickle.load(sys.stdin.buffer); print(os.environ[{SECRET!r}], store)"
    store = RunStore("place", RemoteFolder(fs.LocalFileSystem(), str(tmp_path)), "name", Variables({SECRET: "s3cr3t"}))
    content = pickle.dumps(store)
    assert SECRET not in os.environ
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    value, _, shown = done.stdout.decode().partition(" ")
    assert value == "s3cr3t"
    assert "identity='name'" in shown
    assert f"Variables({SECRET})" in shown
    assert "s3cr3t" not in shown + repr(store)
    assert content.index(b"s3cr3t") < content.index(b"_rebuilt")


def test_scoring_is_refused_without_the_run(tmp_path: Path) -> None:
    """A damaged checkpoint would be reported where only a mount is missing."""
    shop = SimpleNamespace(set_threads=lambda count: pytest.fail("it begins"))
    here = Premises(RunStore(str(tmp_path), identity="other"))
    with pytest.raises(StorageError, match="does not see"):
        score("c", fakes.campaign(), shop, 1, premises=here)  # type: ignore[arg-type]


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2], ids=["inline", "train"])
def test_campaign_ends_in_words_on_a_machine_without_the_run_directory(
    cluster: None, tmp_path: Path, workers: int
) -> None:
    """Of a ladder that was searched on three machines, what one of them found is missing, and nobody knows."""
    root = tmp_path / "run"
    shop = replace(fakes.workshop(), set_threads=partial(fakes.unmount, str(root / IDENTITY)))
    config = fakes.campaign(resources={"backend": "inline" if workers == 1 else "train", "workers_per_trial": workers})
    with pytest.raises(StorageError, match="does not see the driver's run directory"):
        Campaign(config, root, shop).run()
    assert list(root.glob("grades/*/trials/*")) == []


@pytest.mark.ray
def test_variables_reach_trials_and_no_log_of_rays(cluster: None, tmp_path: Path) -> None:
    """Ray writes a `runtime_env` into a log that every user of the machine may read."""
    told, value = tmp_path / "told", "s3cr3t-of-this-test"
    shop = replace(fakes.workshop(), set_threads=partial(fakes.tell_variable, str(told), SECRET))
    config = fakes.campaign(grades=[{"layers": 6, "mask_ratio": 0.1}], resources={"backend": "inline"})
    assert Campaign(config, tmp_path / "run", shop, variables={SECRET: value}).run().complete
    assert set(told.read_text().split()) == {value}
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())  # type: ignore[attr-defined]
    files = [path for path in logs.rglob("*") if path.is_file()]
    assert files
    assert [path.name for path in files if value in path.read_text(errors="replace")] == []


@pytest.mark.ray
def test_coordinator_that_cannot_read_the_run_says_so_and_lives(cluster: None, tmp_path: Path) -> None:
    """An error of an actor's constructor comes out as `the actor died`, and it is never started again."""
    store = RunStore.at(tmp_path).claimed()
    coordinator = start_coordinator(store, Rules("sequential", 0.0, False, 1, 2, epochs=(3, 3), sizes=(12, 6)))
    (tmp_path / IDENTITY).rename(tmp_path / "aside")
    with pytest.raises(StorageError, match="does not see the driver's run directory"):
        ask(coordinator.start.remote("f", ["main"], ["0-teacher"]))
    (tmp_path / "aside").rename(tmp_path / IDENTITY)
    ask(coordinator.start.remote("f", ["main"], ["0-teacher"]))
    assert [event["kind"] for event in ask(coordinator.news.remote(0))] == ["campaign_started"]
    ray.kill(coordinator)


@pytest.mark.ray
def test_healthy_trials_save_before_one_machines_fault_ends_the_campaign(cluster: None, tmp_path: Path) -> None:
    """One disk is full, and the trials of all other machines lose what they learnt since their last epoch."""
    root = tmp_path / "run"
    # Longer than whoever is killed has.
    fakes.control(root, seconds=120, saves=2)
    shop = replace(fakes.workshop(), set_threads=partial(fakes.fill_disk, str(root)))
    config = fakes.campaign(
        compare={"methods": [{"name": "pmd"}], "seeds": [0, 1]},
        resources={"backend": "inline", "concurrent_trials": 2, "cpus_per_worker": 1},
    )
    began = time.monotonic()
    with pytest.raises(StorageError, match="the disk is full"):
        Campaign(config, root, shop).run()
    assert time.monotonic() - began < 110
    [ended] = root.glob(f"grades/*/trials/*/{fakes.ENDED}")
    assert len(ended.read_text().splitlines()) == 1
