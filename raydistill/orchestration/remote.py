"""Folders of other file systems (S3, Google Cloud Storage, HDFS, whatever pyarrow knows): reading, writing, and patience with networks.

A folder with a manifest counts as there only when its manifest is: that is sent last and removed first, so that a transfer that was cut short leaves
nothing that looks whole.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from raydistill.errors import ConfigError
from raydistill.orchestration.patience import explained, patiently
from raydistill.orchestration.transfer import copy_file, fetch_file, make_room, send_file

MANIFEST = "manifest.json"
STREAMS = 8


class RemoteFolder:
    """A folder of a file system that is not this machine's own.

    Args:
        filesystem: where it lies.
        folder: its path there.
        uri: how other processes reach it; None = the file system itself is sent to them.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str, uri: str | None = None) -> None:
        self.filesystem, self.folder, self.uri = filesystem, folder.rstrip("/"), uri

    @classmethod
    def at(cls, place: str, filesystem: fs.FileSystem | None = None) -> RemoteFolder | None:
        """The folder at a URI, or at a path of `filesystem`; None for a folder of this machine.

        Raises:
            ConfigError: pyarrow does not know the URI, or it holds a password.
        """
        if "://" not in place:
            return None if filesystem is None else cls(filesystem, place)
        if ":" in urlsplit(place).netloc.rpartition("@")[0] or (
            place.startswith("s3:") and "@" in urlsplit(place).netloc
        ):
            raise ConfigError(
                f"a place {urlsplit(place).scheme}://...@... with credentials in it",
                expected="credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...)",
                consequence="they would be saved with the configuration and shown in every log",
                remedy="leave out what stands before the @, and set the variables",
            )
        try:
            found, folder = fs.FileSystem.from_uri(place)
        except (pa.ArrowException, OSError, ValueError) as problem:
            raise ConfigError(
                f"{place}: {problem}",
                expected="a local path, or a URI that pyarrow knows: s3://, gs://, hdfs://, file://",
                consequence="nothing could be read or written there",
                remedy="correct the URI, or mount the storage and name the mounted path",
            ) from None
        if isinstance(found, fs.LocalFileSystem):
            return None
        parts = urlsplit(place)
        return cls(found, folder, urlunsplit(parts._replace(path=parts.path.rstrip("/"))))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.uri, self.filesystem if self.uri is None else None, self.folder)

    @property
    def name(self) -> str:
        """How people and other processes call it: a URI, or a path of the file system it was given with."""
        return self.uri or self.folder

    def below(self, relative: str) -> RemoteFolder:
        """A folder inside; itself for no path at all."""
        if not relative:
            return self
        uri = None if self.uri is None else joined(self.uri, relative)
        return RemoteFolder(self.filesystem, f"{self.folder}/{relative}" if self.folder else relative, uri)

    def above(self) -> RemoteFolder:
        """The folder that it lies in; itself for a bucket, and below the root of absolute paths."""
        folder, found, _ = self.folder.rpartition("/")
        if not folder and (found or self.uri):
            return self
        parts = urlsplit(self.uri or "")
        uri = self.uri and urlunsplit(parts._replace(path=parts.path.rpartition("/")[0]))
        return RemoteFolder(self.filesystem, folder, uri)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none.

        Raises:
            StorageError: it cannot be read.
        """
        with explained(f"{self.name}: {name} cannot be read"):
            try:
                return patiently(lambda: self._read(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Put a small file there, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        with explained(f"{self.name}: {name} cannot be written"):
            patiently(lambda: self._write(name, content))

    def files(self) -> list[str]:
        """Every file below, by its path from here.

        Raises:
            StorageError: the folder cannot be listed.
        """
        return [one.path for one in self._list(recursive=True) if one.is_file]

    def names(self) -> list[str]:
        """Names of the files and folders directly inside.

        Raises:
            StorageError: the folder cannot be listed.
        """
        return [one.path for one in self._list(recursive=False)]

    def folders(self) -> list[str]:
        """Names of the folders directly inside.

        Raises:
            StorageError: the folder cannot be listed.
        """
        return [one.path for one in self._list(recursive=False) if not one.is_file]

    def send(self, local: Path) -> None:
        """Put a local folder here, its manifest last.

        Raises:
            StorageError: it cannot be written.
        """
        names = sorted(path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())
        with explained(f"{local} cannot be sent to {self.name}"):
            if self.read(MANIFEST) is not None:
                patiently(lambda: self.filesystem.delete_file(f"{self.folder}/{MANIFEST}"))
            with ThreadPoolExecutor(STREAMS) as pool:
                list(pool.map(lambda name: self._send(local, name), (name for name in names if name != MANIFEST)))
            if MANIFEST in names:
                patiently(lambda: self._write(MANIFEST, (local / MANIFEST).read_bytes()))

    def fetch(self, local: Path) -> None:
        """Bring every file below into a local folder.

        Raises:
            StorageError: it cannot be read, or there is no room here.
        """
        with explained(f"{self.name} cannot be brought to {local}"):
            names = self.files()
            for folder in {(local / name).parent for name in names} | {local}:
                folder.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(STREAMS) as pool:
                list(pool.map(lambda name: self._fetch(local, name), names))

    def copy(self, target: RemoteFolder) -> None:
        """Copy every file to another folder of this file system, the manifest last; large ones go through this machine.

        Raises:
            StorageError: it cannot be copied.
        """
        with explained(f"{self.name} cannot be copied to {target.name}"):
            files = [one for one in self._list(recursive=True) if one.is_file]
            for one in sorted(files, key=lambda one: one.path == MANIFEST):
                paths = f"{self.folder}/{one.path}", f"{target.folder}/{one.path}"
                patiently(partial(copy_file, self.filesystem, *paths, one.num_bytes))

    def remove(self) -> None:
        """Remove the folder, its manifest first. One that is not there is no obstacle.

        Raises:
            StorageError: it cannot be removed.
        """
        with explained(f"{self.name} cannot be removed"):
            for act in (lambda: self.filesystem.delete_file(f"{self.folder}/{MANIFEST}"), self._delete):
                with contextlib.suppress(FileNotFoundError):
                    patiently(act)

    def _delete(self) -> None:
        self.filesystem.delete_dir(self.folder)

    def _list(self, *, recursive: bool) -> list[_Entry]:
        selector = fs.FileSelector(self.folder, allow_not_found=True, recursive=recursive)
        with explained(f"{self.name} cannot be listed"):
            found = patiently(lambda: self.filesystem.get_file_info(selector))
        start = len(self.folder) + 1 if self.folder else 0
        return sorted(_Entry(one.path[start:], one.type == fs.FileType.File, one.size or 0) for one in found)

    def _read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(f"{self.folder}/{name}") as stream:
            return bytes(stream.read())

    def _write(self, name: str, content: bytes) -> None:
        final, aside = f"{self.folder}/{name}", f"{self.folder}/.{name}.aside"
        make_room(self.filesystem, final)
        with self.filesystem.open_output_stream(aside) as stream:
            stream.write(content)
        self.filesystem.move(aside, final)

    def _send(self, local: Path, name: str) -> None:
        patiently(partial(send_file, local / name, self.filesystem, f"{self.folder}/{name}"))

    def _fetch(self, local: Path, name: str) -> None:
        patiently(partial(fetch_file, self.filesystem, f"{self.folder}/{name}", local / name))


class _Entry(NamedTuple):
    path: str
    is_file: bool
    num_bytes: int


def joined(place: str, relative: str) -> str:
    """A place inside another one, which is a path or a URI, perhaps with a query."""
    if "://" not in place:
        return f"{place.rstrip('/')}/{relative}"
    parts = urlsplit(place)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(relative)}"))


def _rebuilt(uri: str | None, filesystem: fs.FileSystem | None, folder: str) -> RemoteFolder:
    if uri is not None:
        filesystem, _ = fs.FileSystem.from_uri(uri)
    return RemoteFolder(filesystem, folder, uri)
