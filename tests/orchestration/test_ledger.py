from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from raydistill.errors import LedgerError, StorageError
from raydistill.orchestration import durable, patience
from raydistill.orchestration.ledger import Ledger


def filled(folder: Path, count: int = 5) -> Ledger:
    ledger = Ledger.at(folder)
    for number in range(count):
        ledger.append({"kind": "k", "number": number, "metrics": {"mrr": 0.5}})
    return ledger


def on_subtree(folder: Path) -> Ledger:
    return Ledger(fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), "run/ledger")


def at_uri(folder: Path) -> Ledger:
    return Ledger.at(f"file://{folder}/run/ledger")


def at_path(folder: Path) -> Ledger:
    return Ledger.at(folder / "run" / "ledger")


@pytest.mark.parametrize("place", [on_subtree, at_uri, at_path])
def test_events_come_back_in_order(tmp_path: Path, place: Any) -> None:
    """A run on another file system would come back empty or out of order."""
    writer = place(tmp_path)
    assert writer.read() == []
    assert [writer.append({"n": n, "path": "ä/b", "list": (1, 2)}) for n in range(12)] == list(range(1, 13))
    reader = place(tmp_path)
    assert [event["n"] for event in reader.read()] == list(range(12))
    assert reader.read(after=10)[0] == {"n": 10, "path": "ä/b", "list": [1, 2]}
    assert reader.append({"n": 12}) == 13


def test_a_number_that_is_none_is_null(tmp_path: Path) -> None:
    """A NaN metric would make the ledger unreadable to any other JSON reader, or its checksum fail."""
    ledger = Ledger.at(tmp_path)
    ledger.append({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}})
    assert ledger.read() == [{"a": None, "b": [None, 1.5], "c": {"d": None}}]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One flipped bit in a digest or an MRR would promote another teacher, and nobody would ever know."""
    folder = tmp_path_factory.mktemp("ledger")
    whole = filled(folder, 2).read()
    path = folder / "00000002.json"
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(LedgerError):
        # A flip that leaves the content as it was (such as E for e in a number) is none.
        assert Ledger.at(folder).read() == whole
        return
    with pytest.raises(LedgerError, match=r"00000002\.json"):
        Ledger.at(folder).read()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'"x"', b"null", b'{"format": 1}', b"\xff\xfe"])
def test_damaged_event_is_named(tmp_path: Path, damage: bytes) -> None:
    """A reader would see a traceback, or lose the event in silence."""
    filled(tmp_path)
    (tmp_path / "00000003.json").write_bytes(damage)
    with pytest.raises(LedgerError, match=r"00000003\.json is damaged"):
        Ledger.at(tmp_path).read()


def test_exchanged_events_are_found(tmp_path: Path) -> None:
    """Two files copied into each other's place would tell the history in another order."""
    filled(tmp_path)
    (tmp_path / "00000002.json").write_bytes((tmp_path / "00000004.json").read_bytes())
    with pytest.raises(LedgerError, match=r"00000002\.json is damaged"):
        Ledger.at(tmp_path).read()


@pytest.mark.parametrize("number", [1, 3])
def test_gap_is_refused(tmp_path: Path, number: int) -> None:
    """A lost event would be a lost trial or a lost promotion."""
    filled(tmp_path)
    (tmp_path / f"{number:08d}.json").unlink()
    for use in (lambda: Ledger.at(tmp_path).read(), lambda: Ledger.at(tmp_path).append({})):
        with pytest.raises(LedgerError, match=f"{number:08d}.json is missing"):
            use()


def test_newer_format_is_refused(tmp_path: Path) -> None:
    """An older release would read a newer run wrongly."""
    filled(tmp_path, 1)
    path = tmp_path / "00000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(LedgerError, match="format 2"):
        Ledger.at(tmp_path).read()


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("place", [on_subtree, at_uri, at_path])
def test_event_of_another_driver_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, links: bool
) -> None:
    """A driver whose lease ran out while it slept, or whose lock another machine does not see, would replace what another has recorded."""
    if not links:
        monkeypatch.setattr(durable.os, "link", refuse_links)
    ours, theirs = place(tmp_path), place(tmp_path)
    ours.append({"who": "both"})
    assert theirs.append({"who": "they"}) == 2
    with pytest.raises(LedgerError, match=r"00000002\.json is there already") as caught:
        ours.append({"who": "we"})
    assert all((caught.value.expected, caught.value.consequence, caught.value.remedy))
    assert place(tmp_path).read() == [{"who": "both"}, {"who": "they"}]
    assert theirs.append({"who": "they"}) == 3
    assert len(list((tmp_path / "run" / "ledger").iterdir())) == 3, "nothing is left of what was not written"


def refuse_links(source: str, target: str) -> None:
    """A file system that knows none."""
    raise OSError(errno.EPERM, "Operation not permitted")


def test_of_two_drivers_that_write_at_once_one_has_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looked before either had written; what the first has written would be gone, or a mixture of both be published."""
    ours, theirs = at_path(tmp_path), at_path(tmp_path)
    ours.append({"who": "both"})
    real = os.link

    def late(source: str, target: str) -> None:
        monkeypatch.undo()
        assert theirs.append({"who": "they"}) == 2
        real(source, target)

    monkeypatch.setattr(durable.os, "link", late)
    with pytest.raises(LedgerError, match=r"00000002\.json is there already"):
        ours.append({"who": "we"})
    assert at_path(tmp_path).read() == [{"who": "both"}, {"who": "they"}]


def test_link_that_a_file_server_was_asked_for_twice_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that was lost would pass for another driver, and end the campaign."""
    real = os.link

    def twice(source: str, target: str) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(durable.os, "link", twice)
    assert filled(tmp_path, 2).append({"n": 2}) == 3
    assert Ledger.at(tmp_path).read()[2] == {"n": 2}


class Forgetful:
    """A file system whose answer to a move is lost on the way, once."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self.filesystem, self.moves = filesystem, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)

    def move(self, source: str, target: str) -> None:
        self.filesystem.move(source, target)
        self.moves += 1
        if self.moves == 1:
            raise OSError("connection reset")


def test_event_whose_answer_was_lost_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lost packet would pass for another driver, and end the campaign."""
    monkeypatch.setattr(patience, "PAUSES", (0.0,))
    filesystem = Forgetful(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    ledger = Ledger(filesystem, "run/ledger")  # type: ignore[arg-type]
    assert [ledger.append({"n": n}) for n in range(2)] == [1, 2]
    assert filesystem.moves == 2
    assert on_subtree(tmp_path).read() == [{"n": 0}, {"n": 1}]


def test_leftover_of_a_crash_is_overlooked(tmp_path: Path) -> None:
    """A writer killed between writing and renaming would make its run unreadable."""
    filled(tmp_path, 2)
    (tmp_path / ".00000003.json.0123abcd.aside").write_bytes(b'{"form')
    ledger = Ledger.at(tmp_path)
    assert len(ledger.read()) == 2
    assert ledger.append({"n": 3}) == 3
    assert Ledger.at(tmp_path).read(after=2) == [{"n": 3}]


def test_failed_write_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would leave half an event under its final name."""
    ledger = filled(tmp_path, 2)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(StorageError, match=r"00000003\.json: the disk is full"):
        ledger.append({"n": 3})
    monkeypatch.undo()
    assert len(Ledger.at(tmp_path).read()) == 2
    assert ledger.append({"n": 3}) == 3
    assert len(Ledger.at(tmp_path).read()) == 3


def test_unwritable_place_is_a_storage_error(tmp_path: Path) -> None:
    """A run directory that is a file would give a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/ledger"):
        Ledger.at(tmp_path / "file" / "ledger").append({})


def test_event_that_cannot_be_read_now_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that is away for a moment: "restore the file from a copy", exit code 4, and a coordinator that does not try again."""
    ledger = filled(tmp_path)

    def refuse(path: str) -> bytes:
        raise OSError(errno.ESTALE, "stale file handle", path)

    monkeypatch.setattr(ledger, "_content", refuse)
    with pytest.raises(StorageError, match=r"00000001\.json cannot be read: .*stale"):
        ledger.read()


def test_ten_thousand_events_are_read_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`raydistill status` and every resume of a long campaign would take minutes. Two seconds on an idle machine; room for a busy one."""
    monkeypatch.setattr(durable.os, "fsync", lambda descriptor: None)
    filled(tmp_path, 10_000)
    begin = time.process_time()
    assert len(Ledger.at(tmp_path).read()) == 10_000
    assert time.process_time() - begin < 4
