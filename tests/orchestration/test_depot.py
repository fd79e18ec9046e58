"""Folders of other file systems, brought to this machine once and whole."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from raydistill.errors import CheckpointError, ConfigError, DataError, StorageError
from raydistill.kg.store import Dataset
from raydistill.orchestration import transfer, uses
from raydistill.orchestration.depot import Depot, cache_folder
from raydistill.orchestration.remote import RemoteFolder, joined
from raydistill.orchestration.uses import Uses
from raydistill.training.manifest import verify_checkpoint


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fs.FileSystem:
    """A file system that is not this machine's, with an empty depot here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "there").mkdir()
    return fs.SubTreeFileSystem(str(tmp_path / "there"), fs.LocalFileSystem())


@pytest.fixture
def graph(elsewhere: fs.FileSystem, dataset_folder: Path, tmp_path: Path) -> Path:
    """The nine-triple graph on it, as `graph`."""
    return Path(shutil.copytree(dataset_folder, tmp_path / "there" / "graph", ignore=shutil.ignore_patterns("tokens")))


def depots() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "depot").iterdir() if not path.name.endswith(".lock"))


def test_dataset_is_fetched_once(graph: Path, elsewhere: fs.FileSystem, dataset_folder: Path) -> None:
    """Every trial of a search would fetch the graph again; or an altered graph would be served from before."""
    depot = Depot(elsewhere)
    first = depot.dataset("graph")
    assert Dataset.load(first).fingerprint == Dataset.load(dataset_folder).fingerprint
    inode = (first / "manifest.json").stat().st_ino
    assert depot.dataset("graph") == first
    assert (first / "manifest.json").stat().st_ino == inode
    assert depots() == [first.name]


def test_twins_fetch_once_and_both_get_it(
    graph: Path, elsewhere: fs.FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trials that start at once would write one file together."""
    fetched, found = [], []
    fetch = RemoteFolder.fetch

    def counted(self: RemoteFolder, local: Path) -> None:
        fetched.append(local)
        threading.Event().wait(0.3)
        fetch(self, local)

    monkeypatch.setattr(RemoteFolder, "fetch", counted)
    twins = [threading.Thread(target=lambda: found.append(Depot(elsewhere).dataset("graph"))) for _ in range(3)]
    for twin in twins:
        twin.start()
    for twin in twins:
        twin.join()
    assert len(fetched) == 1
    assert len(found) == 3
    assert all(Dataset.load(path) for path in found)


def test_kill_in_the_middle_leaves_nothing_that_looks_whole(
    graph: Path, elsewhere: fs.FileSystem, tmp_path: Path
) -> None:
    """Half a graph under its final name would be read by every later trial; a lock of the dead would keep them waiting."""
    code = f"""
import os
from pathlib import Path
from pyarrow import fs
from raydistill.orchestration.depot import Depot
from raydistill.orchestration.remote import RemoteFolder
RemoteFolder._fetch = lambda self, local, name: os._exit(9) if name == "manifest.json" else (local / name).write_bytes(b"half")
Depot(fs.SubTreeFileSystem({str(tmp_path / "there")!r}, fs.LocalFileSystem())).dataset("graph")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert all(name.startswith(".") for name in depots())
    assert Dataset.load(Depot(elsewhere).dataset("graph"))
    assert not [name for name in depots() if name.startswith(".")]


def test_damaged_object_is_refused_by_name(graph: Path, elsewhere: fs.FileSystem) -> None:
    """A graph that lost a byte on its way would be learnt without a sign, or the reader be sent to a folder of ours."""
    content = bytearray((graph / "triples" / "train.parquet").read_bytes())
    content[40] ^= 1
    (graph / "triples" / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"^graph/triples/train\.parquet: "):
        Depot(elsewhere).dataset("graph")
    (graph / "triples" / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"^graph/triples/train\.parquet: "):
        Depot(elsewhere).dataset("graph")
    assert depots() == []
    with pytest.raises(DataError, match="nowhere: no readable manifest"):
        Depot(elsewhere).dataset("nowhere")


def test_damaged_copy_is_fetched_again(
    elsewhere: fs.FileSystem, teacher_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """A disk that lost a byte of a copy would stop every campaign on that machine, although the original is whole."""
    shutil.copytree(teacher_checkpoint(), tmp_path / "there" / "teacher")
    depot = Depot(elsewhere)
    copy = depot.checkpoint("teacher", verify_checkpoint)
    assert verify_checkpoint(copy) == verify_checkpoint(teacher_checkpoint())
    (copy / "raydistill.json").write_text("{}")
    assert verify_checkpoint(depot.checkpoint("teacher", verify_checkpoint)) == verify_checkpoint(teacher_checkpoint())
    (tmp_path / "there" / "teacher" / "raydistill.json").write_text("{}")
    shutil.rmtree(cache_folder())
    with pytest.raises(CheckpointError, match=r"^teacher: raydistill.json was changed"):
        depot.checkpoint("teacher", verify_checkpoint)


def test_local_places_are_used_where_they_are(dataset_folder: Path) -> None:
    """A local dataset would be copied, or its place not be understood once it is written as a URI."""
    assert Depot().dataset(str(dataset_folder)) == dataset_folder
    assert Depot().dataset(dataset_folder.as_uri()) == dataset_folder


def test_folder_travels_to_s3_and_back(s3: Callable[[str], str], teacher_checkpoint: Callable[..., Path]) -> None:
    """A file left behind, or a folder that looks whole before its manifest came, would be found out by a trial on another machine."""
    place = RemoteFolder.at(s3("there/teacher"))
    assert place is not None
    place.send(teacher_checkpoint())
    digest = verify_checkpoint(teacher_checkpoint())
    assert verify_checkpoint(Depot().checkpoint(place.name, verify_checkpoint)) == digest
    twin = RemoteFolder.at(s3("there/twin"))
    assert twin is not None
    place.copy(twin)
    place.remove()
    assert place.files() == []
    assert verify_checkpoint(Depot().checkpoint(twin.name, verify_checkpoint)) == digest
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        RemoteFolder.at(s3("x").replace("bucket", "no-bucket", 1)).write("a", b"")  # type: ignore[union-attr]


def _name_and_content(folder: RemoteFolder) -> tuple[str, bytes | None]:
    return folder.name, folder.read("manifest.json")


def test_folder_may_be_sent_to_other_processes(elsewhere: fs.FileSystem, graph: Path) -> None:
    """A file system that cannot be pickled would fail only when the first trial starts."""
    folder = RemoteFolder(elsewhere, "graph")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_name_and_content, (folder,)) == _name_and_content(folder)


class Counting:
    """A file system that counts what it copies by itself."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self.filesystem, self.copied = filesystem, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)

    def copy_file(self, source: str, target: str) -> None:
        self.copied.append(target)
        self.filesystem.copy_file(source, target)


def test_large_files_are_copied_through_this_machine(
    elsewhere: fs.FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 copies nothing above 5 GiB by one request, and its client gives up on what takes long: a teacher of that size could not be announced."""
    monkeypatch.setattr(transfer, "STREAMED_BYTES", 10)
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 4)
    files = {"encoder/large": b"0123456789abcdef", "encoder/small": b"0123456789", "manifest.json": b"{}"}
    (tmp_path / "there/source/encoder").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / "there/source" / name).write_bytes(content)
    counting = Counting(elsewhere)
    target = RemoteFolder(counting, "target")  # type: ignore[arg-type]
    RemoteFolder(counting, "source").copy(target)  # type: ignore[arg-type]
    assert {name: target.read(name) for name in target.files()} == files
    assert counting.copied == ["target/encoder/small", "target/manifest.json"]


def test_large_files_of_a_bucket_are_copied_through_this_machine(
    s3: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy in parts has to be the same bytes."""
    monkeypatch.setattr(transfer, "STREAMED_BYTES", 2**20)
    content = os.urandom(7 * 2**20 + 3)
    place, twin = RemoteFolder.at(s3("large/one")), RemoteFolder.at(s3("large/twin"))
    assert place is not None
    assert twin is not None
    place.write("weights", content)
    place.copy(twin)
    assert twin.read("weights") == content


@pytest.fixture
def teachers(elsewhere: fs.FileSystem, tmp_path: Path) -> list[str]:
    """The places of four checkpoints, as far as a depot looks at them."""
    names = ["first", "second", "third", "fourth"]
    for name in names:
        (tmp_path / "there" / name).mkdir()
        (tmp_path / "there" / name / "manifest.json").write_text(name)
    return names


def brought(elsewhere: fs.FileSystem, place: str, using: Uses | None = None) -> Path:
    return Depot(elsewhere).checkpoint(place, lambda path: (Path(path) / "manifest.json").read_text(), uses=using)


def age(folder: Path, seconds: float) -> None:
    """Make the last use of a folder of the depot older."""
    path = folder.with_name(f".{folder.name}.use.lock")
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_what_nobody_has_used_for_long_leaves_the_depot(elsewhere: fs.FileSystem, teachers: list[str]) -> None:
    """Every checkpoint that a campaign promotes would stay on the disks of all its machines for ever; or one go while a trial of days reads it."""
    with Uses() as using:
        first, second, third = (
            brought(elsewhere, place, using if place == "first" else None) for place in teachers[:3]
        )
        for folder in (first, second):
            age(folder, uses.UNUSED_SECONDS + 60)
        age(third, uses.UNUSED_SECONDS - 60)
        fourth = brought(elsewhere, "fourth")
        assert depots() == sorted(path.name for path in (first, third, fourth))
    age(third, 120)
    second = brought(elsewhere, "second")
    assert depots() == sorted(path.name for path in (first, second, fourth)), "it was in use until a moment ago"
    age(first, uses.UNUSED_SECONDS + 60)
    assert brought(elsewhere, "first") == first
    brought(elsewhere, "third")
    assert first.exists(), "what is there is used by whoever asks for it"


def test_use_by_another_process_counts(elsewhere: fs.FileSystem, teachers: list[str], tmp_path: Path) -> None:
    """A trial beside this one would lose its teacher; or a process that was killed keep its own for ever."""
    code = f"""
import sys
from pathlib import Path
from pyarrow import fs
from raydistill.orchestration.depot import Depot
from raydistill.orchestration.uses import Uses
with Uses() as uses:
    depot = Depot(fs.SubTreeFileSystem({str(tmp_path / "there")!r}, fs.LocalFileSystem()))
    print(depot.checkpoint("first", lambda path: (Path(path) / "manifest.json").read_text(), uses=uses), flush=True)
    sys.stdin.read()
"""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    first = Path(process.stdout.readline().strip())
    age(first, uses.UNUSED_SECONDS + 60)
    brought(elsewhere, "second")
    assert first.exists()
    process.kill()
    process.wait()
    brought(elsewhere, "third")
    assert not first.exists()


def test_what_is_in_use_for_long_says_so_to_machines_that_see_no_lock(
    elsewhere: fs.FileSystem, teachers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cache that machines share, where each sees its own locks alone, the graph of a trial would be removed after half a day."""
    with Uses() as using:
        first = brought(elsewhere, "first", using)
        # Another machine's lock, which this one does not see.
        monkeypatch.setattr(uses, "is_locked", lambda *_, **__: True)
        age(first, uses.UNUSED_SECONDS + 60)
        using.touch()
        brought(elsewhere, "second")
        assert first.exists()
    age(first, uses.UNUSED_SECONDS + 60)
    brought(elsewhere, "third")
    assert not first.exists()


def test_use_is_renewed_by_itself(
    elsewhere: fs.FileSystem, teachers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score that takes a day, in one call, would come to no line that says that it goes on."""
    monkeypatch.setattr(uses, "TOUCH_SECONDS", 0.05)
    with Uses() as using:
        first = brought(elsewhere, "first", using)
        age(first, uses.UNUSED_SECONDS + 60)
        deadline = time.monotonic() + 60
        while uses._unused_seconds(first) > uses.UNUSED_SECONDS:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        thread = using._thread
    assert thread is not None
    thread.join(60)
    assert not thread.is_alive()


def test_what_was_half_fetched_or_half_removed_goes_with_time(elsewhere: fs.FileSystem, teachers: list[str]) -> None:
    """Of every kill in the middle a folder would stay that nobody looks at again."""
    depot = brought(elsewhere, "first").parent
    for name, days in ((".a.aside", 1), (".removed-b", 1), (".c.aside", 0)):
        (depot / name).mkdir()
        moment = (depot / name).stat().st_mtime - days * 86400
        os.utime(depot / name, (moment, moment))
    brought(elsewhere, "second")
    assert [name for name in depots() if name.startswith(".")] == [".c.aside"]


@pytest.mark.parametrize(
    ("place", "words"), [("s3://key:secret@bucket/x", "credentials"), ("nope://x", "a URI that pyarrow knows")]
)
def test_place_that_cannot_be_meant_is_refused(place: str, words: str) -> None:
    """A password would be saved with the configuration and printed in every log; a typo would give a traceback."""
    with pytest.raises(ConfigError, match=words) as caught:
        RemoteFolder.at(place)
    assert "secret" not in str(caught.value)


def test_places_inside_keep_the_query() -> None:
    """The checkpoint of a run on another endpoint would be looked for at Amazon."""
    assert joined("s3://b/run/?region=x", "grades/1") == "s3://b/run/grades/1?region=x"
    assert joined("runs/", "demo") == "runs/demo"


def test_refusal_of_a_full_depot_is_a_storage_error(
    graph: Path, elsewhere: fs.FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk under the depot would give a traceback."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(pa.fs, "copy_files", full)
    with pytest.raises(StorageError, match="No space left"):
        Depot(elsewhere).dataset("graph")


def test_depot_that_cannot_be_written_is_a_storage_error(
    graph: Path, elsewhere: fs.FileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A home directory that is read-only, as in many containers, would give a traceback."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot be kept below"):
        Depot(elsewhere).dataset("graph")
