"""The ledger of a run: one small immutable numbered file per event, which everything else is rebuilt from.

    RUN/ledger/00000001.json    {"format": 1, "number": 1, "sha256": "...", "event": {...}}

An event is written under another name, synced, and given its number, unless that is taken; so a file that carries a number is complete. What is
still found damaged was damaged later, and is refused by name: guessing at a campaign's history could promote the wrong teacher.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from raydistill.errors import LedgerError, StorageError
from raydistill.orchestration.durable import publish
from raydistill.orchestration.patience import explained, patiently
from raydistill.orchestration.remote import STREAMS

FORMAT = 1
T = TypeVar("T")
_NAME = re.compile(r"^(\d{8})\.json$")
_RESTORE = "restore the file from a copy, or start in a new run directory"


class Ledger:
    """Append and read events. One writer at a time; readers may come and go.

    Args:
        filesystem: where the run lies.
        folder: the ledger's folder on it.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str) -> None:
        self.filesystem = filesystem
        self.folder = folder.rstrip("/")
        self._next: int | None = None
        # Of this writer alone: where two believe that they hold a run, neither may change what the other is about to publish.
        self._mark = uuid.uuid4().hex[:8]

    @classmethod
    def at(cls, place: str | Path) -> Ledger:
        """The ledger in a local folder or at a URI that pyarrow knows, such as s3://bucket/run/ledger."""
        text = str(place)
        if "://" in text:
            filesystem, folder = fs.FileSystem.from_uri(text)
            return cls(filesystem, folder)
        return cls(fs.LocalFileSystem(), str(Path(text).absolute()))

    def append(self, event: Mapping[str, Any]) -> int:
        """Write the next event and return its number.

        Raises:
            StorageError: it could not be written; the ledger is as it was.
            LedgerError: another process has written an event of this number, which stays as it is.
        """
        if self._next is None:
            self._next = len(self._numbers()) + 1
        number = self._next
        final, aside = f"{self.folder}/{number:08d}.json", f"{self.folder}/.{number:08d}.json.{self._mark}.aside"
        try:
            if number == 1:
                self.filesystem.create_dir(self.folder, recursive=True)
            self._patiently(lambda: self._write(aside, final, _encode(number, event)))
        except OSError as problem:
            full = problem.errno in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(problem)
            raise StorageError(
                f"{final}: {'the disk is full' if full else problem}",
                expected="room for one more event in the run directory",
                consequence="what happened next would be lost on a crash, so the campaign stops",
                remedy="make room, then run again with --resume: nothing that was recorded is lost",
            ) from problem
        self._next = number + 1
        return number

    def read(self, after: int = 0) -> list[dict[str, Any]]:
        """All events from number `after` + 1 on, oldest first.

        Raises:
            LedgerError: an event is missing or damaged.
            StorageError: one cannot be read.
        """
        numbers = [number for number in self._numbers() if number > after]
        if self._is_local:
            return [self._read_one(number) for number in numbers]
        with ThreadPoolExecutor(STREAMS) as pool:
            return list(pool.map(self._read_one, numbers))

    @property
    def _is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def _patiently(self, act: Callable[[], T]) -> T:
        """A network may fail for a moment; what a local disk refuses it refuses the next time too."""
        return act() if self._is_local else patiently(act)

    def _write(self, aside: str, final: str, content: bytes) -> None:
        if self._is_local:
            try:
                publish(final, aside, content)
            except FileExistsError:
                raise _taken(final) from None
        elif not self._is_there(final, content):
            with self.filesystem.open_output_stream(aside) as stream:
                stream.write(content)
            self.filesystem.move(aside, final)

    def _is_there(self, final: str, content: bytes) -> bool:
        """Whether an attempt before this one has come through, of which nothing was heard.

        Elsewhere no lock keeps others out, only a lease that has to be believed; and a file that is moved replaces what was there.

        Raises:
            LedgerError: it is another driver's event.
        """
        if self.filesystem.get_file_info(final).type == fs.FileType.NotFound:
            return False
        if self._content(final) == content:
            return True
        raise _taken(final)

    def _numbers(self) -> list[int]:
        selector = fs.FileSelector(self.folder, allow_not_found=True)
        # Anything else in the folder is a leftover of a write that a crash cut short; it never had a number.
        with explained(f"{self.folder} cannot be listed"):
            entries = self._patiently(lambda: self.filesystem.get_file_info(selector))
        found = (_NAME.match(entry.base_name) for entry in entries)
        numbers = sorted(int(match[1]) for match in found if match)
        if numbers != list(range(1, len(numbers) + 1)):
            missing = next(n for n, number in enumerate(numbers, start=1) if n != number)
            raise LedgerError(
                f"{self.folder}/{missing:08d}.json is missing, although later events are there",
                expected=f"every event from 1 to {numbers[-1]}",
                consequence="a campaign without part of its history could promote the wrong teacher",
                remedy=_RESTORE,
            )
        return numbers

    def _read_one(self, number: int) -> dict[str, Any]:
        path = f"{self.folder}/{number:08d}.json"
        # That it cannot be read now is not that it is damaged: a file server may be away.
        with explained(f"{path} cannot be read"):
            content = self._patiently(lambda: self._content(path))
        try:
            entry = json.loads(content)
            event: dict[str, Any] = entry["event"]
            sound = entry["number"] == number and entry["sha256"] == _checksum(number, event)
            version = entry["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise _damaged(path, f"{type(problem).__name__}: {problem}") from None
        if version != FORMAT:
            raise LedgerError(
                f"{path}: format {version!r}", expected=f"format {FORMAT}", remedy="use the release that wrote this run"
            )
        if not sound:
            raise _damaged(path, "the content does not fit its SHA-256")
        return event

    def _content(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())


def _encode(number: int, event: Mapping[str, Any]) -> bytes:
    content = {"format": FORMAT, "number": number, "sha256": _checksum(number, event), "event": _finite(event)}
    return (json.dumps(content, sort_keys=True, allow_nan=False) + "\n").encode()


def _checksum(number: int, event: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{number} {json.dumps(_finite(event), sort_keys=True)}".encode()).hexdigest()


def _finite(value: Any) -> Any:
    """JSON knows no NaN: a metric that is no number is written as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def _taken(path: str) -> LedgerError:
    return LedgerError(
        f"{path} is there already, with another event",
        expected="one driver per run",
        consequence="what another driver has recorded would be lost, and its history go on as ours",
        remedy="see which driver still runs and let it, or stop both and run again with --resume",
    )


def _damaged(path: str, how: str) -> LedgerError:
    return LedgerError(
        f"{path} is damaged: {how}",
        expected="the event exactly as it was written",
        consequence="the campaign would go on from a history that never was",
        remedy=_RESTORE,
    )
