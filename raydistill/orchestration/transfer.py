"""One file from one place to another: to this machine, from it, or between two places of a file system elsewhere."""

from __future__ import annotations

from pathlib import Path

from pyarrow import fs

WITHOUT_FOLDERS = ("s3", "gcs", "abfs")
"""File systems whose folders need not be made before something is put into them."""
STREAMED_BYTES = 256 * 2**20
"""A file of more is copied through this machine: S3 copies none of more than 5 GiB by one request, and one that takes longer than its client waits for the first byte of the
answer, which is three seconds, is begun again and again."""
CHUNK_BYTES = 16 * 2**20


def send_file(local: Path, filesystem: fs.FileSystem, target: str) -> None:
    """Put a local file at a path of another file system."""
    make_room(filesystem, target)
    fs.copy_files(str(local), target, fs.LocalFileSystem(), filesystem, use_threads=False)


def fetch_file(filesystem: fs.FileSystem, source: str, local: Path) -> None:
    """Bring a file of another file system to a local path, whose folder is there."""
    fs.copy_files(source, str(local), filesystem, fs.LocalFileSystem(), use_threads=False)


def copy_file(filesystem: fs.FileSystem, source: str, target: str, num_bytes: int) -> None:
    """Copy a file of so many bytes to another path of its file system: by the file system itself, or through this machine."""
    make_room(filesystem, target)
    if num_bytes <= STREAMED_BYTES:
        filesystem.copy_file(source, target)
        return
    # Not by `copy_files`, which leaves it to the file system where both are one.
    with filesystem.open_input_stream(source) as read, filesystem.open_output_stream(target) as written:
        while chunk := read.read(CHUNK_BYTES):
            written.write(chunk)


def make_room(filesystem: fs.FileSystem, path: str) -> None:
    """Make the folder that a file is put into, where folders have to be made."""
    if filesystem.type_name not in WITHOUT_FOLDERS:
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
